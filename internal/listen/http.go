// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/logs"
)

const plainHTTPAnswer = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" +
	"This port speaks HTTPS, and the request came as plain HTTP. Use https:// instead.\n"

// HTTPServer returns a server for a listener of that spec, not started: call
// Serve with what Stream returned. It speaks HTTP/1.1, HTTP/2 over TLS (where
// the TLS configuration offers "h2") and HTTP/2 without TLS by prior knowledge.
// Header and idle limits are the spec's. A request that declares a longer body
// than allowed gets 413 and never reaches h; one that sends more than allowed
// without a declaration makes h's read fail with *http.MaxBytesError. Responses
// have no deadline: blocking queries are long.
func (d *Door) HTTPServer(spec Spec, h http.Handler) *http.Server {
	lim := spec.Limits.withDefaults()
	s := &http.Server{
		Handler:           d.limitBody(spec, lim, h),
		ReadHeaderTimeout: max(lim.HeaderTimeout, 0),
		IdleTimeout:       max(lim.IdleTimeout, 0),
		MaxHeaderBytes:    lim.MaxHeaderBytes,
		ErrorLog:          logs.Std(d.log.With("listener", spec.Name), slog.LevelDebug, "http server"),
		Protocols:         new(http.Protocols),
		ConnContext:       withCaller,
	}
	if lim.MaxHeaderBytes < 0 {
		s.MaxHeaderBytes = 1 << 30
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

func (d *Door) limitBody(spec Spec, lim Limits, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if spec.Brief != nil && r.ProtoMajor == 1 && spec.Brief(r) {
			if c, ok := r.Context().Value(callerKey{}).(*Conn); ok {
				c.unwatched.Store(true)
				defer c.unwatched.Store(false)
			}
		}
		limit := lim.MaxBodyBytes
		if spec.BodyLimit != nil {
			limit = orDefault(spec.BodyLimit(r), limit)
		}
		if limit < 0 || r.Body == http.NoBody || guard.Off("C72") {
			h.ServeHTTP(w, r)
			return
		}
		if r.ContentLength > limit {
			d.metrics.refused.WithLabelValues(spec.Name, reasonBody).Inc()
			w.Header().Set("Connection", "close")
			http.Error(w, TooLarge(r.ContentLength, limit), http.StatusRequestEntityTooLarge)
			return
		}
		if r.ContentLength <= 0 { // else net/http gives no more of it than it says
			r.Body = http.MaxBytesReader(w, r.Body, limit) // net/http keeps what it has to end itself
		}
		h.ServeHTTP(w, r)
	})
}

// TooLarge is the text for a body over its limit; a size below 0 is unknown.
// Handlers use it to answer an *http.MaxBytesError.
func TooLarge(size, limit int64) string {
	if size < 0 {
		return fmt.Sprintf("the request body is larger than the limit of %d bytes: send less, or split it into several requests", limit)
	}
	return fmt.Sprintf("the request body of %d bytes is larger than the limit of %d bytes: send less, or split it into several requests", size, limit)
}

// RejectHTTP returns a Spec.Reject that answers HTTP/1.1 clients with 429, a
// Retry-After of one second, and text.
func RejectHTTP(text string) func(net.Conn) {
	answer := fmt.Sprintf("HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Content-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s", len(text), text)
	return func(c net.Conn) {
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
		// Closed with unread bytes a socket sends a reset, which can destroy the
		// answer on its way. So read on until the client closes, within the deadline.
		if w, ok := c.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil {
			io.Copy(io.Discard, io.LimitReader(c, 64<<10)) //nolint:errcheck // a courtesy
		}
	}
}

// looksLikeHTTP says whether a TLS record's first five bytes are a request line.
func looksLikeHTTP(head [5]byte) bool {
	for _, m := range []string{"GET /", "HEAD ", "POST ", "PUT /", "DELET", "OPTIO", "PATCH", "PRI *"} {
		if strings.HasPrefix(string(head[:]), m) {
			return true
		}
	}
	return false
}
