// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"crypto/sha1" // #nosec G505 -- RFC 6455 §4.2.2 wants it; nothing is protected by it
	"encoding/base64"
	"errors"
	"fmt"
	"sync"

	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// maxInformational is how many 1xx heads one response may have.
const maxInformational = 32

// clientExch implements stream.ClientExchange.
type clientExch struct {
	exch
	headAt uint64 // where the head begins in what the writer was given

	// Of the goroutine that writes, then only read.
	isHead  bool
	upgrade string
	wsKey   string

	// Guarded by conn.mu.
	slot     bool // counts in Client.used
	gotFinal bool
	infos    int
	heads    []stream.ResponseHead // heads[next:] wait for ReadHead
	next     int
}

// clients keeps exchanges that ended in order, with the room of their lists.
var clients = sync.Pool{New: func() any {
	e := &clientExch{}
	e.cli = e
	return e
}}

func (e *clientExch) recycle() {
	heads := e.heads[:0]
	for i := range heads[:cap(heads)] {
		heads[:cap(heads)][i].Reset()
	}
	e.clear()
	e.headAt, e.isHead, e.upgrade, e.wsKey = 0, false, "", ""
	e.slot, e.gotFinal, e.infos, e.heads, e.next = false, false, 0, heads, 0
	clients.Put(e)
}

// WriteHead implements stream.ClientExchange. A head with Upgrade set leaves as extended CONNECT, once the server's
// settings are known. Its error is a stream.ErrNotSent: no byte of the head was written.
func (e *clientExch) WriteHead(h *stream.RequestHead, end bool) error {
	err := e.writeHead(h, end)
	if err != nil {
		c := e.c
		c.mu.Lock()
		c.failLocked(&e.exch, err)
		c.mu.Unlock()
		return err
	}
	if end {
		e.c.sent(&e.exch)
	}
	return nil
}

func (e *clientExch) writeHead(h *stream.RequestHead, end bool) error {
	if e.wroteHead {
		return fmt.Errorf("%w: a second head", stream.ErrMalformed)
	}
	if end && h.Length > 0 {
		return fmt.Errorf("%w: %w: a length of %d and no body", stream.ErrNotSent, stream.ErrMalformed, h.Length)
	}
	client := e.c.role.(*Client)
	if h.Upgrade != "" {
		if err := client.awaitConnect(&e.exch); err != nil {
			return err
		}
		e.upgrade = h.Upgrade
		if v, ok := h.Fields.Get("sec-websocket-key"); ok {
			e.wsKey = v
		}
	}
	e.wroteHead = true
	e.isHead = h.Method == "HEAD"
	if h.Length >= 0 && h.Upgrade == "" && h.Method != "CONNECT" && !end {
		e.left = h.Length
	}
	w := &e.c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return fmt.Errorf("%w: %w", stream.ErrNotSent, w.err)
	}
	if err := client.begin(e); err != nil {
		return err
	}
	w.request(e.id, h, end)
	return nil
}

// begin gives e its id; writer.mu is held, so that ids leave in order.
func (c *Client) begin(e *clientExch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.err != nil {
		return fmt.Errorf("%w: %w", stream.ErrNotSent, e.err)
	}
	if err := c.goneLocked(); err != nil {
		return err
	}
	e.id = c.nextID
	c.nextID += 2
	e.open = true
	e.headAt = c.w.appended
	e.sendWin, e.recvWin = c.peerInit, c.windowLocked()
	c.streams[e.id] = &e.exch
	c.conn.open.Add(1)
	c.control.earn(controlPerHead)
	return nil
}

// awaitConnect waits for the server's settings and says whether they allow extended CONNECT.
func (c *Client) awaitConnect(e *exch) error {
	_ = c.w.flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.settled && e.err == nil {
		if err := c.goneLocked(); err != nil {
			return err
		}
		c.changed.Wait()
	}
	if e.err != nil {
		return fmt.Errorf("%w: %w", stream.ErrNotSent, e.err)
	}
	if !c.canConnect {
		return fmt.Errorf("%w: %w", stream.ErrNotSent, ErrNoUpgrade)
	}
	return nil
}

// onResponse takes a response head.
func (c *Client) onResponse(e *clientExch, end bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !e.open {
		return nil
	}
	if c.in.tooLarge {
		return &streamError{e.id, stream.CodeCancel, "the response's head is over its limit", stream.ErrTooLarge}
	}
	h := e.slotLocked()
	if bad := c.in.response(h, end); bad != "" {
		e.heads = e.heads[:len(e.heads)-1]
		return badStream(e.id, stream.CodeProtocol, bad)
	}
	if h.Status < 200 {
		if e.infos++; e.infos > maxInformational && !guard.Off("C67") {
			return badStream(e.id, stream.CodeEnhanceCalm, "too many informational heads")
		}
		c.wakeLocked(&e.exch)
		return nil
	}
	e.gotFinal = true
	switch {
	case e.isHead || h.Status == 304 || h.Status == 204:
		e.remain = 0
	case e.upgrade != "" && h.Status < 300:
		h.Status, h.Upgrade, h.Length, h.HasLength = 101, e.upgrade, -1, false
		if e.wsKey != "" {
			h.Fields.Set("sec-websocket-accept", acceptKey(e.wsKey))
		}
	case h.HasLength:
		e.remain = h.Length
	}
	c.wakeLocked(&e.exch)
	if end {
		return c.conn.endLocked(&e.exch)
	}
	return nil
}

// slotLocked is room for one more head in the queue.
func (e *clientExch) slotLocked() *stream.ResponseHead {
	n := len(e.heads)
	if n < cap(e.heads) {
		e.heads = e.heads[:n+1]
	} else {
		e.heads = append(e.heads, stream.ResponseHead{})
	}
	return &e.heads[n]
}

// acceptKey is the answer to a Sec-WebSocket-Key (RFC 6455 §4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // #nosec G401
	return base64.StdEncoding.EncodeToString(sum[:])
}

// ReadHead implements stream.ClientExchange: h and what waits change places, nothing is copied. A final head with Length 0
// and without HasLength has ended the message: no body and no trailers follow (gRPC's "trailers-only" must be sent on so).
func (e *clientExch) ReadHead(h *stream.ResponseHead) error {
	c := e.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for e.next == len(e.heads) || errors.Is(e.err, errReset) {
		if e.err != nil {
			return e.err
		}
		if e.recvEnd {
			return fmt.Errorf("%w: no more heads", stream.ErrTruncated)
		}
		e.readable.Wait()
	}
	h.Reset()
	*h, e.heads[e.next] = e.heads[e.next], *h
	if e.next++; e.next == len(e.heads) {
		e.heads, e.next = e.heads[:0], 0
	}
	return nil
}

// Close implements stream.ClientExchange: what isn't finished is cancelled. The connection stays usable for others as long
// as Client.Usable says so, and reusable is that.
func (e *clientExch) Close() (reusable bool) {
	c := e.c.role.(*Client)
	reuse := c.release(&e.exch, stream.CodeCancel)
	c.mu.Lock()
	c.freeSlotLocked(e)
	ok := c.going == nil && !c.lost
	c.mu.Unlock()
	if reuse {
		e.recycle()
	}
	return ok
}

var _ stream.ClientExchange = (*clientExch)(nil)
