// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

const (
	maxInterned   = 512
	maxIndexedLen = 128
)

// interner keeps one copy of each name and often-seen value that a connection sends: HPACK's table holds strings for as
// long as the connection lives, and a string that is a part of a whole head would keep all of that head.
type interner struct {
	m map[string]string
}

// name is s in lower case.
func (t *interner) name(s string) string {
	if v, ok := t.m[s]; ok {
		return v
	}
	v := strings.ToLower(s)
	return t.put(s, strings.Clone(v))
}

func (t *interner) value(s string) string {
	if v, ok := t.m[s]; ok {
		return v
	}
	v := strings.Clone(s)
	return t.put(v, v)
}

func (t *interner) put(k, v string) string {
	if len(t.m) >= maxInterned {
		clear(t.m)
	}
	if t.m == nil {
		t.m = map[string]string{}
	}
	if len(k) <= maxIndexedLen {
		t.m[strings.Clone(k)] = v
	}
	return v
}

// field encodes one field. Values that differ from request to request, and secrets, stay out of HPACK's table: they would
// push out what does repeat, and secrets there can be guessed by length (RFC 7541 §7.1).
func (w *writer) field(name, value string) {
	once := len(value) > maxIndexedLen || unlikelyAgain(name, value)
	if !once {
		value = w.values.value(value)
	}
	_ = w.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: once})
}

func unlikelyAgain(name, value string) bool {
	switch name {
	case "content-length", "date", "etag", "last-modified", "if-none-match", "if-modified-since", "location", "age", "cookie",
		"set-cookie", "authorization", "proxy-authorization", "traceparent", "tracestate", "x-request-id", "x-b3-traceid",
		"x-b3-spanid", "x-b3-parentspanid", "grpc-timeout", "grpc-trace-bin", "sec-websocket-accept", "range", "content-range":
		return true
	case ":path":
		return strings.ContainsAny(value, "?0123456789")
	}
	return false
}

// number is n as text that lives until the next call.
func (w *writer) number(name string, n int64) {
	b := strconv.AppendInt(w.digits[:0], n, 10)
	_ = w.enc.WriteField(hpack.HeaderField{Name: name, Value: string(b), Sensitive: true})
}

// fields encodes a list, without what HTTP/2 has no place for and what the codec states itself.
func (w *writer) fields(l *header.List, skip func(name string) bool) {
	for i := range l.Len() {
		f := l.At(i)
		name := w.names.name(f.Name)
		switch name {
		case "", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings", "host",
			"content-length":
			continue
		case "te":
			if !header.EqualFold(f.Value, "trailers") {
				continue
			}
		}
		if skip != nil && skip(name) {
			continue
		}
		w.field(name, f.Value)
	}
}

func notForUpgrade(name string) bool {
	return name == "sec-websocket-key" || name == "sec-websocket-accept"
}

// request appends e's request head as stream id.
func (w *writer) request(id uint32, h *stream.RequestHead, end bool) {
	w.block.Reset()
	scheme := h.Scheme
	if scheme == "" {
		scheme = "http"
	}
	var skip func(string) bool
	switch {
	case h.Upgrade != "":
		skip = notForUpgrade
		w.field(":method", "CONNECT")
		w.field(":protocol", h.Upgrade)
	default:
		w.field(":method", h.Method)
	}
	if h.Method != "CONNECT" {
		w.field(":scheme", scheme)
		w.field(":path", h.Path)
	}
	w.field(":authority", h.Authority)
	w.fields(&h.Fields, skip)
	if h.ExpectContinue && h.Fields.Index("expect", 0) < 0 {
		w.field("expect", "100-continue")
	}
	if h.Length > 0 || (h.Length == 0 && lengthWanted(h.Method)) {
		if h.Upgrade == "" && h.Method != "CONNECT" {
			w.number("content-length", h.Length)
		}
	}
	w.headers(id, end)
}

// lengthWanted is for methods whose empty body is worth stating (RFC 9110 §8.6).
func lengthWanted(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// response appends e's response head.
func (w *writer) response(e *exch, h *stream.ResponseHead, end bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.stopped(e); err != nil {
		return err
	}
	w.block.Reset()
	status := h.Status
	var skip func(string) bool
	if status == 101 {
		status, skip = 200, notForUpgrade
	}
	_ = w.enc.WriteField(hpack.HeaderField{Name: ":status", Value: statusText(status)})
	w.fields(&h.Fields, skip)
	if (h.HasLength || h.Length > 0) && h.Length >= 0 && status >= 200 && status != 204 && h.Status != 101 {
		w.number("content-length", h.Length)
	}
	w.headers(e.id, end)
	return nil
}

// trailers appends a last head for e's side.
func (w *writer) trailers(e *exch, l *header.List) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.stopped(e); err != nil {
		return err
	}
	w.block.Reset()
	w.fields(l, barredTrailer)
	if w.block.Len() == 0 { // all were dropped
		w.frame(0, 1, e.id, 0)
		return nil
	}
	w.headers(e.id, true)
	return nil
}

// statusText gives the usual ones without an allocation.
func statusText(code int) string {
	switch code {
	case 200:
		return "200"
	case 204:
		return "204"
	case 304:
		return "304"
	case 404:
		return "404"
	case 503:
		return "503"
	}
	return strconv.Itoa(code)
}
