// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"io"
	"net/http"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/internal/api"
)

// rootsView is the trusted roots in the API's form.
type rootsView struct {
	ActiveRootID string
	TrustDomain  string
	Roots        []catalog.CARoot
}

func (h *handlers) roots(w http.ResponseWriter, r *api.Request) error {
	read := func(t *catalog.Txn) (rootsView, error) {
		state, err := t.CA()
		if err != nil || state == nil {
			return rootsView{Roots: []catalog.CARoot{}}, err
		}
		return rootsView{ActiveRootID: state.ActiveRootID, TrustDomain: state.TrustDomain(), Roots: state.Roots}, nil
	}
	if !r.URL.Query().Has("pem") {
		return api.Answer(w, r, h.c.Store, read)
	}
	v, meta, err := api.Query(r.Context(), h.c.Store, r.Options, read)
	if err != nil {
		return err
	}
	meta.Write(w.Header(), r.Options)
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	for _, root := range v.Roots {
		_, _ = io.WriteString(w, root.RootCert) // the client may be gone
	}
	return nil
}

// authorize answers whether the bearer of a certificate may connect to a service of this host.
func (h *handlers) authorize(w http.ResponseWriter, r *api.Request) error {
	var ask struct{ Target, ClientCertURI, ClientCertSerial string }
	if err := api.ReadJSON(r, &ask); err != nil {
		return err
	}
	if ask.Target == "" {
		return &api.StatusError{Code: http.StatusBadRequest, Text: "Target service must be specified"}
	}
	if err := r.Authorize(ask.Target); err != nil {
		return err
	}
	id, err := identity.Parse(ask.ClientCertURI)
	if err != nil {
		return &api.StatusError{Code: http.StatusBadRequest, Text: "ClientCertURI not a valid Connect identifier: " + err.Error(), Err: err}
	}
	src, ok := id.(identity.Service)
	if !ok {
		return &api.StatusError{Code: http.StatusBadRequest, Text: "ClientCertURI not a valid Service identifier"}
	}
	d, err := intention.Decide(h.c.Store.Read(), src, r.Options.Scope.Name(ask.Target), h.c.DefaultAll)
	if err != nil {
		return fmt.Errorf("the intentions of %s: %w", ask.Target, err)
	}
	return api.WriteJSON(w, map[string]any{"Authorized": d.Allowed, "Reason": d.Reason})
}
