// SPDX-License-Identifier: Apache-2.0

package consul_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/stormtest"
	"github.com/weftmesh/weft/server/consul"
	"github.com/weftmesh/weft/server/consul/consultest"
	"github.com/weftmesh/weft/server/tokens"
)

var config = consul.Config{Datacenter: "dc1", Schema: catalog.SchemaVersion}

// All that a state holds is in the catalog then, or is named.
func TestConvert(t *testing.T) {
	state := consultest.Whole()
	if !consul.Is(state) || consul.Is([]byte("weft-catalog\n\x01\x00\x00 and more of it")) {
		t.Error("Consul's states aren't told from others")
	}
	store, report, err := consul.Convert(bytes.NewReader(state), config)
	if err != nil {
		t.Fatal(err)
	}
	txn := store.Read()
	if txn.Index() <= 1000 || report.Index != 1000 {
		t.Errorf("index %d, Consul's %d", txn.Index(), report.Index)
	}
	scope := catalog.Scope{}.Default("dc1")
	web, err := txn.ConnectInstances(scope.Name("web"))
	if err != nil || len(web) != 1 || web[0].Service.Proxy.Upstreams[0].LocalBindPort != 9191 || web[0].Service.Owner != "agent" || web[0].Node.Meta["rack"] != "r1" {
		t.Errorf("%+v %v", web, err)
	}
	e, err := txn.KV(scope.Name("app/a"))
	if err != nil || string(e.Value) != "one\x00two" || e.Flags != 1<<63 {
		t.Errorf("%+v %v", e, err)
	}
	if lock, err := txn.KV(scope.Name("app/lock")); err != nil || lock.Session != "5d7c1c2e-0000-4000-8000-000000000001" {
		t.Errorf("%+v %v", lock, err)
	}
	si, err := catalog.EntryAs[*catalog.ServiceIntentions](txn, catalog.KindServiceIntentions, scope.Name("web"))
	if err != nil || si == nil || len(si.Sources) != 2 || si.Sources[1].Action != "deny" {
		t.Errorf("%+v %v", si, err)
	}
	token, err := txn.ACL(catalog.ACLTokens, "aaaaaaaa-0000-4000-8000-000000000002")
	if err != nil || token.Token == nil || token.Token.SecretHash != tokens.Hash("bbbbbbbb-0000-4000-8000-000000000002") || token.Token.CreateTime.Unix() != 1_600_000_001 {
		t.Errorf("%+v %v", token.Token, err)
	}
	if txn.ACLBootstrapped() == 0 {
		t.Error("anybody could bootstrap the ACLs")
	}
	if ca, err := txn.CA(); err != nil || ca.ClusterID != "eeeeeeee-0000-4000-8000-000000000001" {
		t.Errorf("%+v %v", ca, err)
	}
	taken := map[string]int{}
	for _, c := range report.Taken {
		taken[c.What] = c.Count
	}
	for what, n := range map[string]int{
		"nodes, services and checks": 5, "keys": 2, "sessions": 1, "config entries": 3, "ACL tokens": 2, "ACL policies": 2, "prepared queries": 1, "autopilot": 1, "CA configuration": 1,
	} {
		if taken[what] != n {
			t.Errorf("%d %s, want %d", taken[what], what, n)
		}
	}
	var left strings.Builder
	for _, l := range report.Left {
		left.WriteString(l.What + ": " + l.Why + "\n")
	}
	for _, want := range []string{
		`service "web1-sidecar-proxy" on node "n9": Service.Proxy.Upstreams[0].CentrallyConfigured`, `node "far": it is imported from the peer east`,
		"CA roots (1): weft's authority makes a root of its own",
	} {
		if !strings.Contains(left.String(), want) {
			t.Errorf("no %q in what was left:\n%s", want, &left)
		}
	}
	if n := len(report.Left); n != 3 {
		t.Errorf("%d things were left:\n%s", n, &left)
	}
}

// What can't be read, or mustn't be taken in part, is refused as a whole.
func TestRefused(t *testing.T) {
	whole := consultest.Whole()
	m := func(parts ...any) consultest.M {
		out := consultest.M{}
		for i := 0; i < len(parts); i += 2 {
			out[parts[i].(string)] = parts[i+1]
		}
		return out
	}
	for name, state := range map[string][]byte{
		"cut":       whole[:len(whole)-3],
		"junk":      append(bytes.Clone(whole), 2, 0xc1),
		"no fields": consultest.State(1, consultest.Record{Sort: 0, Value: 5}),
		"elsewhere": consultest.State(1, consultest.Record{Sort: 0, Value: m("Datacenter", "dc2", "Node", "n", "Address", "1.1.1.1")}),
		"an intention with something unknown that protects": consultest.State(1, consultest.Entry("service-intentions", m("Name", "web", "Sources",
			[]any{m("Name", "shop", "Action", "allow", "OnlyOnSundays", true)}))),
		"an intention that can't be": consultest.State(1, consultest.Entry("service-intentions", m("Name", "web", "Sources", []any{m("Name", "shop", "Action", "maybe")}))),
	} {
		if _, _, err := consul.Convert(bytes.NewReader(state), config); !errors.Is(err, consul.ErrUnreadable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzConvert(f *testing.F) {
	f.Add(consultest.Whole())
	f.Add(consultest.State(5))
	stormtest.Fuzz(f, func(t *testing.T, state []byte) {
		store, report, err := consul.Convert(bytes.NewReader(state), config)
		if err == nil && (store == nil || report == nil) {
			t.Error("neither a catalog nor an error")
		}
	})
}
