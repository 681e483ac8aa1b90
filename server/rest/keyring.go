// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"errors"
	"net/http"
	"strconv"

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

// keyring does an operation in the pools that this server is in, the WAN first.
func (h *handlers) keyring(op gossip.KeyOp) api.Handler {
	return func(w http.ResponseWriter, r *api.Request) error {
		q := r.URL.Query()
		relay := 0
		if s := q.Get("relay-factor"); s != "" {
			var err error
			if relay, err = strconv.Atoi(s); err != nil || relay < 0 || relay > 5 {
				return &api.StatusError{Code: http.StatusBadRequest, Text: "Invalid relay-factor: want 0 to 5"}
			}
		}
		localOnly := q.Has("local-only") && q.Get("local-only") != "false"
		if localOnly && op != gossip.ListKeys {
			return &api.StatusError{Code: http.StatusBadRequest, Text: "local-only is only for listing keys"}
		}
		var body struct{ Key string }
		if op != gossip.ListKeys {
			if err := api.ReadJSON(r, &body); err != nil {
				return err
			}
			if _, err := gossip.ParseKey(body.Key); err != nil {
				return &api.StatusError{Code: http.StatusBadRequest, Text: err.Error(), Err: err}
			}
		}
		if h.c.LAN == nil || !h.c.LAN.Encrypted() {
			return errNoKeyring
		}
		var out []keyringView
		var faults []error
		for _, pool := range []*gossip.Pool{h.c.WAN, h.c.LAN} {
			if pool == nil {
				continue
			}
			answer, err := pool.Keyring(r.Context(), op, body.Key, relay)
			if err != nil {
				faults = append(faults, err)
			}
			out = append(out, keyringView{
				WAN: pool == h.c.WAN, Datacenter: h.c.Store.Read().Datacenter(), Messages: answer.Messages, Keys: answer.Keys,
				PrimaryKeys: answer.PrimaryKeys, NumNodes: answer.NumNodes,
			})
		}
		if err := errors.Join(faults...); err != nil {
			return err
		}
		if op != gossip.ListKeys {
			return nil
		}
		return api.WriteJSON(w, out)
	}
}
