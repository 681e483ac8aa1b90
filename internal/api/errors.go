// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/decode"
	"github.com/weftmesh/weft/internal/guard"
)

// StatusError is an error with the HTTP status and text that a client sees.
type StatusError struct {
	Code int
	Text string
	Err  error // the cause, for errors.Is; may be nil
}

func (e *StatusError) Error() string { return e.Text }

// Unwrap gives the cause.
func (e *StatusError) Unwrap() error { return e.Err }

// ErrNoLeader says that there is no server that could order a write just now.
var ErrNoLeader = errors.New("No cluster leader") //nolint:staticcheck // Consul's text

// ErrNoRoom says that the disk is full: nothing is written until there is room, and nothing was done.
var ErrNoRoom = errors.New("the disk is full")

// table is the one table of errors: the first sentinel that an error is decides. What is in none of its rows is a fault of
// ours: 500, Internal, exit code 1.
var table = []struct {
	is   error
	http int
	grpc codes.Code
}{
	{ErrDenied, http.StatusForbidden, codes.PermissionDenied},
	{ErrTokenUnknown, http.StatusForbidden, codes.PermissionDenied},
	{ErrNoLeader, http.StatusInternalServerError, codes.Unavailable},
	{ErrNoRoom, http.StatusInsufficientStorage, codes.ResourceExhausted},
	{ca.ErrRateLimited, http.StatusTooManyRequests, codes.ResourceExhausted},
	{catalog.ErrNotFound, http.StatusNotFound, codes.NotFound},
	{catalog.ErrExists, http.StatusConflict, codes.AlreadyExists},
	{catalog.ErrConflict, http.StatusConflict, codes.Aborted},
	{catalog.ErrInvalid, http.StatusBadRequest, codes.InvalidArgument},
	{catalog.ErrSchema, http.StatusServiceUnavailable, codes.FailedPrecondition},
	{catalog.ErrNotCovered, http.StatusServiceUnavailable, codes.Unavailable},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, codes.DeadlineExceeded},
	{context.Canceled, http.StatusServiceUnavailable, codes.Canceled}, // whoever is still there to read it asked a server that stops
}

// HTTPStatus is the status that an error is answered with.
func HTTPStatus(err error) int {
	var s *StatusError
	if errors.As(err, &s) {
		return s.Code
	}
	if errors.Is(err, ErrDenied) {
		return http.StatusForbidden // whatever else is wrong
	}
	var d *decode.Error
	if errors.As(err, &d) {
		return http.StatusBadRequest
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge
	}
	for _, row := range table {
		if errors.Is(err, row.is) {
			return row.http
		}
	}
	return http.StatusInternalServerError
}

// GRPC is the error as a gRPC status, nil for nil.
func GRPC(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(GRPCCode(err), err.Error())
}

// GRPCCode is the code that an error is sent with.
func GRPCCode(err error) codes.Code {
	for _, row := range table {
		if errors.Is(err, row.is) {
			return row.grpc
		}
	}
	return codes.Internal
}

func writeError(w http.ResponseWriter, err error) {
	code := HTTPStatus(err)
	if errors.Is(err, ErrNoLeader) {
		w.Header().Set(NotTaken, "1")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	noSniff(w)
	w.WriteHeader(code)
	_, _ = io.WriteString(w, strings.ToValidUTF8(err.Error(), "\uFFFD")) // the client may be gone
}

// answer notes whether something was written, and how JSON is to be written.
type answer struct {
	http.ResponseWriter
	of            *Request // nil until its handler runs
	wrote, pretty bool
	code          int // that was written, 0 for none
}

// begin tells a caller with a token that there is more than it may see.
func (a *answer) begin() {
	if !a.wrote && a.of != nil && a.of.hidden && TokenOf(a.of.Request) != "" {
		a.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}
	a.wrote = true
}

func (a *answer) WriteHeader(code int) {
	a.begin()
	if a.code == 0 {
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(p []byte) (int, error) {
	a.begin()
	return a.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteJSONStatus is WriteJSON with another status than 200.
func WriteJSONStatus(w http.ResponseWriter, code int, v any) error {
	return writeJSON(w, code, v)
}

// WriteJSON answers with v: compact, or indented with a newline where the request asks for it.
func WriteJSON(w http.ResponseWriter, v any) error { return writeJSON(w, http.StatusOK, v) }

func writeJSON(w http.ResponseWriter, code int, v any) error {
	body, err := encodeJSON(w, v)
	if err != nil {
		return err
	}
	writeBody(w, code, body)
	return nil
}

// encodeJSON encodes an answer as the request wants it.
func encodeJSON(w http.ResponseWriter, v any) ([]byte, error) {
	if a, ok := w.(*answer); ok && a.pretty {
		body, err := json.MarshalIndent(v, "", "    ")
		return append(body, '\n'), err
	}
	return json.Marshal(v)
}

// writeBody says how long the body is: without, net/http sends it in pieces, which took a third write of a watcher's answer, and its reader
// a third wake.
func writeBody(w http.ResponseWriter, code int, body []byte) {
	h := w.Header()
	h["Content-Length"] = []string{strconv.Itoa(len(body))} // these names are in the form that Set would bring them into
	h["Content-Type"] = []string{"application/json"}
	noSniff(w)
	if code != http.StatusOK {
		w.WriteHeader(code)
	}
	_, _ = w.Write(body) // the client may be gone
}

// noSniff tells browsers to take the content for what it is said to be. Each side does that on its own; once suffices.
func noSniff(w http.ResponseWriter) {
	if h := w.Header(); h[noSniffHeader] == nil && !guard.Off("C120") {
		h[noSniffHeader] = []string{"nosniff"}
	}
}

const noSniffHeader = "X-Content-Type-Options"

// readBody reads a body whole, into no more memory than it says that it takes, if it says so.
func readBody(r *Request) ([]byte, error) {
	room := int64(bytes.MinRead)
	if n := r.ContentLength; n >= 0 && n < believed {
		room += n
	}
	buf := bytes.NewBuffer(make([]byte, 0, room))
	_, err := buf.ReadFrom(r.Body)
	return buf.Bytes(), err
}

// believed is how much memory a request gets for no more than saying that it has so much to say.
const believed = 64 << 10

// ReadJSON decodes a request's body into dst, strictly; faults name the field and are 400.
func ReadJSON(r *Request, dst any) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	if err := decode.JSON(data, dst); err != nil {
		return &StatusError{Code: http.StatusBadRequest, Text: "Request decode failed: " + err.Error(), Err: err}
	}
	return nil
}

// ReadDocument reads a request's body as a JSON document, for handlers that decode it in parts.
func ReadDocument(r *Request) (*decode.Document, error) {
	data, err := readBody(r)
	if err != nil {
		return nil, err
	}
	doc, err := decode.ParseJSON(data)
	if err != nil {
		return nil, &StatusError{Code: http.StatusBadRequest, Text: "Request decode failed: " + err.Error(), Err: err}
	}
	return doc, nil
}
