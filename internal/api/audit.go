// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/internal/guard"
)

// Audited is one line of the audit log: who asked for what, from where, and what came of it. It has no secret in it: no body, no
// token, and of the query everything but the token.
type Audited struct {
	Time   time.Time `json:"time"`
	Node   string    `json:"node"`            // that answered
	Who    string    `json:"who"`             // the token's accessor, "anonymous", or "unknown"
	From   string    `json:"from"`            // address of the connection: of a request that was passed on, the one that passed it on
	What   string    `json:"what"`            // the route, or gRPC's method
	Path   string    `json:"path,omitempty"`  // as it was asked for
	Query  string    `json:"query,omitempty"` // without token
	In     string    `json:"in,omitempty"`    // the namespace that the request was about, where it isn't the default one
	Status int       `json:"status"`
	Result string    `json:"result"` // "done", "denied" or "failed"
	Reason string    `json:"reason,omitempty"`
}

// AuditConfig is what an Audit is made of.
type AuditConfig struct {
	Writer io.Writer // gets whole lines
	Node   string
	Now    func() time.Time
	Log    *slog.Logger // is told once when lines can't be written, and when they can again
}

// Audit writes every write, and every read that was denied, as lines of JSON. Its methods may be called from any goroutine; a nil
// Audit writes nothing.
type Audit struct {
	c AuditConfig

	mu     sync.Mutex
	broken bool
}

// NewAudit makes one.
func NewAudit(c AuditConfig) *Audit { return &Audit{c: c} }

const denied = "denied"

// maxReason bounds what is kept of an error's text, a path or a query.
const maxReason = 1024

// Write writes a line, where it is worth one.
func (a *Audit) Write(e Audited, write bool) {
	if a == nil || !write && e.Result != denied || guard.Off("C115") {
		return
	}
	e.Time, e.Node = a.c.Now().UTC(), a.c.Node
	for _, s := range []*string{&e.Reason, &e.Path, &e.Query, &e.Who, &e.From} {
		if len(*s) > maxReason {
			*s = (*s)[:maxReason]
		}
		if !utf8.ValidString(*s) {
			*s = url.QueryEscape(*s)
		}
	}
	line, err := json.Marshal(e)
	if err == nil {
		a.mu.Lock()
		_, err = a.c.Writer.Write(append(line, '\n'))
		a.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if (err != nil) != a.broken {
		a.broken = err != nil
		if a.broken {
			a.c.Log.Error("the audit log can't be written", "error", err)
		} else {
			a.c.Log.Info("the audit log is written again")
		}
	}
}

// resultOf is what came of a request with this error.
func resultOf(err error, code int) string {
	switch {
	case errors.Is(err, ErrDenied), errors.Is(err, ErrTokenUnknown), code == http.StatusForbidden, code == http.StatusUnauthorized:
		return denied
	case err != nil, code >= http.StatusBadRequest:
		return "failed"
	}
	return "done"
}

// request writes what came of an HTTP request. subject is nil where nobody knows who asked.
func (a *Audit) request(what, namespace string, r *http.Request, subject Subject, code int, err error) {
	if a == nil {
		return
	}
	write := r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions
	q := r.URL.Query()
	if !guard.Off("C122") {
		q.Del("token")
	}
	e := Audited{Who: "unknown", From: r.RemoteAddr, What: what, Path: r.URL.Path, Query: q.Encode(), In: Shown(namespace), Status: code, Result: resultOf(err, code)}
	if subject != nil {
		e.Who = subject.String()
	}
	if err != nil && e.Result == denied {
		e.Reason = err.Error() // it names permissions; other errors may quote what was sent
	}
	a.Write(e, write)
}

// RPC writes what came of a gRPC call, which was made with a token.
func (a *Audit) RPC(ctx context.Context, resolver Resolver, method, from string, write bool, err error) {
	if a == nil {
		return
	}
	e := Audited{Who: "unknown", From: from, What: method, Result: resultOf(err, http.StatusOK), Status: http.StatusOK}
	if s, rerr := resolver.Resolve(ctx, RPCToken(ctx)); rerr == nil {
		e.Who = s.String()
	}
	if status.Code(err) == codes.PermissionDenied {
		e.Result, e.Status, e.Reason = denied, http.StatusForbidden, err.Error()
	} else if err != nil {
		e.Status = http.StatusInternalServerError
	}
	a.Write(e, write)
}
