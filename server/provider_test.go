// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/ca/vaulttest"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// leafOfWeb has a leaf signed as an agent does.
func (r *running) leafOfWeb() (string, error) {
	r.t.Helper()
	state, err := r.store.Read().CA()
	if err != nil {
		r.t.Fatal(err)
	}
	key, err := ca.NewKey(rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := ca.CSR(identity.Service{TrustDomain: identity.TrustDomain(state.TrustDomain()), Datacenter: "dc1", Service: "web"}, key, rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.ca.Sign(context.Background(), &weftv1.SignRequest{Node: "n1", CsrPem: csr})
	return resp.GetCertPem(), err
}

// TestProviders: another provider by the API, cross-signed; what fails on the way leaves all as it was; a restart goes on with it; and
// back.
func TestProviders(t *testing.T) {
	vault := vaulttest.New(time.Now)
	web := httptest.NewServer(vault)
	defer web.Close()
	dir := t.TempDir()
	r := start(t, dir)
	r.do("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"Service":"web","Port":80}}`, 200, "true")
	put := func(status int, want, format string, args ...any) {
		t.Helper()
		r.do("PUT", "/v1/connect/ca/configuration", fmt.Sprintf(format, args...), status, want)
	}
	const vaultConfig = `{"Provider":"vault","Config":{"Address":%q,"Token":"root","RootPKIPath":"pki","intermediate_pki_path":"pki_int"}}`
	provider, before := r.ca.now()
	for _, refused := range []struct{ path, why string }{ // in the order in which they are asked for: what is mounted stays so
		{"sys/mounts/pki", "disk full"}, {"pki/root/sign-intermediate", "sealed"}, {"pki_int/intermediate/set-signed", "gone"},
	} {
		vault.Refuse(refused.path, refused.why)
		put(500, refused.why, vaultConfig, web.URL)
		vault.Refuse(refused.path, "")
	}
	put(400, "IntermediatePKIPath", `{"Provider":"vault","Config":{"Address":%q,"Token":"root","RootPKIPath":"pki"}}`, web.URL)
	put(400, "is a key of the provider", `{"Config":{"Address":%q}}`, web.URL)
	put(400, "come from its own configuration alone", `{"Provider":"command","Config":{"Command":["/bin/true"]}}`)
	put(400, "come from its own configuration alone", `{"Provider":"vault","Config":{"Address":%q,"Token":"root","RootPKIPath":"pki","IntermediatePKIPath":"i","CAFile":"/etc/shadow"}}`, web.URL)
	if p, after := r.ca.now(); p != provider || !reflect.DeepEqual(before, after) {
		t.Error("a change that failed left something behind")
	}
	if _, err := r.leafOfWeb(); err != nil {
		t.Errorf("after changes that failed: %v", err)
	}

	put(200, "", vaultConfig, web.URL)
	r.do("GET", "/v1/connect/ca/configuration", "", 200, `"Provider":"vault"`)
	_, state := r.ca.now()
	if len(state.Roots) != 2 || len(state.Material.CrossCerts) != 1 || state.Material.Keys != (ca.Keys{}) {
		t.Errorf("%d roots, %d cross-signed", len(state.Roots), len(state.Material.CrossCerts))
	}
	if text, err := r.leafOfWeb(); err != nil || strings.Count(text, "BEGIN CERTIFICATE") != 3 {
		t.Errorf("a leaf by Vault: %v\n%s", err, text)
	}
	put(200, "", `{"Config":{"LeafCertTTL":"48h"}}`) // with what is in force for the rest, the token too
	put(500, "403", `{"Config":{"Token":"wrong"}}`)
	put(400, "Token or AuthMethod", `{"Config":{"Address":"https://elsewhere"}}`)
	put(400, "name another one", `{"Config":{"Rotate":true}}`)
	if _, err := r.leafOfWeb(); err != nil {
		t.Errorf("after another life of leaves: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir)
	if _, err := r.leafOfWeb(); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if _, state := r.ca.now(); state.Config.LeafCertTTL != 48*time.Hour {
		t.Errorf("leaves live %s", state.Config.LeafCertTTL)
	}
	put(200, "", `{"Provider":"consul"}`)
	if text, err := r.leafOfWeb(); err != nil || strings.Count(text, "BEGIN CERTIFICATE") != 4 {
		t.Errorf("by the built-in one again: %v\n%s", err, text)
	}
}

// TestProviderAway: a server takes office while its Vault can't be reached, and has a CA once it can.
func TestProviderAway(t *testing.T) {
	vault := vaulttest.New(time.Now)
	web := httptest.NewServer(vault)
	defer web.Close()
	vault.Refuse("", "Vault is sealed")
	var log logged
	r := startWith(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil)), CA: ca.Config{Provider: ca.VaultName, Vault: ca.VaultConfig{Address: web.URL, Token: "canary-token", RootPKIPath: "pki", IntermediatePKIPath: "pki_int"}}})
	r.do("PUT", "/v1/kv/a", "b", 200, "true")
	vault.Refuse("", "")
	vault.AddToken("canary-token", time.Hour)
	r.ca.wake <- struct{}{}
	for {
		txn := r.store.Read()
		if state, err := txn.CA(); err != nil || state.ActiveRootID != "" {
			break
		}
		if err := r.store.Wait(t.Context(), []catalog.Topic{catalog.CATopic()}, txn.Index()); err != nil {
			t.Fatal(err)
		}
	}
	if text := log.String(); !strings.Contains(text, "Vault is sealed") || strings.Contains(text, "canary-token") {
		t.Error(text)
	}
	r.do("GET", "/v1/connect/ca/configuration", "", 200, `"RootPKIPath":"pki"`)
	var all bytes.Buffer
	if _, err := r.store.Snapshot().WriteTo(&all); err != nil || bytes.Contains(all.Bytes(), []byte("canary-token")) {
		t.Error("the token is in clear in the servers' state", err)
	}
	state, err := r.store.Read().CA()
	if err != nil {
		t.Fatal(err)
	}
	if private, err := r.unseal(t.Context(), sealedCA, state.PrivateState); err != nil || !bytes.Contains(private, []byte("canary-token")) {
		t.Error("the control: the token is in the servers' state", err)
	}
}
