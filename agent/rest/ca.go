// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/internal/api"
)

func (h *handlers) roots(w http.ResponseWriter, r *api.Request) error {
	return api.AnswerRoots(w, r, h.c.Store)
}

// authorize answers whether the bearer of a certificate may connect to a service of this host.
func (h *handlers) authorize(w http.ResponseWriter, r *api.Request) error {
	var ask struct{ Target, ClientCertURI, ClientCertSerial, Namespace string }
	if err := api.ReadJSON(r, &ask); err != nil {
		return err
	}
	if err := r.Within(ask.Namespace); err != nil {
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
	state, err := h.c.Store.Read().CA()
	if err != nil {
		return err
	}
	if serial, err := ca.ParseSerial(ask.ClientCertSerial); state != nil && err == nil &&
		slices.ContainsFunc(state.Revoked, func(r catalog.Revoked) bool { return r.Refuses(serial, "", time.Time{}) }) {
		return api.WriteJSON(w, map[string]any{"Authorized": false, "Reason": "The certificate was revoked"})
	}
	d, err := intention.Decide(h.c.Store.Read(), src, r.Options.Scope.Name(ask.Target), h.c.DefaultAll)
	if err != nil {
		return fmt.Errorf("the intentions of %s: %w", ask.Target, err)
	}
	return api.WriteJSON(w, map[string]any{"Authorized": d.Allowed, "Reason": d.Reason})
}
