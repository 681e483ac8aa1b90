// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// TestGoClient does with Consul's own Go client what programs do with it.
func TestGoClient(t *testing.T) {
	enabled(t)
	c := agent(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *api.Client)
	}{
		{"KV", keys}, {"Txn", transactions}, {"Sessions", sessions}, {"Lock", lock}, {"Semaphore", semaphore},
		{"Services", services}, {"Blocking", blocking}, {"Catalog", external}, {"Connect", connect}, {"ConfigEntries", entries},
		{"Intentions", intentions}, {"Status", status}, {"PreparedQueries", queries},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, c) })
	}
}

func ok[T any](t *testing.T) func(v T, more any, err error) T {
	return func(v T, _ any, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func keys(t *testing.T, c *api.Client) {
	kv := c.KV()
	if p, meta, err := kv.Get("none", nil); err != nil || p != nil || meta.LastIndex == 0 {
		t.Fatalf("%v, %+v, %v", p, meta, err)
	}
	for _, key := range []string{"app/a", "app/b/c", "app//odd", "app/ü %2F?#&=+", "app/../up"} {
		if _, err := kv.Put(&api.KVPair{Key: key, Value: []byte(key), Flags: 9}, nil); err != nil {
			t.Fatal(err)
		}
		p := ok[*api.KVPair](t)(kv.Get(key, nil))
		if p == nil || string(p.Value) != key || p.Flags != 9 || p.Key != key {
			t.Errorf("%q: %+v", key, p)
		}
	}
	if list := ok[api.KVPairs](t)(kv.List("app/", nil)); len(list) != 5 {
		t.Errorf("%d entries", len(list))
	}
	if list := ok[[]string](t)(kv.Keys("app/", "/", nil)); fmt.Sprint(list) != "[app/../ app// app/a app/b/ app/ü %2F?#&=+]" {
		t.Errorf("%q", list)
	}
	p := ok[*api.KVPair](t)(kv.Get("app/a", nil))
	stale := &api.KVPair{Key: "app/a", Value: []byte("x"), ModifyIndex: p.ModifyIndex - 1}
	if done := ok[bool](t)(kv.CAS(stale, nil)); done {
		t.Error("a stale check-and-set was taken")
	}
	p.Value = []byte("new")
	if done := ok[bool](t)(kv.CAS(p, nil)); !done {
		t.Error("a check-and-set was refused")
	}
	if done := ok[bool](t)(kv.DeleteCAS(p, nil)); done { // it has another index by now
		t.Error("a stale delete was taken")
	}
	if _, err := kv.DeleteTree("app/", nil); err != nil {
		t.Fatal(err)
	}
	if list := ok[api.KVPairs](t)(kv.List("app/", nil)); len(list) != 0 {
		t.Errorf("%d entries are left", len(list))
	}
	_, err := kv.Put(&api.KVPair{Key: "big", Value: make([]byte, 512<<10+1)}, nil)
	var status api.StatusError
	if !errors.As(err, &status) || status.Code != 413 || !strings.Contains(status.Body, "max size: 524288 bytes") {
		t.Errorf("%v", err)
	}
}

func transactions(t *testing.T, c *api.Client) {
	done, result, _, err := c.KV().Txn(api.KVTxnOps{
		{Verb: api.KVSet, Key: "txn/a", Value: []byte("1")}, {Verb: api.KVGet, Key: "txn/a"}, {Verb: api.KVGetTree, Key: "txn/"},
	}, nil)
	if err != nil || !done || len(result.Results) != 3 || string(result.Results[1].Value) != "1" {
		t.Fatalf("%v %+v %v", done, result, err)
	}
	done, result, _, err = c.KV().Txn(api.KVTxnOps{
		{Verb: api.KVSet, Key: "txn/b"}, {Verb: api.KVCheckIndex, Key: "txn/a", Index: 1},
	}, nil)
	if err != nil || done || len(result.Errors) != 1 || result.Errors[0].OpIndex != 1 {
		t.Fatalf("%v %+v %v", done, result, err)
	}
	done, mixed, _, err := c.Txn().Txn(api.TxnOps{
		{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{Node: "ext", Address: "10.0.0.7", Meta: map[string]string{"external-node": "true"}}}},
		{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: "ext", Service: api.AgentService{ID: "db1", Service: "db", Port: 5432}}},
		{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{
			Node: "ext", CheckID: "c", Name: "c", Status: "passing", ServiceID: "db1",
			Definition: api.HealthCheckDefinition{TCP: "10.0.0.7:5432", IntervalDuration: 5 * time.Second},
		}}},
	}, nil)
	if err != nil || !done || len(mixed.Results) != 3 || mixed.Results[2].Check.Definition.IntervalDuration != 5*time.Second {
		t.Fatalf("%v %+v %v", done, mixed, err)
	}
	if list := ok[[]*api.ServiceEntry](t)(c.Health().Service("db", "", true, nil)); len(list) != 1 || list[0].Service.Port != 5432 {
		t.Errorf("%+v", list)
	}
}

func sessions(t *testing.T, c *api.Client) {
	s := c.Session()
	if id, _, err := s.Create(&api.SessionEntry{TTL: "1s"}, nil); err == nil {
		t.Errorf("%s", id)
	}
	id := ok[string](t)(s.Create(&api.SessionEntry{Name: "one", TTL: "10s", Behavior: api.SessionBehaviorDelete, LockDelay: time.Millisecond}, nil))
	info := ok[*api.SessionEntry](t)(s.Info(id, nil))
	if info == nil || info.Node != "host" || info.TTL != "10s" || info.Behavior != "delete" {
		t.Fatalf("%+v", info)
	}
	if again := ok[*api.SessionEntry](t)(s.Renew(id, nil)); again == nil || again.ID != id {
		t.Errorf("%+v", again)
	}
	pair := &api.KVPair{Key: "held", Value: []byte("x"), Session: id}
	if done := ok[bool](t)(c.KV().Acquire(pair, nil)); !done {
		t.Error("the lock wasn't had")
	}
	if list := ok[[]*api.SessionEntry](t)(s.Node("host", nil)); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	if _, err := s.Destroy(id, nil); err != nil {
		t.Fatal(err)
	}
	if p := ok[*api.KVPair](t)(c.KV().Get("held", nil)); p != nil {
		t.Errorf("%+v", p)
	}
	if gone := ok[*api.SessionEntry](t)(s.Renew(id, nil)); gone != nil {
		t.Errorf("%+v", gone)
	}
	free := ok[string](t)(s.CreateNoChecks(&api.SessionEntry{}, nil))
	defer func() { _, _ = s.Destroy(free, nil) }()
	if list := ok[[]*api.SessionEntry](t)(s.List(nil)); len(list) != 1 || len(list[0].NodeChecks) != 0 {
		t.Errorf("%+v", list)
	}
}

func lock(t *testing.T, c *api.Client) {
	first, err := c.LockKey("locks/leader")
	if err != nil {
		t.Fatal(err)
	}
	lost, err := first.Lock(nil)
	if err != nil || lost == nil {
		t.Fatal(err)
	}
	second, err := c.LockOpts(&api.LockOptions{Key: "locks/leader", LockWaitTime: 200 * time.Millisecond, LockTryOnce: true})
	if err != nil {
		t.Fatal(err)
	}
	if ch, err := second.Lock(nil); err != nil || ch != nil {
		t.Fatalf("two hold one lock: %v", err)
	}
	if err := first.Unlock(); err != nil {
		t.Fatal(err)
	}
	<-lost
	lost, err = second.Lock(nil)
	if err != nil || lost == nil {
		t.Fatalf("%v", err)
	}
	// A holder learns that its session was ended.
	p := ok[*api.KVPair](t)(c.KV().Get("locks/leader", nil))
	if _, err := c.Session().Destroy(p.Session, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		t.Error("the holder wasn't told that the lock is lost")
	}
	_ = second.Unlock()
}

func semaphore(t *testing.T, c *api.Client) {
	var held []*api.Semaphore
	for range 2 {
		s, err := c.SemaphorePrefix("sema/", 2)
		if err != nil {
			t.Fatal(err)
		}
		if ch, err := s.Acquire(nil); err != nil || ch == nil {
			t.Fatal(err)
		}
		held = append(held, s)
	}
	third, err := c.SemaphoreOpts(&api.SemaphoreOptions{Prefix: "sema/", Limit: 2, SemaphoreWaitTime: 200 * time.Millisecond, SemaphoreTryOnce: true})
	if err != nil {
		t.Fatal(err)
	}
	if ch, err := third.Acquire(nil); err != nil || ch != nil {
		t.Fatalf("three hold a semaphore of two: %v", err)
	}
	for _, s := range held {
		if err := s.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if err := third.Destroy(); err != nil {
		t.Error(err)
	}
}

func services(t *testing.T, c *api.Client) {
	reg := &api.AgentServiceRegistration{
		ID: "web/1", Name: "web", Port: 8080, Tags: []string{"v1"}, Meta: map[string]string{"a": "b"},
		Check:   &api.AgentServiceCheck{TTL: "30s", Status: "passing", CheckID: "web-ttl"},
		Weights: &api.AgentWeights{Passing: 3, Warning: 1},
	}
	if err := c.Agent().ServiceRegister(reg); err != nil {
		t.Fatal(err)
	}
	svc, _, err := c.Agent().Service("web/1", nil)
	if err != nil || svc.Port != 8080 || svc.Weights.Passing != 3 || svc.Meta["a"] != "b" {
		t.Fatalf("%+v %v", svc, err)
	}
	until(t, "web is passing in the catalog", func() error {
		list, _, err := c.Health().Service("web", "v1", true, nil)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d instances", len(list))
		}
		return err
	})
	if err := c.Agent().UpdateTTL("web-ttl", "bad", "critical"); err != nil {
		t.Fatal(err)
	}
	until(t, "web is critical in the catalog", func() error {
		list, _, err := c.Health().Service("web", "", true, nil)
		if err == nil && len(list) != 0 {
			err = fmt.Errorf("%d instances", len(list))
		}
		return err
	})
	state, _, err := c.Agent().AgentHealthServiceByID("web/1")
	if err != nil || state != "critical" {
		t.Errorf("%s %v", state, err)
	}
	if err := c.Agent().PassTTL("web-ttl", ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Agent().EnableServiceMaintenance("web/1", "later"); err != nil {
		t.Fatal(err)
	}
	if err := c.Agent().DisableServiceMaintenance("web/1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Agent().ServiceDeregister("web/1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Agent().ServiceDeregister("web/1"); err == nil || !strings.Contains(err.Error(), "Unknown service ID") {
		t.Errorf("%v", err)
	}
}

func blocking(t *testing.T, c *api.Client) {
	_, meta, err := c.Health().Service("late", "", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, same, err := c.Health().Service("late", "", true, &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 300 * time.Millisecond})
	if err != nil || same.LastIndex != meta.LastIndex || time.Since(began) < 300*time.Millisecond {
		t.Errorf("%+v after %v, %v", same, time.Since(began), err)
	}
	done := make(chan error, 1)
	go func() {
		list, _, err := c.Health().Service("late", "", true, &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: time.Minute})
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d instances", len(list))
		}
		done <- err
	}()
	if err := c.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "late", Port: 1}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	_, meta, err = c.KV().Get("watched", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		p, _, err := c.KV().Get("watched", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: time.Minute, RequireConsistent: true})
		if err == nil && p == nil {
			err = errors.New("woken for nothing")
		}
		done <- err
	}()
	if _, err := c.KV().Put(&api.KVPair{Key: "watched", Value: []byte("1")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func external(t *testing.T, c *api.Client) {
	cat := c.Catalog()
	if _, err := cat.Register(&api.CatalogRegistration{
		Node: "outside", Address: "10.1.1.1", NodeMeta: map[string]string{"external-node": "true"},
		Service: &api.AgentService{ID: "mail1", Service: "mail", Port: 25, Tags: []string{"smtp"}},
		Checks:  api.HealthChecks{{Name: "up", Status: "warning", ServiceID: "mail1"}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	list := ok[[]*api.CatalogService](t)(cat.Service("mail", "smtp", &api.QueryOptions{NodeMeta: map[string]string{"external-node": "true"}}))
	if len(list) != 1 || list[0].ServicePort != 25 || list[0].Address != "10.1.1.1" {
		t.Fatalf("%+v", list)
	}
	nodes := ok[[]*api.Node](t)(cat.Nodes(&api.QueryOptions{Filter: `Node == "outside"`}))
	if len(nodes) != 1 {
		t.Errorf("%+v", nodes)
	}
	if names := ok[map[string][]string](t)(cat.Services(nil)); fmt.Sprint(names["mail"]) != "[smtp]" {
		t.Errorf("%v", names)
	}
	if l := ok[*api.CatalogNodeServiceList](t)(cat.NodeServiceList("outside", nil)); len(l.Services) != 1 {
		t.Errorf("%+v", l)
	}
	if checks := ok[api.HealthChecks](t)(c.Health().State("warning", nil)); len(checks) != 1 {
		t.Errorf("%+v", checks)
	}
	if _, err := cat.Deregister(&api.CatalogDeregistration{Node: "outside"}, nil); err != nil {
		t.Fatal(err)
	}
	if n := ok[*api.CatalogNode](t)(cat.Node("outside", nil)); n != nil {
		t.Errorf("%+v", n)
	}
	if dcs, err := cat.Datacenters(); err != nil || fmt.Sprint(dcs) != "[dc1]" {
		t.Errorf("%v %v", dcs, err)
	}
}

func connect(t *testing.T, c *api.Client) {
	if err := c.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "shop", Port: 80, Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{}},
	}); err != nil {
		t.Fatal(err)
	}
	roots := ok[*api.CARootList](t)(c.Agent().ConnectCARoots(nil))
	if len(roots.Roots) == 0 || roots.TrustDomain == "" {
		t.Fatalf("%+v", roots)
	}
	until(t, "a leaf", func() error {
		leaf, _, err := c.Agent().ConnectCALeaf("shop", nil)
		if err == nil && (leaf.PrivateKeyPEM == "" || !strings.HasSuffix(leaf.ServiceURI, "/svc/shop")) {
			err = fmt.Errorf("%+v", leaf)
		}
		return err
	})
	until(t, "its sidecar", func() error {
		list, _, err := c.Health().Connect("shop", "", false, nil)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d instances", len(list))
		}
		return err
	})
	conf, _, err := c.Connect().CAGetConfig(nil)
	if err != nil || conf.Provider != "consul" {
		t.Errorf("%+v %v", conf, err)
	}
	chain, _, err := c.DiscoveryChain().Get("shop", nil, nil)
	if err != nil || chain.Chain.ServiceName != "shop" || chain.Chain.StartNode == "" || len(chain.Chain.Targets) != 1 {
		t.Errorf("%+v %v", chain, err)
	}
}

func entries(t *testing.T, c *api.Client) {
	ce := c.ConfigEntries()
	if done, _, err := ce.Set(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "shop", Protocol: "http"}, nil); err != nil || !done {
		t.Fatal(err)
	}
	got, _, err := ce.Get(api.ServiceDefaults, "shop", nil)
	if err != nil || got.(*api.ServiceConfigEntry).Protocol != "http" {
		t.Fatalf("%+v %v", got, err)
	}
	_, _, err = ce.Get(api.ServiceDefaults, "none", nil)
	var status api.StatusError
	if !errors.As(err, &status) || status.Code != 404 || !strings.Contains(status.Body, `Config entry not found for "service-defaults" / "none"`) {
		t.Errorf("%v", err)
	}
	if done, _, err := ce.CAS(&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "shop", Protocol: "grpc"}, 1, nil); err != nil || done {
		t.Errorf("%v %v", done, err)
	}
	if _, _, err := ce.Set(&api.ServiceResolverConfigEntry{
		Kind: api.ServiceResolver, Name: "shop", ConnectTimeout: 3 * time.Second,
		Subsets: map[string]api.ServiceResolverSubset{"v1": {Filter: `Service.Meta.version == "1"`}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	res, _, err := ce.Get(api.ServiceResolver, "shop", nil)
	if err != nil || res.(*api.ServiceResolverConfigEntry).ConnectTimeout != 3*time.Second {
		t.Errorf("%+v %v", res, err)
	}
	list, _, err := ce.List(api.ServiceResolver, nil)
	if err != nil || len(list) != 1 {
		t.Errorf("%+v %v", list, err)
	}
	for _, kind := range []string{api.ServiceResolver, api.ServiceDefaults} {
		if _, err := ce.Delete(kind, "shop", nil); err != nil {
			t.Error(err)
		}
	}
}

func intentions(t *testing.T, c *api.Client) {
	con := c.Connect()
	if _, err := con.IntentionUpsert(&api.Intention{SourceName: "a", DestinationName: "b", Action: api.IntentionActionDeny}, nil); err != nil {
		t.Fatal(err)
	}
	in, _, err := con.IntentionGetExact("a", "b", nil)
	if err != nil || in == nil || in.Action != "deny" || in.Precedence != 9 {
		t.Fatalf("%+v %v", in, err)
	}
	allowed, _, err := con.IntentionCheck(&api.IntentionCheck{Source: "a", Destination: "b", SourceType: api.IntentionSourceConsul}, nil)
	if err != nil || allowed {
		t.Errorf("%v %v", allowed, err)
	}
	if list := ok[[]*api.Intention](t)(con.Intentions(nil)); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	if m := ok[map[string][]*api.Intention](t)(con.IntentionMatch(&api.IntentionMatch{By: api.IntentionMatchDestination, Names: []string{"b"}}, nil)); len(m["b"]) != 1 {
		t.Errorf("%+v", m)
	}
	if _, err := con.IntentionDeleteExact("a", "b", nil); err != nil {
		t.Error(err)
	}
	if in, _, err := con.IntentionGetExact("a", "b", nil); err != nil || in != nil {
		t.Errorf("%+v %v", in, err)
	}
	id, _, err := con.IntentionCreate(&api.Intention{SourceName: "x", DestinationName: "y", Action: api.IntentionActionAllow}, nil) //nolint:staticcheck // the old form is what is tested
	if err != nil || id == "" {
		t.Fatal(err)
	}
	if _, err := con.IntentionDelete(id, nil); err != nil {
		t.Error(err)
	}
}

func queries(t *testing.T, c *api.Client) {
	pq := c.PreparedQuery()
	if _, err := c.Catalog().Register(&api.CatalogRegistration{
		Node: "q1", Address: "10.2.2.2", Service: &api.AgentService{Service: "cache", Port: 6379, Tags: []string{"primary"}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	id, _, err := pq.Create(&api.PreparedQueryDefinition{
		Name: "find-", Template: api.QueryTemplate{Type: "name_prefix_match"},
		Service: api.ServiceQuery{Service: "${name.suffix}", OnlyPassing: true, Tags: []string{"primary"}, Near: "_agent"}, DNS: api.QueryDNSOptions{TTL: "5s"},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := pq.Execute("find-cache", nil)
	if err != nil || len(got.Nodes) != 1 || got.Nodes[0].Service.Port != 6379 || got.DNS.TTL != "5s" || got.Datacenter != "dc1" {
		t.Fatalf("%+v %v", got, err)
	}
	list, _, err := pq.Get(id, nil)
	if err != nil || len(list) != 1 || list[0].Template.Type != "name_prefix_match" {
		t.Fatalf("%+v %v", list, err)
	}
	list[0].Service.Tags = []string{"!primary"}
	if _, err := pq.Update(list[0], nil); err != nil {
		t.Fatal(err)
	}
	if got, _, err := pq.Execute("find-cache", nil); err != nil || len(got.Nodes) != 0 {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := pq.Delete(id, nil); err != nil {
		t.Error(err)
	}
	if all, _, err := pq.List(nil); err != nil || len(all) != 0 {
		t.Errorf("%+v %v", all, err)
	}
}

func status(t *testing.T, c *api.Client) {
	if leader, err := c.Status().Leader(); err != nil || leader == "" {
		t.Errorf("%q %v", leader, err)
	}
	if peers, err := c.Status().Peers(); err != nil || len(peers) != 1 {
		t.Errorf("%q %v", peers, err)
	}
	self, err := c.Agent().Self()
	if err != nil || self["Config"]["NodeName"] != "host" {
		t.Errorf("%v %v", self, err)
	}
	// Programs that wait for their agent wait for these two.
	if checks, _, err := c.Health().Node("host", nil); err != nil ||
		!slices.ContainsFunc(checks, func(c *api.HealthCheck) bool { return c.CheckID == "serfHealth" && c.Status == api.HealthPassing }) {
		t.Errorf("checks of the node: %+v %v", checks, err)
	}
	if list, _, err := c.Catalog().Service("consul", "", nil); err != nil || len(list) != 1 || list[0].Node != "host" {
		t.Errorf("the service consul: %+v %v", list, err)
	}
	if _, err := c.Raw().Query("/v1/nothing", &bytes.Buffer{}, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v", err)
	}
}
