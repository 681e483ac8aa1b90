// SPDX-License-Identifier: Apache-2.0

package mux

import "sync"

const (
	smallPiece = 4 << 10
	largePiece = 16 << 10
)

var (
	smallPieces = sync.Pool{New: func() any { return new([smallPiece]byte) }}
	largePieces = sync.Pool{New: func() any { return new([largePiece]byte) }}
)

// pieces are bytes that weren't read yet, in buffers that are borrowed.
type pieces struct {
	list  [][]byte // each from the array's beginning; its capacity says which one it is
	r     int      // what of the first was read
	n     int
	kept  int       // bytes of the buffers
	first [1][]byte // list's room as a rule
}

func (q *pieces) add(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		if last := len(q.list) - 1; last >= 0 {
			b := q.list[last]
			m := copy(b[len(b):cap(b)], p)
			q.list[last] = b[:len(b)+m]
			if p = p[m:]; len(p) == 0 {
				return
			}
		}
		if q.list == nil {
			q.list = q.first[:0]
		}
		if len(q.list) == 0 && len(p) <= smallPiece {
			q.list = append(q.list, smallPieces.Get().(*[smallPiece]byte)[:0])
			q.kept += smallPiece
		} else {
			q.list = append(q.list, largePieces.Get().(*[largePiece]byte)[:0])
			q.kept += largePiece
		}
	}
}

func (q *pieces) take(p []byte) (n int) {
	for n < len(p) && q.n > 0 {
		m := copy(p[n:], q.list[0][q.r:])
		n += m
		q.n -= m
		if q.r += m; q.r == len(q.list[0]) {
			q.shift()
		}
	}
	return n
}

func (q *pieces) shift() {
	q.kept -= cap(q.list[0])
	giveBack(q.list[0])
	q.list[0] = nil
	q.list, q.r = q.list[1:], 0
	if len(q.list) == 0 {
		q.list = nil
	}
}

func giveBack(b []byte) {
	switch cap(b) {
	case smallPiece:
		smallPieces.Put((*[smallPiece]byte)(b[:smallPiece]))
	case largePiece:
		largePieces.Put((*[largePiece]byte)(b[:largePiece]))
	}
}

func (q *pieces) drop() {
	for len(q.list) > 0 {
		q.shift()
	}
	q.n = 0
}
