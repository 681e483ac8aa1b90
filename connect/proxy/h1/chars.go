// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/internal/guard"
)

const (
	charToken  = 1 << iota // RFC 9110 §5.6.2 tchar
	charValue              // of a field value: HTAB, SP, VCHAR, obs-text
	charTarget             // of a request target: VCHAR but '#'
)

// charKinds says for each byte where it may stand.
var charKinds = func() (t [256]uint8) {
	for c := 0x21; c < 0x7f; c++ {
		t[c] = charValue | charTarget
	}
	if !guard.Off("C6") {
		t['#'] &^= charTarget
	}
	for c := 0x80; c <= 0xff; c++ {
		t[c] = charValue
	}
	t[' '], t['\t'] = charValue, charValue
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] |= charToken
	}
	return t
}()

func allOf(s string, kind uint8) bool {
	for i := 0; i < len(s); i++ {
		if charKinds[s[i]]&kind == 0 {
			return false
		}
	}
	return true
}

// isValue is allOf(s, charValue), eight bytes at a time: each value is looked at when it is read and again when it is written, and most of a
// head is values.
func isValue(s string) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(s) >= 8 {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		del := w ^ ones*0x7f
		if ((w-ones*' ')&^w|(del-ones)&^del)&highs != 0 && !allOf(s[:8], charValue) { // a tab is allowed
			return false
		}
		s = s[8:]
	}
	return allOf(s, charValue)
}

func isToken(s string) bool { return s != "" && allOf(s, charToken) }

func trimOWS(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// nextItem cuts the first item off a comma-separated list.
func nextItem(s string) (item, rest string) {
	for i := 0; i < len(s); i++ {
		if s[i] == ',' {
			return trimOWS(s[:i]), s[i+1:]
		}
	}
	return trimOWS(s), ""
}

// fieldKind tells the fields that the codec itself has to do with.
type fieldKind uint8

const (
	fieldOther fieldKind = iota
	fieldHost
	fieldConnection
	fieldContentLength
	fieldTransferEncoding
	fieldTE
	fieldUpgrade
	fieldExpect
	fieldHop // Keep-Alive, Proxy-Connection, HTTP2-Settings: dropped
)

// kindOf looks at the length first, so that nearly every field costs one comparison.
func kindOf(name string) fieldKind {
	switch len(name) {
	case 2:
		if header.EqualFold(name, "te") {
			return fieldTE
		}
	case 4:
		if header.EqualFold(name, "host") {
			return fieldHost
		}
	case 6:
		if header.EqualFold(name, "expect") {
			return fieldExpect
		}
	case 7:
		if header.EqualFold(name, "upgrade") {
			return fieldUpgrade
		}
	case 10:
		if header.EqualFold(name, "connection") {
			return fieldConnection
		}
		if header.EqualFold(name, "keep-alive") {
			return fieldHop
		}
	case 14:
		if header.EqualFold(name, "content-length") {
			return fieldContentLength
		}
		if header.EqualFold(name, "http2-settings") {
			return fieldHop
		}
	case 16:
		if header.EqualFold(name, "proxy-connection") {
			return fieldHop
		}
	case 17:
		if header.EqualFold(name, "transfer-encoding") {
			return fieldTransferEncoding
		}
	}
	return fieldOther
}

// keepOnNomination are the fields that a Connection field can't take out of a message: who calls, for whom, and what the
// content is are for the far end (RFC 9110 §7.6.1 forbids to nominate them), and so is what proxies tell each other.
var keepOnNomination = []string{
	"authorization", "cookie", "set-cookie", "cache-control", "content-type", "content-encoding", "content-language",
	"content-location", "content-range", "range", "date", "etag", "location", "origin", "referer", "vary", "via",
	"traceparent", "tracestate", "baggage", "x-request-id", "x-real-ip", "trailer", "max-forwards",
	"grpc-timeout", "grpc-encoding", "grpc-status", "grpc-message", "age", "expires", "www-authenticate",
}

func keptOnNomination(name string) bool {
	if guard.Off("C31") {
		return false
	}
	for _, k := range keepOnNomination {
		if header.EqualFold(name, k) {
			return true
		}
	}
	return header.Vouches(name) || header.HasPrefixFold(name, "x-b3-")
}

// notInTrailers are the fields that frame, route or authorise a message and so can't come after it (RFC 9110 §6.5.1).
var notInTrailers = []string{
	"trailer", "authorization", "proxy-authorization", "proxy-authenticate", "www-authenticate", "cookie", "set-cookie",
	"content-type", "content-encoding", "content-range", "cache-control", "max-forwards", "range", "if-match",
	"if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "age", "expires", "date", "location",
	"retry-after", "vary", "warning", "pragma",
}

func forbiddenTrailer(name string) bool {
	if guard.Off("C49") {
		return false
	}
	if kindOf(name) != fieldOther {
		return true
	}
	for _, k := range notInTrailers {
		if header.EqualFold(name, k) {
			return true
		}
	}
	return header.Vouches(name)
}
