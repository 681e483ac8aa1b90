// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/api"
)

func (h *handlers) roots(w http.ResponseWriter, r *api.Request) error {
	return api.AnswerRoots(w, r, h.c.Store)
}

// caBody is the authority's configuration in the API's form.
type caBody struct {
	Provider                 string
	Config                   caSettings
	ForceWithoutCrossSigning bool
	State                    map[string]string
	CreateIndex              uint64
	ModifyIndex              uint64
}

type caSettings struct {
	ca.Settings
	// Rotate is weft's: a new root, with nothing else changed.
	Rotate bool
}

func (h *handlers) caConfig(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string]any, error) {
		state, err := t.CA()
		if err != nil {
			return nil, err
		}
		c, _ := h.c.CA.Configuration()
		v := map[string]any{"Provider": c.Provider, "Config": c.View(), "State": nil}
		if state != nil {
			v["CreateIndex"], v["ModifyIndex"] = state.CreateIndex, state.ModifyIndex
		}
		return v, nil
	})
}

// setCAConfig lays what it is given over the configuration that is in force; for another provider, over what the server's own file says
// of that one.
func (h *handlers) setCAConfig(_ http.ResponseWriter, r *api.Request) error {
	var b caBody
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	c, own := h.c.CA.Configuration()
	if b.Provider != "" && b.Provider != c.Provider {
		c.Provider, c.Vault, c.Command = b.Provider, ca.VaultConfig{}, ca.CommandConfig{}
		c.RootCert, c.PrivateKey = "", ""
		if own.Provider == b.Provider {
			c.Vault, c.Command = own.Vault, own.Command
		}
	}
	c, err := b.Config.Over(c)
	if err != nil {
		return badRequest("%v", err)
	}
	return h.c.CA.Reconfigure(r.Context(), c, b.Config.Rotate, b.ForceWithoutCrossSigning)
}

// revoke ends certificates before their time: one by its serial number, or all that a service or SPIFFE ID has got until now.
func (h *handlers) revoke(w http.ResponseWriter, r *api.Request) error {
	var b struct{ Serial, Service, URI, Reason string }
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if b.Service != "" {
		if b.URI != "" {
			return badRequest("Service and URI exclude each other")
		}
		state, err := h.c.Store.Read().CA()
		if err != nil {
			return err
		}
		key := r.Options.Scope.Name(b.Service)
		b.URI = identity.Service{
			TrustDomain: identity.TrustDomain(state.TrustDomain()), Partition: key.Partition, Namespace: key.Namespace, Datacenter: key.Datacenter, Service: key.Name,
		}.String()
	}
	done, warnings, err := h.c.CA.Revoke(r.Context(), catalog.Revoked{Serial: b.Serial, URI: b.URI, Reason: b.Reason})
	if err != nil {
		return err
	}
	return api.WriteJSON(w, struct {
		catalog.Revoked
		Warnings []string `json:",omitempty"`
	}{done, warnings})
}

// revoked lists what is revoked and hasn't ended.
func (h *handlers) revoked(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]catalog.Revoked, error) {
		state, err := t.CA()
		if err != nil || state == nil {
			return []catalog.Revoked{}, err
		}
		return append([]catalog.Revoked{}, state.Revoked...), nil
	})
}
