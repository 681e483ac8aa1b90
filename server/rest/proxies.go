// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/server/verify"
)

// maxWithin bounds how long a request may wait for proxies.
const maxWithin = 10 * time.Minute

// proxies compares what every proxy has with what it should have. With write, the index of a write, it is about the proxies that
// this write concerns, and waits for them for as long as within says.
func (h *handlers) proxies(w http.ResponseWriter, r *api.Request) error {
	q := r.URL.Query()
	service := q.Get("service")
	keep := func(of catalog.Key) bool {
		return (service == "" || of.Name == service) && r.Asks(of.Namespace) && r.VisibleIn(of.Namespace, of.Name)
	}
	var out []verify.Proxy
	var err error
	if q.Has("write") {
		var write uint64
		var within time.Duration
		if write, err = strconv.ParseUint(q.Get("write"), 10, 64); err != nil || write == 0 {
			return badRequest("Invalid write: %q isn't the index of a write", q.Get("write"))
		}
		if s := q.Get("within"); s != "" {
			if within, err = time.ParseDuration(s); err != nil || within < 0 || within > maxWithin {
				return badRequest("Invalid within: want a time up to %s, as 10s", maxWithin)
			}
		}
		ctx, cancel := context.WithTimeout(r.Context(), within)
		defer cancel()
		out, err = h.c.Proxies.Settle(ctx, r.Options.Scope, write, keep)
	} else {
		out, err = h.c.Proxies.Look(r.Options.Scope, keep)
	}
	if err != nil {
		return err
	}
	if node := q.Get("node"); node != "" {
		some := out[:0]
		for _, p := range out {
			if p.Node == node {
				some = append(some, p)
			}
		}
		out = some
	}
	return api.WriteJSON(w, append([]verify.Proxy{}, out...))
}

// propose has a command ordered and applied, and tells in the answer at which index.
func (h *handlers) propose(w http.ResponseWriter, r *api.Request, body catalog.Body) (catalog.Result, error) {
	result, err := h.c.Cluster.Propose(r.Context(), body)
	if err == nil {
		w.Header()[api.IndexHeader] = []string{strconv.FormatUint(result.Index, 10)} // the name is in the form that Set would bring it into
	}
	return result, err
}
