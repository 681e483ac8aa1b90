// SPDX-License-Identifier: Apache-2.0

// Package stream is the contract between the proxy's codecs (HTTP/1.1 in connect/proxy/h1, HTTP/2 in connect/proxy/h2)
// and what moves requests from one side to the other. Both codecs give and take the same heads and bodies, so that an
// exchange doesn't ask which version it talks. It holds no code that touches a network and owns no goroutine.
//
// One goroutine owns an exchange's request direction and at most one other its response direction: methods that read a
// message (ReadBody, Trailers) may run at the same time as methods that write the other message, but no method may run
// at the same time as itself.
package stream

import (
	"context"
	"errors"
	"io"
	"strconv"

	"github.com/weftmesh/weft/connect/proxy/header"
)

// Proto is the version that a message came in or will leave in.
type Proto uint8

// The versions.
const (
	HTTP10 Proto = iota
	HTTP11
	HTTP2
)

func (p Proto) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	}
	return "HTTP/2"
}

// RequestHead is the head of a request, with its connection-specific fields taken out: Host or :authority is in Authority
// and not in Fields; Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding, Upgrade, HTTP2-Settings and
// Content-Length are not in Fields; TE is kept only as "trailers". Two lengths, two hosts, or a length beside chunked have
// been refused by the codec (RFC 9112 §6.3).
type RequestHead struct {
	Proto     Proto
	Method    string
	Scheme    string // "http" or "https"; of HTTP/2's :scheme, else by the connection
	Authority string
	Path      string // path and query as they came, never empty ("*" for OPTIONS *, "" only for CONNECT)
	Fields    header.List
	// Length is the body's length in bytes, 0 for none, -1 for unknown (chunked, or an HTTP/2 stream without a length).
	Length int64
	// Upgrade is the protocol that the client wants to change to ("websocket"), or "". HTTP/2's extended CONNECT
	// (RFC 8441) arrives as Method "GET" with Upgrade set, and leaves so that each version gets its own form.
	Upgrade        string
	ExpectContinue bool
}

// ResponseHead is the head of a response, with the same fields taken out as from a request.
type ResponseHead struct {
	Proto  Proto
	Status int
	Fields header.List
	// Length is the body's length, 0 for none, -1 for unknown (chunked, until close, or HTTP/2 without a length).
	// For a HEAD request or a 304 it is the length that the response states, and no body follows.
	Length int64
	// HasLength says that the length was stated (matters for HEAD and 304, and for a 200 with an empty body).
	HasLength bool
	Upgrade   string // with status 101 (or 200 to an extended CONNECT): both directions are raw bytes from here on
}

// Reset empties the head for reuse.
func (h *RequestHead) Reset() {
	f := h.Fields
	f.Reset()
	*h = RequestHead{Fields: f}
}

// Reset empties the head for reuse.
func (h *ResponseHead) Reset() {
	f := h.Fields
	f.Reset()
	*h = ResponseHead{Fields: f}
}

// Body reads one message's body. ReadBody returns io.EOF (with no bytes) after the last byte; Trailers is valid from then
// on and may be nil. Any other error says why the message was cut: a *ResetError where the peer said so.
// After an upgrade the body is the raw byte stream, and io.EOF is the peer's half close.
type Body interface {
	ReadBody(p []byte) (int, error)
	Trailers() *header.List
	// Buffered is how many bytes ReadBody would give without waiting; 0 may also mean "not known".
	Buffered() int
}

// ServerExchange is one request as its server sees it. Request stays valid until Close.
type ServerExchange interface {
	Body
	Request() *RequestHead
	// WriteInformational sends a 1xx other than 101.
	WriteInformational(*ResponseHead) error
	// WriteHead sends the response head. With end, the message has no body and is complete. The codec adds framing
	// (Content-Length or chunked), and leaves the body out where the method or status forbids one.
	// It may keep the head in its buffer until Flush, WriteBody of much, or Finish.
	WriteHead(h *ResponseHead, end bool) error
	WriteBody(p []byte) error
	// Flush sends what is buffered. Callers flush when the source has nothing more to give at once.
	Flush() error
	// Finish ends the response, with trailers if there are any (dropped for HTTP/1.0 and for a body with a stated
	// length), and flushes. After an upgrade it is the half close of this direction.
	Finish(trailers *header.List) error
	// Reset ends the exchange at once: HTTP/2 RST_STREAM with the code, HTTP/1 closing the connection.
	Reset(code Code)
	// Context ends when the peer goes away or resets.
	Context() context.Context
}

// ClientExchange is one request as its client sees it.
type ClientExchange interface {
	Body // of the response, after ReadHead
	// WriteHead sends the request head; end says that no body follows. Buffered like ServerExchange.WriteHead.
	WriteHead(h *RequestHead, end bool) error
	WriteBody(p []byte) error
	Flush() error
	Finish(trailers *header.List) error
	// ReadHead reads the next response head into h: informational heads (1xx but 101) each as one, then the final one.
	// An error that is ErrNotSent (errors.Is) promises that the server can't have acted on the request.
	ReadHead(h *ResponseHead) error
	Reset(code Code)
	// Close gives the exchange back. Where everything was read and written, an HTTP/1 connection may be used again:
	// reusable says so.
	Close() (reusable bool)
}

// Handler serves one exchange. When it returns, the exchange is over: the codec ends what isn't finished with a reset.
type Handler func(ServerExchange)

// Code is why an exchange was reset; values are those of RFC 9113 §7.
type Code uint32

// The codes that the proxy uses.
const (
	CodeNone         Code = 0x0
	CodeProtocol     Code = 0x1
	CodeInternal     Code = 0x2
	CodeFlowControl  Code = 0x3
	CodeStreamClosed Code = 0x5
	CodeRefused      Code = 0x7
	CodeCancel       Code = 0x8
	CodeEnhanceCalm  Code = 0xb
	CodeHTTP11Needed Code = 0xd
)

// ResetError is a message cut by its sender.
type ResetError struct {
	Code Code
}

func (e *ResetError) Error() string { return "reset by the peer, code " + strconv.Itoa(int(e.Code)) }

var (
	// ErrNotSent marks a failure of which it is certain that the server processed nothing (no byte of the request was
	// written, or the peer said so: REFUSED_STREAM, GOAWAY below this stream): a retry is safe for every method.
	ErrNotSent = errors.New("the request was not processed")
	// ErrTruncated is a body shorter than its framing promised.
	ErrTruncated = errors.New("the message ended before its stated end")
	// ErrMalformed marks a message that breaks the protocol; the wrapping error says how.
	ErrMalformed = errors.New("malformed message")
	// ErrTooLarge marks a head over its limit.
	ErrTooLarge = errors.New("message head over its limit")
)

// EOF is io.EOF, named here so that codecs and callers agree on the end of a body.
var EOF = io.EOF

// Limits bound what a peer may make a codec hold. The zero value means the defaults beside each field.
type Limits struct {
	HeadBytes      int // of one head, all fields with their names: 64 KiB
	Fields         int // of one head: 200
	Streams        int // concurrent, on one HTTP/2 connection: 250
	StreamWindow   int // HTTP/2 receive window per stream: 256 KiB
	ConnWindow     int // and per connection: 1 MiB
	ChunkExtension int // bytes of chunk extensions in one message: 4 KiB
}

// WithDefaults fills in what is zero.
func (l Limits) WithDefaults() Limits {
	for _, d := range []struct {
		v   *int
		def int
	}{
		{&l.HeadBytes, 64 << 10},
		{&l.Fields, 200},
		{&l.Streams, 250},
		{&l.StreamWindow, 256 << 10},
		{&l.ConnWindow, 1 << 20},
		{&l.ChunkExtension, 4 << 10},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return l
}
