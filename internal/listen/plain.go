// SPDX-License-Identifier: Apache-2.0

package listen

import "time"

// Plain says whether a listener with TLS takes connections in plain text.
type Plain uint8

// The ways. With PlainToo a connection's first byte decides; one that says nothing for a while is plain, because there are
// protocols in which the server speaks first. What can't be looked at is taken as TLS.
const (
	PlainNever Plain = iota
	PlainToo
	PlainOnly
)

const (
	plainWait       = 2 * time.Second
	recordHandshake = 22 // RFC 8446 §5.1
)

// plain says whether a connection is to be handed over as it is.
func (l *Listener) plain(c *Conn) bool {
	if l.spec.Plain == nil {
		return false
	}
	switch l.spec.Plain() {
	case PlainOnly:
		return true
	case PlainToo:
		first, said, ok := peek(c.Conn, plainWait)
		return ok && (!said || first != recordHandshake)
	}
	return false
}

// serve hands a connection to Accept: by TLS once its peer is known, plain as it is.
func (l *Listener) serve(c *Conn) {
	if !l.plain(c) {
		l.handshake(c)
		return
	}
	select {
	case l.ready <- c:
	case <-l.ctx.Done():
		l.refuse(reasonClosing)
		c.Close() //nolint:errcheck // nothing can be done about it
	}
}
