// SPDX-License-Identifier: Apache-2.0

package api

import (
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// minCompressed is the smallest answer that is worth compressing, where its size is known.
const minCompressed = 1 << 10

// compressor compresses answers for those who accept that.
type compressor struct{ pool sync.Pool }

// wrap gives a writer that compresses what the handler writes, if the client accepts it; end must be called after the handler.
func (c *compressor) wrap(w http.ResponseWriter, r *http.Request) (out http.ResponseWriter, end func()) {
	w.Header()["Vary"] = append(w.Header()["Vary"], "Accept-Encoding")
	if !acceptsGzip(r.Header.Get("Accept-Encoding")) || r.Method == http.MethodHead {
		return w, func() {}
	}
	z := &gzipped{ResponseWriter: w, c: c}
	return z, z.end
}

// acceptsGzip reads an Accept-Encoding header.
func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		coding, params, _ := strings.Cut(part, ";")
		if coding = strings.TrimSpace(coding); !strings.EqualFold(coding, "gzip") && coding != "*" {
			continue
		}
		_, q, ok := strings.Cut(params, "q=")
		weight, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return !ok || err == nil && weight > 0
	}
	return false
}

// gzipped decides with the first byte whether to compress.
type gzipped struct {
	http.ResponseWriter
	c       *compressor
	decided bool
	zip     *gzip.Writer // nil: as it is
	code    int
}

func (z *gzipped) WriteHeader(code int) {
	if code < 200 { // more is to come
		z.ResponseWriter.WriteHeader(code)
		return
	}
	if !z.decided && z.code == 0 {
		z.code = code
	}
}

// decide sends the header; size is that of the first piece.
func (z *gzipped) decide(size int) {
	z.decided = true
	h := z.Header()
	if n, err := strconv.Atoi(h.Get("Content-Length")); err == nil {
		size = n
	}
	plain := h.Get("Content-Encoding") != "" || strings.Contains(h.Get("Content-Type"), "gzip") || size < minCompressed ||
		z.code == http.StatusNoContent || z.code == http.StatusNotModified
	if !plain {
		if h.Get("Content-Type") == "" {
			h.Set("Content-Type", "text/plain; charset=utf-8") // it can't be guessed from what is compressed
		}
		h.Del("Content-Length")
		h.Set("Content-Encoding", "gzip")
		zip, ok := z.c.pool.Get().(*gzip.Writer)
		if !ok {
			zip = gzip.NewWriter(nil)
		}
		zip.Reset(z.ResponseWriter)
		z.zip = zip
	}
	if z.code != 0 {
		z.ResponseWriter.WriteHeader(z.code)
	}
}

func (z *gzipped) Write(p []byte) (int, error) {
	if !z.decided {
		z.decide(len(p))
	}
	if z.zip == nil {
		return z.ResponseWriter.Write(p)
	}
	return z.zip.Write(p)
}

// Flush is for streams: each piece goes out as it comes.
func (z *gzipped) Flush() {
	if !z.decided {
		z.decide(minCompressed) // a stream may become long
	}
	if z.zip != nil {
		_ = z.zip.Flush() // the client may be gone
	}
	_ = http.NewResponseController(z.ResponseWriter).Flush() // the same
}

// Unwrap is for http.ResponseController.
func (z *gzipped) Unwrap() http.ResponseWriter { return z.ResponseWriter }

func (z *gzipped) end() {
	if !z.decided {
		z.decide(0)
	}
	if z.zip != nil {
		_ = z.zip.Close() // the client may be gone
		z.zip.Reset(nil)
		z.c.pool.Put(z.zip)
		z.zip = nil
	}
}
