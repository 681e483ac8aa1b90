// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

const domain = "." + xdstest.ClusterID + ".consul"

func world(t *testing.T) *xdstest.World {
	t.Helper()
	w, err := xdstest.NewWorld(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func register(t *testing.T, w *xdstest.World, s xdstest.Sidecar) *catalog.Service {
	t.Helper()
	p, err := w.Register(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, w *xdstest.World, entries ...catalog.Entry) {
	t.Helper()
	if err := w.Write(entries...); err != nil {
		t.Fatal(err)
	}
}

func render(t *testing.T, w *xdstest.World, proxy *catalog.Service) (*xds.Output, *xdstest.Proxy) {
	t.Helper()
	leaf, err := w.Leaf(proxy.Proxy.DestinationServiceName)
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.Render(proxy, leaf)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.Render(proxy, leaf)
	if err != nil || again.ConfigHash != out.ConfigHash || len(out.Hash) == 0 {
		t.Fatalf("rendered twice: %q and %q, %v", out.Hash, again.Hash, err)
	}
	p, err := xdstest.Load(out)
	if err != nil {
		t.Fatal(err)
	}
	return out, p
}

func head(name string) catalog.EntryHead { return catalog.EntryHead{Name: name} }

func web(upstreams ...string) xdstest.Sidecar {
	s := xdstest.Sidecar{Service: "web", Port: 8080, PublicPort: 21000}
	for i, u := range upstreams {
		s.Upstreams = append(s.Upstreams, catalog.Upstream{DestinationName: u, LocalBindPort: 9000 + i})
	}
	return s
}

// What only weft's proxy knows reaches an Envoy as plain structures: with a type that it doesn't know it shows nobody what it has.
func TestForeignTypes(t *testing.T) {
	for _, weft := range []bool{false, true} {
		w := world(t)
		w.Abilities = xds.Abilities{Weft: weft}
		write(t, w, &catalog.ServiceDefaults{EntryHead: head("api"), Protocol: "http"}, &catalog.ServiceDefaults{EntryHead: head("web"), Protocol: "http"})
		out, _ := render(t, w, register(t, w, web("api")))
		typed, plain := false, false
		for _, list := range out.Resources {
			for _, r := range list {
				typed = typed || strings.Contains(string(r.Any.Value), "type.googleapis.com/weft.")
				plain = plain || strings.Contains(string(r.Any.Value), "service api")
			}
		}
		if typed != weft || !plain {
			t.Errorf("weft's proxy %v: types of weft's %v, the route's source %v", weft, typed, plain)
		}
	}
}

func TestNamesAndHealth(t *testing.T) {
	w := world(t)
	for _, i := range []struct{ node, address, status string }{
		{"a", "10.0.0.1", "passing"}, {"b", "10.0.0.2", "warning"}, {"c", "10.0.0.3", "critical"},
	} {
		register(t, w, xdstest.Sidecar{
			Service: "db", Node: i.node, Address: i.address,
			Port: 5432, PublicPort: 21001, Status: i.status,
		})
	}
	_, p := render(t, w, register(t, w, web("db")))
	cluster := "db.default.dc1.internal" + domain
	for _, name := range []string{"public_listener:0.0.0.0:21000", "db:127.0.0.1:9000"} {
		if p.Listeners[name] == nil {
			t.Errorf("no listener %s", name)
		}
	}
	if p.Clusters[cluster] == nil || p.Clusters[xds.LocalCluster] == nil || !p.Secrets[xds.LeafSecret] || !p.Secrets[xds.RootsSecret] {
		t.Errorf("clusters %v, secrets %v", p.Clusters, p.Secrets)
	}
	if got, want := p.Addresses(cluster), [][]string{{"10.0.0.1:21001*1", "10.0.0.2:21001*1"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("endpoints %v, want %v", got, want)
	}
	a, err := p.Outbound("db", intention.Request{})
	if err != nil || !reflect.DeepEqual(a.Clusters, map[string]uint32{cluster: 1}) {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestRouting(t *testing.T) {
	w := world(t)
	write(t, w,
		&catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http"}},
		&catalog.ServiceResolver{EntryHead: head("api"), DefaultSubset: "v1", Subsets: map[string]catalog.ServiceResolverSubset{
			"v1": {Filter: `Service.Meta.version == "1"`}, "v2": {Filter: `"canary" in Service.Tags`, OnlyPassing: true},
		}, Failover: map[string]catalog.ServiceResolverFailover{"v2": {ServiceSubset: "v1"}}},
		&catalog.ServiceSplitter{EntryHead: head("api"), Splits: []catalog.ServiceSplit{{Weight: 90, ServiceSubset: "v1"}, {Weight: 10, ServiceSubset: "v2"}}},
		&catalog.ServiceRouter{EntryHead: head("api"), Routes: []catalog.ServiceRoute{
			{
				Match:       &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{PathPrefix: "/admin", Methods: []string{"GET"}}},
				Destination: &catalog.ServiceRouteDestination{Service: "ops", RequestTimeout: time.Second},
			},
			{
				Match:       &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{Header: []catalog.ServiceRouteHTTPMatchHeader{{Name: "x-canary", Present: true}}}},
				Destination: &catalog.ServiceRouteDestination{ServiceSubset: "v2"},
			},
		}})
	register(t, w, xdstest.Sidecar{Service: "api", Node: "a", Address: "10.0.0.1", PublicPort: 21001, Meta: map[string]string{"version": "1"}})
	register(t, w, xdstest.Sidecar{Service: "api", Node: "b", Address: "10.0.0.2", PublicPort: 21001, Tags: []string{"canary"}})
	_, p := render(t, w, register(t, w, web("api")))
	v1, v2, ops := "v1.api.default.dc1.internal"+domain, "v2.api.default.dc1.internal"+domain, "ops.default.dc1.internal"+domain
	for _, c := range []struct {
		req     intention.Request
		want    map[string]uint32
		timeout time.Duration
	}{
		{intention.Request{Method: "GET", Path: "/admin/x"}, map[string]uint32{ops: 1}, time.Second},
		{intention.Request{Method: "PUT", Path: "/admin/x"}, map[string]uint32{v1: 9000, v2: 1000}, 15 * time.Second},
		{intention.Request{Method: "GET", Path: "/", Header: http.Header{"X-Canary": {""}}}, map[string]uint32{v2: 1}, 15 * time.Second},
	} {
		a, err := p.Outbound("api", c.req)
		if err != nil || !reflect.DeepEqual(a.Clusters, c.want) || a.Route.GetRoute().GetTimeout().AsDuration() != c.timeout {
			t.Errorf("%+v: %+v, %v", c.req, a, err)
		}
	}
	if got, want := p.Addresses(v2), [][]string{{"10.0.0.2:21001*1"}, {"10.0.0.1:21001*1"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("failover %v, want %v", got, want)
	}
}

// A changed intention of an HTTP service changes routes alone: no listener, so that no connection is drained.
func TestIntentionsOfHTTPChangeRoutesOnly(t *testing.T) {
	w := world(t)
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("web"), Protocol: "grpc"})
	proxy := register(t, w, web())
	leaf, err := w.Leaf("web")
	if err != nil {
		t.Fatal(err)
	}
	before, err := w.Render(proxy, leaf)
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, &catalog.ServiceIntentions{EntryHead: head("web"), Sources: []catalog.SourceIntention{{Name: "x", Action: "allow"}}})
	after, err := w.Render(proxy, leaf)
	if err != nil {
		t.Fatal(err)
	}
	var changed []string
	for url, all := range after.Resources {
		for i, r := range all {
			if before.Resources[url][i].Version != r.Version {
				changed = append(changed, url[strings.LastIndex(url, ".")+1:]+" "+r.Name)
			}
		}
	}
	if !slices.Equal(changed, []string{"RouteConfiguration public_listener"}) || before.Hash == after.Hash {
		t.Errorf("changed: %v", changed)
	}
}

func TestWhoseSettingHolds(t *testing.T) {
	w := world(t)
	write(t, w,
		&catalog.ProxyDefaults{Config: catalog.Opaque{"local_connect_timeout_ms": int64(1000), "bind_address": "127.0.0.9"}},
		&catalog.ServiceDefaults{EntryHead: head("web"), UpstreamConfig: &catalog.UpstreamDefaults{
			Defaults:  &catalog.UpstreamConfig{ConnectTimeoutMs: 2000},
			Overrides: []catalog.UpstreamConfig{{Name: "db", ConnectTimeoutMs: 3000}},
		}})
	s := web("db", "cache", "old")
	s.Upstreams[2].Config = catalog.Opaque{"connect_timeout_ms": int64(4000), "protocol": "http", "envoy_cluster_json": "{}"}
	out, p := render(t, w, register(t, w, s))
	timeout := func(prefix string) (d time.Duration) {
		for name, c := range p.Clusters {
			if strings.Contains(name, prefix) {
				d = c.GetConnectTimeout().AsDuration()
			}
		}
		return d
	}
	for prefix, want := range map[string]time.Duration{"local_app": time.Second, "db.": 3 * time.Second, "cache.": 2 * time.Second, "~old.": 4 * time.Second} {
		if got := timeout(prefix); got != want {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
	}
	if p.Listeners["public_listener:127.0.0.9:21000"] == nil || p.Routes["old:127.0.0.1:9002"] == nil {
		t.Errorf("listeners %v, routes %v", p.Listeners, p.Routes)
	}
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "envoy_cluster_json") {
		t.Errorf("warnings %q", out.Warnings)
	}
	s.Config = catalog.Opaque{"local_connect_timeout_ms": int64(500)}
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("web"), LocalConnectTimeoutMs: 700})
	if _, p = render(t, w, register(t, w, s)); timeout("local_app") != 500*time.Millisecond {
		t.Errorf("the registration's timeout doesn't win: %s", timeout("local_app"))
	}
}

func TestNotReady(t *testing.T) {
	w := world(t)
	proxy := register(t, w, web("db"))
	if _, err := w.Render(proxy, nil); !errors.Is(err, xds.ErrNotReady) {
		t.Errorf("without a certificate: %v", err)
	}
	leaf, err := w.Leaf("web")
	if err != nil {
		t.Fatal(err)
	}
	replica, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
	if err != nil {
		t.Fatal(err)
	}
	in := xds.Input{Txn: replica.Read(), Proxy: proxy, Leaf: leaf, DefaultAllow: true, Now: time.Now()}
	if out, err := xds.Render(in); !errors.Is(err, catalog.ErrNotCovered) || out != nil {
		t.Errorf("in an empty replica: %v", err)
	}
	// What gathering recorded on a server is what a replica needs.
	txn := w.Store.Read().Record()
	if _, err := xds.Gather(txn, proxy, false); err != nil {
		t.Fatal(err)
	}
	topics := txn.Topics()
	var items []catalog.Item
	for _, topic := range topics {
		i, err := txn.Items(topic)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, i...)
	}
	if err := replica.ApplyItems(catalog.Update{Position: w.Store.Position(), Items: items, Snapshot: topics, Covered: topics}); err != nil {
		t.Fatal(err)
	}
	in.Txn, in.DefaultAllow = replica.Read(), false
	there, err := xds.Render(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Txn = w.Store.Read()
	here, err := xds.Render(in)
	if err != nil || here.Hash != there.Hash {
		t.Errorf("a server and a replica render %q and %q, %v", here.Hash, there.Hash, err)
	}
}

func TestBootstrap(t *testing.T) {
	c := xds.BootstrapConfig{ProxyID: "web-1", Service: "web", ADSAddress: "unix:/run/x.sock", Secret: "s", AdminAddress: "127.0.0.1:19000"}
	data, err := xds.Bootstrap(c)
	if err != nil {
		t.Fatal(err)
	}
	var b struct {
		Node             struct{ ID, Cluster string }
		DynamicResources struct {
			ADSConfig struct {
				APIType      string `json:"api_type"`
				GRPCServices []struct {
					InitialMetadata []struct{ Key, Value string } `json:"initial_metadata"`
				} `json:"grpc_services"`
			} `json:"ads_config"`
		} `json:"dynamic_resources"`
	}
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	md := b.DynamicResources.ADSConfig.GRPCServices[0].InitialMetadata
	if b.Node.ID != "web-1" || b.Node.Cluster != "web" || b.DynamicResources.ADSConfig.APIType != "DELTA_GRPC" || len(md) != 1 || md[0].Key != "x-weft-proxy-secret" {
		t.Errorf("%+v", b)
	}
	for _, bad := range []string{"", "nohost", "host:80", "127.0.0.1:99999"} {
		c.ADSAddress = bad
		if _, err := xds.Bootstrap(c); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Upstreams that share a place are one listener, with a filter chain for each, chosen by server name.
func TestUpstreamsByServerName(t *testing.T) {
	w := world(t)
	for _, name := range []string{"one", "two", "rest"} {
		register(t, w, xdstest.Sidecar{Service: name, Port: 443, PublicPort: 21001})
	}
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("http"), Protocol: "http"})
	s := web()
	s.Upstreams = []catalog.Upstream{
		{DestinationName: "rest", LocalBindPort: 9443},
		{DestinationName: "one", LocalBindPort: 9443, Config: catalog.Opaque{"sni": "One.example"}},
		{DestinationName: "two", LocalBindPort: 9443, Config: catalog.Opaque{"sni": []any{"two.example", "*.two.example"}}},
		{DestinationName: "http", LocalBindPort: 9443, Config: catalog.Opaque{"sni": "http.example"}},
	}
	out, p := render(t, w, register(t, w, s))
	l := p.Listeners["sni:127.0.0.1:9443"]
	if len(p.Listeners) != 2 || len(l.GetListenerFilters()) != 1 || len(l.GetFilterChains()) != 3 {
		t.Fatalf("listeners %v", p.Listeners)
	}
	var got []string
	for _, c := range l.GetFilterChains() {
		got = append(got, c.GetName()+" "+strings.Join(c.GetFilterChainMatch().GetServerNames(), " "))
	}
	if want := []string{"rest ", "one one.example", "two two.example *.two.example"}; !slices.Equal(got, want) {
		t.Errorf("chains %q, want %q", got, want)
	}
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "for services of protocol tcp") {
		t.Errorf("warnings %q, want one about the service of protocol http", out.Warnings)
	}
}

// Only weft's own proxy is told to look what is spoken, and only where nobody has said it.
func TestUndeclared(t *testing.T) {
	for _, weft := range []bool{false, true} {
		w := world(t)
		w.Abilities = xds.Abilities{Weft: weft}
		write(t, w, &catalog.ServiceDefaults{EntryHead: head("said"), Protocol: "tcp"})
		for _, name := range []string{"said", "unsaid"} {
			register(t, w, xdstest.Sidecar{Service: name, Port: 80, PublicPort: 21001})
		}
		_, p := render(t, w, register(t, w, web("said", "unsaid")))
		for prefix, undeclared := range map[string]bool{"public_listener:": true, "unsaid:": true, "said:": false} {
			for name, l := range p.Listeners {
				if !strings.HasPrefix(name, prefix) {
					continue
				}
				detects := strings.Contains(l.String(), "weft.proxy.v1.Detect")
				if detects != (weft && undeclared) {
					t.Errorf("weft's proxy %v, listener %s: looks what is spoken: %v", weft, name, detects)
				}
			}
		}
		if c := p.Clusters["unsaid.default.dc1.internal"+domain].String(); strings.Contains(c, "use_downstream_protocol_config") != weft {
			t.Errorf("weft's proxy %v: cluster %s", weft, c)
		}
	}
}

// Where a registration names the users that the service runs as, weft's proxy is told for each upstream, and an Envoy, which couldn't keep to it, serves
// none and says so. What others call isn't touched.
func TestLocalIdentity(t *testing.T) {
	for _, weft := range []bool{false, true} {
		for _, bound := range []bool{false, true} {
			w := world(t)
			w.Abilities = xds.Abilities{Weft: weft}
			register(t, w, xdstest.Sidecar{Service: "api", Port: 80, PublicPort: 21001})
			proxy := register(t, w, web("api"))
			if bound {
				own := *proxy.Proxy
				own.LocalIdentity = &catalog.LocalIdentity{LocalProcesses: catalog.LocalProcesses{UIDs: []uint32{1000}, Units: []string{"web.service"}, Cgroups: []string{"/web"}}, Proxy: &catalog.LocalProcesses{UIDs: []uint32{7}}}
				proxy.Proxy = &own
			}
			out, p := render(t, w, proxy)
			served, kept, inbound := 0, 0, 0
			for name, l := range p.Listeners {
				is := strings.Contains(l.String(), "weft.proxy.v1.LocalPeer")
				switch {
				case strings.HasPrefix(name, "public_listener:"):
					inbound++
					if is {
						t.Error("what others call is kept to this host's users")
					}
				case is:
					kept++
					if text := l.String(); !strings.Contains(text, "web.service") || !strings.Contains(text, `"/web"`) {
						t.Errorf("units and cgroups don't come with it: %s", text)
					}
				default:
					served++
				}
			}
			warned := strings.Contains(strings.Join(out.Warnings, "\n"), "LocalIdentity is for weft's own proxy")
			want := [3]int{1, 0, 1} // served to all, kept to some, for others
			if bound && weft {
				want = [3]int{0, 1, 1}
			} else if bound {
				want = [3]int{0, 0, 1}
			}
			if !bound { // who the proxy is changes nothing that it does
				own := *proxy.Proxy
				own.LocalIdentity = &catalog.LocalIdentity{Proxy: &catalog.LocalProcesses{UIDs: []uint32{7}}}
				proxy.Proxy = &own
				if again, _ := render(t, w, proxy); again.ConfigHash != out.ConfigHash {
					t.Error("it is rendered otherwise for a proxy that is some processes' alone")
				}
			}
			if got := [3]int{served, kept, inbound}; got != want || warned != (bound && !weft) {
				t.Errorf("weft's proxy %v, bound %v: %v, want %v; warned %v", weft, bound, got, want, warned)
			}
		}
	}
}

// Envoys of before 1.37 don't know tags that are made of formats, and refuse all of a listener for one.
func TestTagsOfSpans(t *testing.T) {
	for version, tags := range map[string]bool{"1.36.4": false, "1.37.0": true, "1.40.0": true, "": true} {
		w := world(t)
		w.Abilities = xds.Abilities{Version: version}
		write(t, w, &catalog.ServiceDefaults{EntryHead: head("api"), Protocol: "http"},
			&catalog.ProxyDefaults{EntryHead: head("global"), Tracing: &catalog.Tracing{Collector: "http://127.0.0.1:4318"}})
		register(t, w, xdstest.Sidecar{Service: "api", Port: 80, PublicPort: 21001})
		_, p := render(t, w, register(t, w, web("api")))
		traced := 0
		for name, l := range p.Listeners {
			text := l.String()
			if !strings.Contains(text, "OpenTelemetryConfig") && !strings.Contains(text, "envoy.tracers.opentelemetry") {
				continue
			}
			traced++
			if got := strings.Contains(text, "custom_tags"); got != tags {
				t.Errorf("Envoy %q, listener %s: tags of formats: %v", version, name, got)
			}
		}
		if traced == 0 || p.Clusters[xds.CollectorCluster] == nil {
			t.Errorf("Envoy %q: %d listeners make spans", version, traced)
		}
	}
}

// A proxy's own access logs are in place of those of proxy-defaults.
func TestWhoseAccessLogs(t *testing.T) {
	w := world(t)
	write(t, w, &catalog.ProxyDefaults{EntryHead: head("global"), AccessLogs: &catalog.AccessLogs{Enabled: true, TextFormat: "of-all"}})
	proxy := register(t, w, web())
	for want, own := range map[string]*catalog.AccessLogs{"of-all": nil, "of-this": {Enabled: true, TextFormat: "of-this"}, "": {Enabled: false}} {
		changed := *proxy.Proxy
		changed.AccessLogs = own
		p := *proxy
		p.Proxy = &changed
		out, _ := render(t, w, &p)
		var all strings.Builder
		for _, list := range out.Resources {
			for _, r := range list {
				all.Write(r.Any.Value)
			}
		}
		for _, format := range []string{"of-all", "of-this"} {
			if got := strings.Contains(all.String(), format); got != (format == want) {
				t.Errorf("%+v: %s is there: %v", own, format, got)
			}
		}
	}
}

// TestRevoked: weft's own proxy is told of all that is revoked, Envoy by revocation lists, of which the chain that callers come in by bears a
// mark; what Envoy can't be told is warned of.
func TestRevoked(t *testing.T) {
	w := world(t)
	proxy := register(t, w, web())
	leaf, err := w.Leaf("web")
	if err != nil {
		t.Fatal(err)
	}
	with := func(weft bool, revoked []catalog.Revoked, lists ...string) *xds.Output {
		t.Helper()
		if err := w.Revoke(revoked, lists); err != nil {
			t.Fatal(err)
		}
		w.Abilities.Weft = weft
		out, err := w.Render(proxy, leaf)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	part := func(o *xds.Output, kind, name string) string {
		for _, r := range o.Resources[kind] {
			if strings.HasPrefix(r.Name, name) {
				return string(r.Any.GetValue())
			}
		}
		t.Fatalf("no %s %s", kind, name)
		return ""
	}
	serial := catalog.Revoked{Serial: "0a:0b"}
	uri := catalog.Revoked{URI: "spiffe://canary", Before: time.Now()}
	for _, weft := range []bool{true, false} {
		plain, marked := with(weft, nil), with(weft, []catalog.Revoked{serial, uri}, "a-list")
		roots := part(marked, xds.SecretType, xds.RootsSecret)
		if weft != strings.Contains(roots, "spiffe://canary") || weft != strings.Contains(roots, "0a:0b") || weft == strings.Contains(roots, "a-list") {
			t.Errorf("weft's own %v: %q", weft, roots)
		}
		if same := part(plain, xds.ListenerType, "public_listener") == part(marked, xds.ListenerType, "public_listener"); same != weft {
			t.Errorf("weft's own %v: the listener stays the same: %v", weft, same)
		}
		if warned := len(marked.Warnings) > len(plain.Warnings); warned == weft {
			t.Errorf("weft's own %v: warned %v", weft, marked.Warnings)
		}
	}
	one, other := with(false, []catalog.Revoked{serial}, "a-list"), with(false, []catalog.Revoked{serial}, "the list again")
	if part(one, xds.ListenerType, "public_listener") != part(other, xds.ListenerType, "public_listener") || len(one.Warnings) > 0 {
		t.Error("a list that is signed anew says nothing new")
	}
}
