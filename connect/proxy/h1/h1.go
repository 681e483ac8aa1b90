// SPDX-License-Identifier: Apache-2.0

// Package h1 is the HTTP/1.1 codec of the proxy's data path (RFC 9112): it turns a connection's bytes into the heads and
// bodies of connect/proxy/stream and back, as a server (Serve) and as a client (Client).
//
// It is strict where two readings of the same bytes could differ: what it doesn't accept it refuses with an error that
// says why, and a connection on which something was refused is closed. It doesn't route, authorise, retry, time requests
// or normalise paths: the exchange engine does, with what the codec hands it.
//
// Goroutines: Serve runs on its caller's goroutine. The one exception is a watch for a client that hangs up while a
// response is awaited; it exists only for exchanges longer than a few milliseconds whose Context was asked for, and has
// ended when the exchange has. A Client starts none.
//
// Memory: a connection that waits (idle, or for a response head) holds no buffer. A head costs one allocation, the string
// that all its fields are parts of; everything else is reused from exchange to exchange.
package h1

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

var (
	// ErrStale marks a reused connection that ended after the request was written and before a byte of the response
	// came. The server most likely closed it while idle, but it may have acted: only an idempotent request may be
	// sent again.
	ErrStale = errors.New("the reused connection ended before the response began")
	// ErrSpent is given by an exchange that can't be used: its connection is busy, was closed, or was reset.
	ErrSpent = errors.New("the connection can't carry another exchange")
)

// ProtocolError is a message that the codec refuses. It is stream.ErrMalformed or stream.ErrTooLarge (errors.Is).
type ProtocolError struct {
	Status int    // what a server answers with: 400, 408, 414, 417, 431, 501 or 505
	What   string // what was wrong; never holds bytes of the message
	Kind   error
}

func (e *ProtocolError) Error() string { return e.Kind.Error() + ": " + e.What }

// Unwrap gives stream.ErrMalformed or stream.ErrTooLarge.
func (e *ProtocolError) Unwrap() error { return e.Kind }

func malformed(what string) error {
	return &ProtocolError{Status: 400, What: what, Kind: stream.ErrMalformed}
}

func refused(status int, what string) error {
	return &ProtocolError{Status: status, What: what, Kind: stream.ErrMalformed}
}

func tooLarge(status int, what string) error {
	return &ProtocolError{Status: status, What: what, Kind: stream.ErrTooLarge}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func truncated(where string) error { return fmt.Errorf("%w: in %s", stream.ErrTruncated, where) }

// past is a deadline that ends a read which is under way, or the next one, at once.
var past = time.Unix(1, 0)

// Wake ends the wait of a connection that Serve reported as StateIdle, so that it looks at Closing again. Set what
// Closing reports first. A request whose first bytes arrive at the same moment is served.
func Wake(conn net.Conn) { _ = conn.SetReadDeadline(past) }

// socketOf is the socket that a connection is read from and written to as it is; the connection itself where there is none beneath.
func socketOf(conn net.Conn) net.Conn {
	if s, ok := conn.(interface{ Socket() net.Conn }); ok {
		return s.Socket()
	}
	return conn
}

// abort closes a connection so that its peer can tell the end from a regular one: TCP sends a reset, TLS no close_notify.
func abort(conn net.Conn) {
	inner := conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok && t.NetConn() != nil {
		inner = t.NetConn()
	}
	if t, ok := inner.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0)
	}
	_ = inner.Close()
	if inner != conn {
		_ = conn.Close()
	}
}

// closeWrite half-closes, or closes where the connection knows no half close.
func closeWrite(conn net.Conn) error {
	if t, ok := conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return conn.Close()
}
