// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"net/http"
)

// Recorder is a http.ResponseWriter into memory, for who asks a handler in this process and wants its whole answer.
type Recorder struct {
	Code    int
	Body    bytes.Buffer
	TooLong bool // the answer was longer than it may be; Body is what came before

	header http.Header
	max    int
}

// Record has a handler answer a request. An answer of more than max bytes is cut off; 0 is no bound.
func Record(h http.Handler, r *http.Request, max int) *Recorder {
	w := &Recorder{Code: http.StatusOK, header: http.Header{}, max: max}
	h.ServeHTTP(w, r)
	return w
}

// Header is the answer's header.
func (w *Recorder) Header() http.Header { return w.header }

// WriteHeader notes the answer's status; those that only come before it are passed over.
func (w *Recorder) WriteHeader(code int) {
	if code >= http.StatusOK {
		w.Code = code
	}
}

// Flush does nothing: all of the answer is waited for.
func (w *Recorder) Flush() {}

func (w *Recorder) Write(p []byte) (int, error) {
	if w.max > 0 && w.Body.Len()+len(p) > w.max {
		w.TooLong = true
		return 0, errors.New("the answer is too long")
	}
	return w.Body.Write(p)
}
