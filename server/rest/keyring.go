// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
)

// keyringView is what the members of one pool said, in Consul's form.
type keyringView struct {
	WAN         bool
	Datacenter  string
	Segment     string
	Messages    map[string]string
	Keys        map[string]int
	PrimaryKeys map[string]int
	NumNodes    int
}

var errNoKeyring = &api.StatusError{Code: http.StatusInternalServerError, Text: gossip.ErrNotEncrypted.Error(), Err: gossip.ErrNotEncrypted}

// LANOnly marks a keyring's request that another datacenter's server passes on: it is for the LAN pool here and nothing else.
const LANOnly = "X-Weft-Keyring-Lan"

// keyringRequest is what is asked of the keyrings.
type keyringRequest struct {
	op        gossip.KeyOp
	key       string
	relay     int
	localOnly bool // this datacenter's LAN pool alone
}

// keyring does an operation in every pool: the WAN, the LAN here, and the LAN of every other datacenter, by a server there.
func (h *handlers) keyring(op gossip.KeyOp) api.Handler {
	return func(w http.ResponseWriter, r *api.Request) error {
		q, err := readKeyring(op, r)
		if err != nil {
			return err
		}
		if h.c.LAN == nil || !h.c.LAN.Encrypted() {
			return errNoKeyring
		}
		out, err := h.everyKeyring(r, q)
		if err != nil || op != gossip.ListKeys {
			return err
		}
		return api.WriteJSON(w, out)
	}
}

func readKeyring(op gossip.KeyOp, r *api.Request) (keyringRequest, error) {
	q, out := r.URL.Query(), keyringRequest{op: op}
	if s := q.Get("relay-factor"); s != "" {
		var err error
		if out.relay, err = strconv.Atoi(s); err != nil || out.relay < 0 || out.relay > 5 {
			return out, &api.StatusError{Code: http.StatusBadRequest, Text: "Invalid relay-factor: want 0 to 5"}
		}
	}
	if q.Has("local-only") {
		var err error
		if out.localOnly, err = strconv.ParseBool(cmp.Or(q.Get("local-only"), "true")); err != nil {
			return out, &api.StatusError{Code: http.StatusBadRequest, Text: "Invalid local-only: want true or false", Err: err}
		}
	}
	if op == gossip.ListKeys {
		return out, nil
	}
	if out.localOnly {
		return out, &api.StatusError{Code: http.StatusBadRequest, Text: "local-only is only for listing keys"}
	}
	var body struct{ Key string }
	if err := api.ReadJSON(r, &body); err != nil {
		return out, err
	}
	if _, err := gossip.ParseKey(body.Key); err != nil {
		return out, &api.StatusError{Code: http.StatusBadRequest, Text: err.Error(), Err: err}
	}
	out.key = body.Key
	return out, nil
}

// everyKeyring has the operation done everywhere at the same time: each pool waits for its slowest member. Where one fails, the
// others have done it all the same; doing it again does no harm.
func (h *handlers) everyKeyring(r *api.Request, q keyringRequest) ([]keyringView, error) {
	var steps []func() ([]keyringView, error)
	here := h.c.Store.Read().Datacenter()
	pool := func(p *gossip.Pool) func() ([]keyringView, error) {
		return func() ([]keyringView, error) {
			answer, err := p.Keyring(r.Context(), q.op, q.key, q.relay)
			return []keyringView{{
				WAN: p == h.c.WAN, Datacenter: here, Messages: answer.Messages, Keys: answer.Keys,
				PrimaryKeys: answer.PrimaryKeys, NumNodes: answer.NumNodes,
			}}, err
		}
	}
	alone := q.localOnly || r.Header.Get(LANOnly) != ""
	if h.c.WAN != nil && !alone {
		steps = append(steps, pool(h.c.WAN))
	}
	steps = append(steps, pool(h.c.LAN))
	if !alone {
		for _, dc := range h.c.Cluster.Datacenters() {
			if dc != here {
				steps = append(steps, func() ([]keyringView, error) { return h.otherKeyring(r, dc, q) })
			}
		}
	}
	views, faults := make([][]keyringView, len(steps)), make([]error, len(steps))
	var work sync.WaitGroup
	for i, step := range steps {
		work.Go(func() { views[i], faults[i] = step() })
	}
	work.Wait()
	return slices.Concat(views...), errors.Join(faults...)
}

// otherKeyring has it done in the LAN pool of another datacenter, under the caller's token.
func (h *handlers) otherKeyring(r *api.Request, dc string, q keyringRequest) ([]keyringView, error) {
	var body io.Reader
	if q.op != gossip.ListKeys {
		data, err := json.Marshal(struct{ Key string }{q.key})
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, "/v1/operator/keyring?"+url.Values{"relay-factor": {strconv.Itoa(q.relay)}}.Encode(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set(LANOnly, "1")
	if token := api.TokenOf(r.Request); token != "" {
		req.Header.Set(api.TokenHeader, token)
	}
	resp, err := h.c.Cluster.Ask(dc, req)
	if err != nil {
		return nil, fmt.Errorf("datacenter %s: %w", dc, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, api.DefaultMaxBody))
	if err != nil {
		return nil, fmt.Errorf("datacenter %s: %w", dc, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("datacenter %s: %s", dc, bytes.TrimSpace(answer))
	}
	if q.op != gossip.ListKeys {
		return nil, nil
	}
	var out []keyringView
	if err := json.Unmarshal(answer, &out); err != nil {
		return nil, fmt.Errorf("datacenter %s: %w", dc, err)
	}
	return out, nil
}
