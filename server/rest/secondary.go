// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"net/http"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/plane"
)

// fromDatacenter refuses what only servers of other datacenters may ask: people and agents have no part in it. Where nodes don't prove
// who they are, a token has to.
func (h *handlers) fromDatacenter(r *api.Request) error {
	who, proved := plane.PeerFrom(r.Context())
	switch {
	case r.Header.Get("X-Weft-Hop") != "" || proved && !who.Server:
		return badRequest("only the servers of other datacenters may ask this, on the servers' port")
	case h.c.TokensDecide: // this one may write operator, by the table of routes
		return nil
	case !proved:
		return fmt.Errorf("%w: servers prove nothing to each other here, so anybody could ask for an authority's certificate: set encrypt or tls on the servers of all "+
			"datacenters, or acl with default_policy = \"deny\" and, as acl.tokens.replication of the secondary's servers, a token with operator = \"write\"", api.ErrDenied)
	case r.Header.Get("X-Weft-Datacenter-Hop") == "": // passed on by a server of ours, for somebody who has proved nothing
		return badRequest("only the servers of other datacenters may ask this, on the servers' port")
	}
	return nil
}

// signIntermediate signs the intermediate of a secondary's authority.
func (h *handlers) signIntermediate(w http.ResponseWriter, r *api.Request) error {
	var b struct{ CSR, Certificate string }
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if err := h.fromDatacenter(r); err != nil {
		return err
	}
	cert, err := h.c.CA.SignIntermediate(r.Context(), b.CSR)
	if err != nil {
		return err
	}
	return api.WriteJSON(w, map[string]string{"Certificate": cert})
}

// allEntries lists all config entries, each in its canonical form.
func (h *handlers) allEntries(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([][]byte, error) {
		entries, err := t.AllEntries()
		out := [][]byte{}
		for _, e := range entries {
			data, cerr := catalog.Canonical(catalog.EntryBox{Entry: e})
			if cerr != nil {
				return nil, cerr
			}
			out = append(out, data)
		}
		return out, err
	})
}
