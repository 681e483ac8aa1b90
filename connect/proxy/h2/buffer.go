// SPDX-License-Identifier: Apache-2.0

package h2

import "sync"

// Pools hold spare memory only: nothing is remembered in them.
var (
	smallChunks  = sync.Pool{New: func() any { return &chunk{b: make([]byte, 2<<10)} }}
	largeChunks  = sync.Pool{New: func() any { return &chunk{b: make([]byte, 16<<10)} }}
	writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}
)

// chunk is a piece of a body that waits for its reader: b[r:w] is unread.
type chunk struct {
	b    []byte
	r, w int
	next *chunk
}

func newChunk(want int) *chunk {
	if want <= 2<<10 {
		return smallChunks.Get().(*chunk)
	}
	return largeChunks.Get().(*chunk)
}

func (k *chunk) free() {
	k.r, k.w, k.next = 0, 0, nil
	if len(k.b) <= 2<<10 {
		smallChunks.Put(k)
		return
	}
	largeChunks.Put(k)
}

// buffer is the received and not yet read part of a body. Each chunk but the last is full, so that what it holds is at
// most the flow-control window plus one chunk, however small the frames were. While filling is set, the connection's
// reader writes behind tail.w without the lock, and nobody else may free the tail.
type buffer struct {
	head, tail *chunk
	n          int
	filling    bool
}

// reserve gives room for at most want bytes; commit must follow.
func (b *buffer) reserve(want int) []byte {
	if b.tail == nil || b.tail.w == len(b.tail.b) {
		k := newChunk(want)
		if b.tail == nil {
			b.head = k
		} else {
			b.tail.next = k
		}
		b.tail = k
	}
	b.filling = true
	room := b.tail.b[b.tail.w:]
	return room[:min(want, len(room))]
}

// commit makes n reserved bytes readable.
func (b *buffer) commit(n int) {
	b.filling = false
	b.tail.w += n
	b.n += n
}

// peek is the first unread piece; it stays valid until advance.
func (b *buffer) peek() []byte {
	if b.head == nil {
		return nil
	}
	return b.head.b[b.head.r:b.head.w]
}

// advance drops n bytes of the first piece and frees what is read.
func (b *buffer) advance(n int) {
	k := b.head
	k.r += n
	b.n -= n
	if k.r < k.w || (k == b.tail && b.filling) {
		return
	}
	if b.head = k.next; b.head == nil {
		b.tail = nil
	}
	k.free()
}

// drop frees everything and says how many bytes were unread. It must not be called while filling.
func (b *buffer) drop() int {
	n := b.n
	for k := b.head; k != nil; {
		next := k.next
		k.free()
		k = next
	}
	*b = buffer{}
	return n
}
