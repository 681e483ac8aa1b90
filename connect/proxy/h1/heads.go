// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"errors"
	"sync/atomic"
)

// Heads bounds what requests' heads take that have begun and aren't there as a whole, on all connections that share it: for whoever can have many more
// connections than sockets. Where that is too much, a connection is closed on which one has begun. The zero value is ready for use.
type Heads struct{ bytes atomic.Int64 }

const (
	maxHeads = 12 << 20
	headCost = 16 << 10 // of one that is waited for, beside its buffer: most of it the stack
)

var errHeads = errors.New("more heads have begun than are waited for")

// waits notes that the head isn't there yet; false: it isn't waited for.
func (r *reader) waits() bool {
	if r.heads == nil {
		return true
	}
	more := int64(len(r.buf)) + headCost - r.headBytes
	if r.heads.bytes.Add(more) > maxHeads {
		r.heads.bytes.Add(-more)
		return false
	}
	r.headBytes += more
	return true
}

// here says whether more of the head has come, so that it needn't be waited for.
func (r *reader) here() bool {
	c, ok := r.conn.(interface{ Unread() int })
	return ok && c.Unread() > 0
}

// waited notes that nothing is waited for any more.
func (r *reader) waited() {
	if r.headBytes != 0 {
		r.heads.bytes.Add(-r.headBytes)
		r.headBytes = 0
	}
}
