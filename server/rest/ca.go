// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

func (h *handlers) roots(w http.ResponseWriter, r *api.Request) error {
	return api.AnswerRoots(w, r, h.c.Store)
}

// caBody is the authority's configuration in the API's form, without its keys.
type caBody struct {
	Provider                 string
	Config                   caSettings
	ForceWithoutCrossSigning bool
	State                    map[string]string
	CreateIndex              uint64
	ModifyIndex              uint64
}

type caSettings struct {
	LeafCertTTL         time.Duration
	IntermediateCertTTL time.Duration
	RootCertTTL         time.Duration
	PrivateKeyType      string
	PrivateKeyBits      int
	CSRMaxPerSecond     float64
	RootCert            string
	PrivateKey          string
	// Rotate is weft's: a new root, with nothing else changed.
	Rotate bool
}

func (h *handlers) caConfig(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string]any, error) {
		state, err := t.CA()
		if err != nil {
			return nil, err
		}
		c := h.c.CA.Configuration()
		v := map[string]any{
			"Provider": "consul",
			"Config": map[string]any{
				"LeafCertTTL": c.LeafCertTTL.String(), "IntermediateCertTTL": c.IntermediateCertTTL.String(), "RootCertTTL": c.RootCertTTL.String(),
				"PrivateKeyType": c.PrivateKeyType, "PrivateKeyBits": c.PrivateKeyBits, "CSRMaxPerSecond": c.CSRMaxPerSecond,
			},
			"State": nil,
		}
		if state != nil {
			v["CreateIndex"], v["ModifyIndex"] = state.CreateIndex, state.ModifyIndex
		}
		return v, nil
	})
}

func (h *handlers) setCAConfig(_ http.ResponseWriter, r *api.Request) error {
	var b caBody
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if b.Provider != "" && b.Provider != "consul" {
		return badRequest("Provider %q: this version has the built-in one, \"consul\"", b.Provider)
	}
	c := h.c.CA.Configuration()
	s := b.Config
	for _, set := range []struct{ to, from *time.Duration }{
		{&c.LeafCertTTL, &s.LeafCertTTL}, {&c.IntermediateCertTTL, &s.IntermediateCertTTL}, {&c.RootCertTTL, &s.RootCertTTL},
	} {
		if *set.from != 0 {
			*set.to = *set.from
		}
	}
	if s.PrivateKeyType != "" && s.PrivateKeyType != c.PrivateKeyType {
		c.PrivateKeyType, c.PrivateKeyBits = s.PrivateKeyType, 0
	}
	if s.PrivateKeyBits != 0 {
		c.PrivateKeyBits = s.PrivateKeyBits
	}
	if s.CSRMaxPerSecond != 0 {
		c.CSRMaxPerSecond = s.CSRMaxPerSecond
	}
	if s.RootCert != "" || s.PrivateKey != "" {
		c.RootCert, c.PrivateKey = s.RootCert, ca.Secret(s.PrivateKey)
	}
	return h.c.CA.Reconfigure(r.Context(), c, s.Rotate, b.ForceWithoutCrossSigning)
}
