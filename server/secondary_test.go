// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/plane"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// leafOf asks r for the certificate of a service that is registered on the node.
func leafOf(t *testing.T, r *running, id identity.Service, node string) ca.Leaf {
	t.Helper()
	key, err := ca.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.CSR(id, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := r.ca.Sign(t.Context(), &weftv1.SignRequest{Node: node, CsrPem: csr})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.NewLeaf(id, key, signed.GetCertPem(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func trusts(t *testing.T, r *running, leaf ca.Leaf) error {
	t.Helper()
	state, err := r.store.Read().CA()
	if err != nil {
		t.Fatal(err)
	}
	pool, err := ca.Pool(state.Roots)
	if err != nil {
		t.Fatal(err)
	}
	var chain [][]byte
	for block, rest := pem.Decode([]byte(leaf.CertPEM)); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	_, err = identity.VerifyPeer(chain, pool, time.Now(), identity.Want{TrustDomain: identity.TrustDomain(state.TrustDomain()), Use: identity.AsClient})
	return err
}

// A secondary takes the primary's root, and an intermediate that it signed, also after the primary has rotated; who isn't a server of
// another datacenter gets none.
func TestOneTrustOverDatacenters(t *testing.T) {
	w := &world{t: t, net: memnet.New(), primary: "dc1", proved: &plane.Peer{Server: true, Datacenter: "dcx"}}
	one, two := w.server("dc1", "10.0.0.1"), w.server("dc2", "10.0.0.2")
	w.meet(one, two)
	rooted := func() func(*catalog.Txn) bool {
		state, _ := one.store.Read().CA()
		return func(txn *catalog.Txn) bool {
			own, _ := txn.CA()
			return own != nil && own.ClusterID == state.ClusterID && own.ActiveRootID == state.ActiveRootID
		}
	}
	inForce := func() { // what is in the catalog is in force when the change is over
		two.ca.changes.Lock()
		two.ca.changes.Unlock() //nolint:staticcheck // it is waited for, no more
	}
	two.eventually("the primary's root", rooted())
	inForce()
	domain := func() identity.TrustDomain {
		state, _ := two.store.Read().CA()
		return identity.TrustDomain(state.TrustDomain())
	}()
	one.do("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.1.0.1","Service":{"Service":"web"}}`, 200, "true")
	two.do("PUT", "/v1/catalog/register", `{"Node":"n2","Address":"10.2.0.1","Service":{"Service":"api"}}`, 200, "true")
	api := identity.Service{TrustDomain: domain, Datacenter: "dc2", Service: "api"}
	web := identity.Service{TrustDomain: domain, Datacenter: "dc1", Service: "web"}
	check := func(what string) {
		t.Helper()
		if err := trusts(t, one, leafOf(t, two, api, "n2")); err != nil {
			t.Errorf("%s: dc1 doesn't trust dc2: %v", what, err)
		}
		if err := trusts(t, two, leafOf(t, one, web, "n1")); err != nil {
			t.Errorf("%s: dc2 doesn't trust dc1: %v", what, err)
		}
	}
	check("at first")
	if err := one.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	two.eventually("the primary's next root", rooted())
	inForce()
	check("after a rotation")
	two.do("PUT", "/v1/connect/ca/configuration", `{"Provider":"consul","Config":{"RootCertTTL":"9000h"}}`, 400, "dc=dc1")
	const path = "/v1/weft/ca/intermediate"
	for what, c := range map[string]struct {
		peer   *plane.Peer
		header string // besides its own
		code   int
		want   string
	}{
		"nobody":             {nil, wanHop, 403, "set encrypt or tls"},
		"an agent":           {&plane.Peer{Node: "n1"}, wanHop, 400, "only the servers of other datacenters"},
		"through an agent":   {&plane.Peer{Server: true}, "X-Weft-Hop", 400, "only the servers of other datacenters"},
		"through our server": {&plane.Peer{Server: true}, hop, 400, "only the servers of other datacenters"},
		"a server":           {&plane.Peer{Server: true}, wanHop, 400, "certificate request refused"},
	} {
		r := httptest.NewRequest("PUT", path, strings.NewReader(`{"CSR":"x"}`))
		r.Header.Set(c.header, "n1")
		if c.peer != nil {
			r = r.WithContext(plane.WithPeer(r.Context(), *c.peer))
		}
		rec := httptest.NewRecorder()
		one.Handler().ServeHTTP(rec, r)
		if rec.Code != c.code || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s: %d %s", what, rec.Code, rec.Body)
		}
	}
}

// Where tokens decide, one that may write operator gets a signature over a connection that proves nothing, and nobody else does.
func TestIntermediateByToken(t *testing.T) {
	for _, c := range []struct {
		allow bool // by default
		token string
		code  int
		want  string
	}{
		{false, rootSecret, 400, "certificate request refused"},
		{false, "", 403, "Permission denied"},
		{true, rootSecret, 403, "set encrypt or tls"},
	} {
		r := startWith(t, Config{ACL: ACLConfig{Enabled: true, Allow: c.allow, InitialManagement: rootSecret}})
		req := httptest.NewRequest("PUT", "/v1/weft/ca/intermediate", strings.NewReader(`{"CSR":"x"}`))
		if c.token != "" {
			req.Header.Set("X-Consul-Token", c.token)
		}
		rec := httptest.NewRecorder()
		r.Handler().ServeHTTP(rec, req)
		if rec.Code != c.code || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%+v: %d %s", c, rec.Code, rec.Body)
		}
	}
}

// Config entries and intentions are written in the primary, wherever that is asked for, and are the same in a secondary; what it had
// of its own goes.
func TestEntriesOfThePrimary(t *testing.T) {
	w := &world{t: t, net: memnet.New(), primary: "dc1"}
	one, two := w.server("dc1", "10.0.0.1"), w.server("dc2", "10.0.0.2")
	own := &catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: "own"}, Protocol: "http"}
	if _, err := two.Propose(t.Context(), catalog.SetEntry{Entry: catalog.EntryBox{Entry: own}}); err != nil {
		t.Fatal(err)
	}
	one.do("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"http"}`, 200, "true")
	one.do("PUT", "/v1/config", `{"Kind":"proxy-defaults","Name":"global","Config":{"local_connect_timeout_ms":7}}`, 200, "true")
	w.meet(one, two)
	names := func(txn *catalog.Txn) string {
		entries, err := txn.AllEntries()
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, e := range entries {
			out = append(out, e.EntryKind()+"/"+e.Head().Name+"@"+e.Head().Datacenter)
		}
		return strings.Join(out, " ")
	}
	two.eventually("as in the primary", func(txn *catalog.Txn) bool {
		return names(txn) == "proxy-defaults/global@dc2 service-defaults/api@dc2"
	})
	// Written in the secondary: done in the primary, and from there it comes.
	two.do("PUT", "/v1/connect/intentions/exact?source=web&destination=api", `{"Action":"deny"}`, 200, "true")
	one.do("GET", "/v1/connect/intentions/exact?source=web&destination=api", "", 200, `"deny"`)
	two.eventually("the intention", func(txn *catalog.Txn) bool { return strings.Contains(names(txn), "service-intentions/api@dc2") })
	two.do("GET", "/v1/connect/intentions/check?source=web&destination=api", "", 200, `"Allowed":false`)
	if h := two.do("DELETE", "/v1/config/service-defaults/api?dc=dc2", "", 200, ""); h.Get("X-Weft-Index") != "" {
		t.Errorf("the index of another datacenter is told: %v", h)
	}
	one.do("GET", "/v1/config/service-defaults/api", "", 404, "")
	two.eventually("the deletion", func(txn *catalog.Txn) bool {
		return names(txn) == "proxy-defaults/global@dc2 service-intentions/api@dc2"
	})
	// While the primary can't be asked, nothing is written, and what is here holds.
	_ = w.webs["dc1"].Close()
	two.do("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"x","Protocol":"http"}`, 500, "")
	if got := names(two.store.Read()); got != "proxy-defaults/global@dc2 service-intentions/api@dc2" {
		t.Errorf("after the cut: %s", got)
	}
}

// What is the primary's to write is written there once, also where the primary itself is asked to write it in a secondary: it would come back.
func TestPrimaryWritesForSecondaries(t *testing.T) {
	w := &world{t: t, net: memnet.New(), primary: "dc1"}
	one, two := w.server("dc1", "10.0.0.1"), w.server("dc2", "10.0.0.2")
	w.meet(one, two)
	for i, at := range []*running{one, two} {
		for j, dc := range []string{"dc1", "dc2"} {
			name := fmt.Sprintf("s%d%d", i, j)
			at.do("PUT", "/v1/config?dc="+dc, `{"Kind":"service-defaults","Name":"`+name+`","Protocol":"http"}`, 200, "true")
			at.do("PUT", "/v1/connect/intentions/exact?source=web&destination="+name+"&dc="+dc, `{"Action":"allow"}`, 200, "true")
			one.do("GET", "/v1/config/service-defaults/"+name, "", 200, `"Protocol":"http"`)
			one.do("GET", "/v1/connect/intentions/exact?source=web&destination="+name, "", 200, `"Action":"allow"`)
			two.eventually("as in the primary", func(txn *catalog.Txn) bool {
				e, err := txn.Entry(catalog.KindServiceDefaults, catalog.Scope{}.Default("dc2").Name(name))
				return err == nil && e != nil
			})
			at.do("DELETE", "/v1/config/service-defaults/"+name+"?dc="+dc, "", 200, "")
			one.do("GET", "/v1/config/service-defaults/"+name, "", 404, "")
		}
	}
}
