// SPDX-License-Identifier: Apache-2.0

package opening

import (
	"bytes"
)

// Protocol is what a connection speaks.
type Protocol uint8

// The protocols. Opaque is what is none of the others; ServerFirst is that the server speaks before the client does.
const (
	Unknown Protocol = iota // nothing was seen yet
	Opaque
	ServerFirst
	TLS
	HTTP1
	HTTP2
	Protocols // how many there are
)

var names = [Protocols]string{"unknown", "tcp", "tcp, the server speaks first", "tls", "http", "http2"}

func (p Protocol) String() string { return names[p] }

// HTTP says whether requests can be told apart.
func (p Protocol) HTTP() bool { return p == HTTP1 || p == HTTP2 }

// prefaceLine is the first line of HTTP/2's preface; no other protocol begins with it (RFC 9113 §3.4).
const prefaceLine = "PRI * HTTP/2.0\r\n"

const maxMethod = 32

// Of says what a client speaks whose first read gave these bytes. It is HTTP/1 only with a whole request line, and only where
// nothing is lost by taking it as HTTP: a CONNECT, or a change to another protocol than websocket, is Opaque.
func Of(b []byte) Protocol {
	switch {
	case len(b) == 0:
		return Unknown
	case bytes.HasPrefix(b, []byte(prefaceLine)):
		return HTTP2
	case len(b) >= 3 && b[0] == recordHandshake && b[1] == 3 && b[2] <= 4:
		return TLS
	}
	line, rest, ok := bytes.Cut(b, []byte("\r\n"))
	if !ok || !requestLine(line) || upgrades(rest) {
		return Opaque
	}
	return HTTP1
}

// requestLine is that of RFC 9112 §3, in the versions that there are.
func requestLine(line []byte) bool {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(method) == 0 || len(method) > maxMethod || string(method) == "CONNECT" {
		return false
	}
	for _, c := range method {
		if (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	target, version, ok := bytes.Cut(rest, []byte(" "))
	return ok && len(target) > 0 && (string(version) == "HTTP/1.1" || string(version) == "HTTP/1.0")
}

// upgrades says whether the fields ask for a change to another protocol than websocket.
func upgrades(fields []byte) bool {
	for line := range bytes.SplitSeq(fields, []byte("\r\n")) {
		if len(line) == 0 {
			return false
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("upgrade")) && !bytes.EqualFold(bytes.TrimSpace(value), []byte("websocket")) {
			return true
		}
	}
	return false
}
