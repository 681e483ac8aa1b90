// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"
	"fmt"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

var (
	// ErrClosed marks a connection that this side has closed or drained.
	ErrClosed = errors.New("the HTTP/2 connection is closed")
	// ErrNoUpgrade marks a request to change the protocol on a connection whose server hasn't enabled extended CONNECT
	// (RFC 8441). Nothing was sent: the error is also a stream.ErrNotSent.
	ErrNoUpgrade = errors.New("the HTTP/2 server doesn't take extended CONNECT")
	// ErrTimeout marks a connection given up because the peer didn't answer in time: no preface, no answer to PING, or a
	// head begun and not ended.
	ErrTimeout = errors.New("the HTTP/2 peer didn't answer in time")
)

// ConnError is an HTTP/2 connection ended for a breach of the protocol, found by this side or stated by the peer's GOAWAY.
type ConnError struct {
	Code   stream.Code
	Reason string
	Remote bool // the peer said so
}

func (e *ConnError) Error() string {
	who := "the peer broke HTTP/2"
	if e.Remote {
		who = "the peer ended the HTTP/2 connection"
	}
	return fmt.Sprintf("%s: %s (code %#x)", who, e.Reason, uint32(e.Code))
}

// Unwrap makes breaches found by this side match stream.ErrMalformed.
func (e *ConnError) Unwrap() error {
	if e.Remote {
		return nil
	}
	return stream.ErrMalformed
}

// streamError is a breach that ends one stream.
type streamError struct {
	id     uint32
	code   stream.Code
	reason string
	cause  error // nil for stream.ErrMalformed
}

func (e *streamError) Error() string {
	return fmt.Sprintf("stream %d: %s (code %#x)", e.id, e.reason, uint32(e.code))
}

func (e *streamError) Unwrap() error {
	if e.cause != nil {
		return e.cause
	}
	return stream.ErrMalformed
}

func badStream(id uint32, code stream.Code, reason string) error {
	return &streamError{id: id, code: code, reason: reason}
}

func broken(code stream.Code, reason string) error { return &ConnError{Code: code, Reason: reason} }

// Codes of RFC 9113 §7 that the contract has no name for.
const (
	codeFrameSize   stream.Code = 0x6
	codeCompression stream.Code = 0x9
)
