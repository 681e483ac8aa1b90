// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// DefaultMaxValue bounds a key's value and the body of a transaction, as Consul does.
const DefaultMaxValue = 512 << 10

// kvView is an entry in the form of /v1/kv.
type kvView struct {
	LockIndex    uint64
	Key          string
	Flags        uint64
	Value        []byte
	Session      string `json:",omitempty"`
	FencingIndex uint64 `json:",omitempty"`
	Namespace    string `json:",omitempty"`
	CreateIndex  uint64
	ModifyIndex  uint64
}

func viewKV(e *catalog.KVEntry) kvView {
	v := kvView{
		LockIndex: e.LockIndex, Key: string(e.Key), Flags: e.Flags, Session: e.Session, FencingIndex: e.FencingIndex,
		Namespace: api.Shown(e.Namespace), CreateIndex: e.CreateIndex, ModifyIndex: e.ModifyIndex,
	}
	if len(e.Value) > 0 {
		v.Value = e.Value
	}
	return v
}

// commandScope is a scope as commands carry it: nothing where it is the default.
func (h *handlers) commandScope(s catalog.Scope) catalog.Scope {
	if s == (catalog.Scope{}).Default(h.c.Store.Datacenter()) {
		return catalog.Scope{}
	}
	return s
}

// absent is the 404 without text of what can be waited for.
func absent() error {
	return &api.StatusError{Code: http.StatusNotFound, Err: catalog.ErrNotFound}
}

func (h *handlers) getKV(w http.ResponseWriter, r *api.Request) error {
	q := api.QueryOf(r.Request)
	key := r.Options.Scope.Name(r.PathValue("name"))
	switch {
	case q.Has("keys"):
		separator := q.Get("separator")
		if separator == "" {
			separator = q.Get("seperator") // as Consul has taken it from the beginning
		}
		return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]string, error) {
			keys, err := t.KVKeys(key, separator)
			out := []string{}
			for _, k := range keys {
				if r.Visible(k) {
					out = append(out, k)
				}
			}
			if err == nil && len(out) == 0 && key.Name != "" {
				err = absent()
			}
			return out, err
		})
	case q.Has("recurse"):
		return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]kvView, error) {
			entries, err := t.KVList(key)
			out := make([]kvView, 0, len(entries))
			for _, e := range entries {
				if r.Visible(string(e.Key)) {
					out = append(out, viewKV(e))
				}
			}
			if err == nil && len(out) == 0 {
				err = absent()
			}
			return out, err
		})
	case key.Name == "":
		return badRequest("Missing key name")
	}
	if err := r.Authorize(key.Name); err != nil {
		return err
	}
	entry, meta, err := api.Query(r.Context(), h.c.Store, r.Options, api.Asked(r, func(t *catalog.Txn) (*catalog.KVEntry, error) {
		if err := r.Authorize(key.Name); err != nil {
			return nil, err
		}
		e, err := t.KV(key)
		if err == nil && e == nil {
			err = absent()
		}
		return e, err
	}))
	meta.Write(w.Header(), r.Options)
	if err != nil {
		return err
	}
	if !q.Has("raw") {
		return api.WriteJSON(w, []kvView{viewKV(entry)})
	}
	header := w.Header()
	header.Set("Content-Type", "text/plain")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "sandbox")
	header.Set("Content-Length", strconv.Itoa(len(entry.Value)))
	_, _ = w.Write(entry.Value) // the client may be gone
	return nil
}

// wholeNumber reads a query parameter; ok is false if it isn't there.
func wholeNumber(r *api.Request, name string) (n uint64, ok bool, err error) {
	q := api.QueryOf(r.Request)
	if !q.Has(name) {
		return 0, false, nil
	}
	if n, err = strconv.ParseUint(q.Get(name), 10, 64); err != nil {
		return 0, true, badRequest("Invalid %s: %q isn't a whole number", name, q.Get(name))
	}
	return n, true, nil
}

// readBody reads what may have at most limit bytes; the setting is where a person can raise it.
func readBody(r *api.Request, limit int64, setting string) ([]byte, error) {
	tooLarge := func(size string) error {
		return &api.StatusError{
			Code: http.StatusRequestEntityTooLarge,
			Text: fmt.Sprintf("Request body(%s bytes) too large, max size: %d bytes. See %s in the agent's configuration.", size, limit, setting),
		}
	}
	if r.ContentLength > limit {
		return nil, tooLarge(strconv.FormatInt(r.ContentLength, 10))
	}
	if r.ContentLength >= 0 {
		data := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, data)
		return data, err
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = tooLarge("more than " + strconv.FormatInt(limit, 10))
	}
	return data, err
}

func (h *handlers) putKV(w http.ResponseWriter, r *api.Request) error {
	q := api.QueryOf(r.Request)
	op := catalog.KVOp{Verb: catalog.KVSet, Scope: h.commandScope(r.Options.Scope), Key: catalog.Raw(r.PathValue("name"))}
	if op.Key == "" {
		return badRequest("Missing key name")
	}
	given := 0
	for _, name := range []string{"cas", "acquire", "release"} {
		if q.Has(name) {
			given++
		}
	}
	if given > 1 {
		return badRequest("Conflicting flags: %s", q.Encode())
	}
	var err error
	if op.Flags, _, err = wholeNumber(r, "flags"); err != nil {
		return err
	}
	switch {
	case q.Has("cas"):
		op.Verb = catalog.KVCAS
		op.Index, _, err = wholeNumber(r, "cas")
	case q.Has("acquire"):
		op.Verb, op.Session = catalog.KVLock, q.Get("acquire")
	case q.Has("release"):
		op.Verb, op.Session = catalog.KVUnlock, q.Get("release")
	}
	if err != nil {
		return err
	}
	if op.Value, err = readBody(r, h.c.MaxValue, "limits.kv_max_value_size"); err != nil {
		return err
	}
	result, err := h.runKV(r, op)
	if err != nil {
		return err
	}
	if op.Verb == catalog.KVLock && result.Failed == "" {
		w.Header().Set("X-Weft-Fencing-Index", strconv.FormatUint(result.Entries[0].FencingIndex, 10))
	}
	return api.WriteJSON(w, result.Failed == "")
}

func (h *handlers) runKV(r *api.Request, op catalog.KVOp) (catalog.KVResult, error) {
	result, err := h.c.Cluster.Propose(r.Context(), &op)
	if err != nil {
		return catalog.KVResult{}, plainFault(err)
	}
	return result.Value.(catalog.KVResult), nil
}

func (h *handlers) deleteKV(w http.ResponseWriter, r *api.Request) error {
	q := api.QueryOf(r.Request)
	op := catalog.KVOp{Verb: catalog.KVDelete, Scope: h.commandScope(r.Options.Scope), Key: catalog.Raw(r.PathValue("name"))}
	switch {
	case q.Has("recurse") && q.Has("cas"):
		return badRequest("Conflicting flags: %s", q.Encode())
	case q.Has("recurse"):
		op.Verb = catalog.KVDeleteTree
		if err := r.Subject.Allow(api.Operations["kv delete-tree"], r.PathValue("name")); err != nil {
			return err
		}
	case op.Key == "":
		return badRequest("Missing key name")
	case q.Has("cas"):
		var err error
		op.Verb = catalog.KVDeleteCAS
		if op.Index, _, err = wholeNumber(r, "cas"); err != nil {
			return err
		}
	}
	result, err := h.runKV(r, op)
	if err != nil {
		return err
	}
	return api.WriteJSON(w, result.Failed == "")
}
