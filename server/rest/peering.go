// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/uuid"
)

// peeringToken is what one cluster hands to another: base64 of this as JSON.
type peeringToken struct {
	CA                    []string
	ManualServerAddresses []string
	ServerAddresses       []string
	ServerName            string
	PeerID                string
	EstablishmentSecret   string
	Remote                struct{ Partition, Datacenter string }
}

// peeringView is a peering in the API's form.
type peeringView struct {
	ID                  string
	Name                string
	Partition           string            `json:",omitempty"`
	Meta                map[string]string `json:",omitempty"`
	State               string
	PeerID              string   `json:",omitempty"`
	PeerCAPems          []string `json:",omitempty"`
	PeerServerName      string   `json:",omitempty"`
	PeerServerAddresses []string `json:",omitempty"`
	StreamStatus        struct {
		ImportedServices []string
		ExportedServices []string
		LastHeartbeat    *time.Time
		LastReceive      *time.Time
		LastSend         *time.Time
	}
	Remote struct {
		Partition  string
		Datacenter string
	}
	CreateIndex uint64
	ModifyIndex uint64
}

func viewPeering(t *catalog.Txn, p *catalog.Peering, scope catalog.Scope) (peeringView, error) {
	v := peeringView{
		ID: p.ID, Name: p.Name, Meta: p.Meta, State: p.State, PeerID: p.PeerID, PeerCAPems: p.PeerCAPems, PeerServerName: p.PeerServerName,
		PeerServerAddresses: p.PeerServerAddresses, CreateIndex: p.CreateIndex, ModifyIndex: p.ModifyIndex,
	}
	if p.Partition != catalog.DefaultPartition {
		v.Partition = p.Partition
	}
	v.Remote.Partition, v.Remote.Datacenter = p.RemotePartition, p.RemoteDatacenter
	v.StreamStatus.ImportedServices, v.StreamStatus.ExportedServices = []string{}, []string{}
	all, err := exports(t, scope)
	for _, e := range all {
		for _, peer := range e.Consumers.Peers {
			if peer == p.Name {
				v.StreamStatus.ExportedServices = append(v.StreamStatus.ExportedServices, e.Service)
			}
		}
	}
	return v, err
}

const peeringWarning = "the peering is kept, but nothing passes between the clusters yet"

func (h *handlers) generateToken(w http.ResponseWriter, r *api.Request) error {
	var b struct {
		PeerName                string
		Partition               string
		Datacenter              string
		Token                   string
		Meta                    map[string]string
		ServerExternalAddresses []string
	}
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if b.PeerName == "" {
		return badRequest("PeerName is required in the payload when generating a new peering token.")
	}
	if err := r.Authorize(""); err != nil {
		return err
	}
	id, err := uuid.New(h.c.Rand)
	if err != nil {
		return err
	}
	secret, err := uuid.New(h.c.Rand)
	if err != nil {
		return err
	}
	state, err := h.c.Store.Read().CA()
	if err != nil {
		return err
	}
	if state == nil || len(state.Roots) == 0 {
		return api.ErrNoLeader
	}
	servers, err := h.c.Cluster.Peers()
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(secret))
	result, err := h.c.Cluster.Propose(r.Context(), catalog.SetPeering{Peering: catalog.Peering{
		ID: id, Name: b.PeerName, Partition: r.Options.Scope.Partition, State: catalog.PeeringPending, Meta: b.Meta, Secret: hex.EncodeToString(sum[:]),
	}})
	if err != nil {
		return plainFault(err)
	}
	token := peeringToken{
		ManualServerAddresses: b.ServerExternalAddresses, ServerAddresses: servers, EstablishmentSecret: secret,
		ServerName: "server." + state.Datacenter + ".peering." + state.TrustDomain(), PeerID: result.Value.(string),
	}
	token.Remote.Datacenter, token.Remote.Partition = h.c.Store.Datacenter(), r.Options.Scope.Partition
	for _, root := range state.Roots {
		token.CA = append(token.CA, root.RootCert)
	}
	data, err := json.Marshal(token)
	if err != nil {
		return err
	}
	w.Header().Add("X-Weft-Warning", peeringWarning)
	return api.WriteJSON(w, struct{ PeeringToken string }{base64.StdEncoding.EncodeToString(data)})
}

// readToken decodes a token and says what is wrong with it.
func readToken(text string) (*peeringToken, error) {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("failed to decode peering token: %w", err)
	}
	var t peeringToken
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, fmt.Errorf("failed to decode peering token: %w", err)
	}
	for _, ca := range t.CA {
		block, _ := pem.Decode([]byte(ca))
		if block == nil {
			return nil, fmt.Errorf("peering token CA value is invalid: no PEM in it")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("peering token CA value is invalid: %w", err)
		}
	}
	for _, part := range []struct {
		what  string
		empty bool
	}{
		{"server addresses", len(t.ServerAddresses)+len(t.ManualServerAddresses) == 0}, {"server name", t.ServerName == ""},
		{"peer ID", t.PeerID == ""}, {"establishment secret", t.EstablishmentSecret == ""},
	} {
		if part.empty {
			return nil, fmt.Errorf("peering token %s value is empty", part.what)
		}
	}
	return &t, nil
}

func (h *handlers) establish(w http.ResponseWriter, r *api.Request) error {
	var b struct {
		PeerName     string
		PeeringToken string
		Partition    string
		Datacenter   string
		Token        string
		Meta         map[string]string
	}
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	switch {
	case b.PeerName == "":
		return badRequest("PeerName is required in the payload when establishing a peering.")
	case b.PeeringToken == "":
		return badRequest("PeeringToken is required in the payload when establishing a peering.")
	}
	if err := r.Authorize(""); err != nil {
		return err
	}
	token, err := readToken(b.PeeringToken)
	if err != nil {
		return refused(err)
	}
	own, err := h.c.Store.Read().Peerings(r.Options.Scope.Partition)
	if err != nil {
		return err
	}
	for _, p := range own {
		if p.ID == token.PeerID {
			return badRequest("cannot create a peering within the same cluster: the token was made here, for %q", p.Name)
		}
	}
	id, err := uuid.New(h.c.Rand)
	if err != nil {
		return err
	}
	addresses := token.ManualServerAddresses
	if len(addresses) == 0 {
		addresses = token.ServerAddresses
	}
	if _, err := h.c.Cluster.Propose(r.Context(), catalog.SetPeering{Peering: catalog.Peering{
		ID: id, Name: b.PeerName, Partition: r.Options.Scope.Partition, State: catalog.PeeringEstablishing, Meta: b.Meta, PeerID: token.PeerID,
		PeerCAPems: token.CA, PeerServerName: token.ServerName, PeerServerAddresses: addresses, RemoteDatacenter: token.Remote.Datacenter,
		RemotePartition: token.Remote.Partition, Secret: token.EstablishmentSecret,
	}}); err != nil {
		return plainFault(err)
	}
	w.Header().Add("X-Weft-Warning", peeringWarning)
	return api.WriteJSON(w, struct{}{})
}

func (h *handlers) peering(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (*peeringView, error) {
		p, err := t.Peering(r.Options.Scope.Partition, r.PathValue("name"))
		if err == nil && p == nil {
			err = &api.StatusError{Code: http.StatusNotFound, Text: fmt.Sprintf("Peering not found for %q", r.PathValue("name")), Err: catalog.ErrNotFound}
		}
		if err != nil {
			return nil, err
		}
		v, err := viewPeering(t, p, r.Options.Scope)
		return &v, err
	})
}

func (h *handlers) peerings(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]peeringView, error) {
		all, err := t.Peerings(r.Options.Scope.Partition)
		out := []peeringView{}
		for _, p := range all {
			v, verr := viewPeering(t, p, r.Options.Scope)
			if verr != nil {
				return nil, verr
			}
			out = append(out, v)
		}
		return out, err
	})
}

func (h *handlers) deletePeering(_ http.ResponseWriter, r *api.Request) error {
	_, err := h.c.Cluster.Propose(r.Context(), catalog.DeletePeering{Name: r.PathValue("name"), Partition: r.Options.Scope.Partition})
	return err
}
