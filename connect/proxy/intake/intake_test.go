// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func at(port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func tcpListener(t *testing.T) *listenerv3.Listener {
	return &listenerv3.Listener{Name: "l", Address: at(1), FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name: "tcp", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, &tcpv3.TcpProxy{
			StatPrefix: "s", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "c"},
		})},
	}}}}}
}

func httpListener(t *testing.T, auth *httprbacv3.RBAC) *listenerv3.Listener {
	filter := func(name string, m proto.Message) *hcmv3.HttpFilter {
		return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, m)}}
	}
	return &listenerv3.Listener{Name: "l", Address: at(1), FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, &hcmv3.HttpConnectionManager{
			StatPrefix:     "s",
			RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{Name: "r"}},
			HttpFilters:    []*hcmv3.HttpFilter{filter("rbac", auth), filter("router", &routerv3.Router{})},
		})},
	}}}}}
}

func update(t *testing.T, w *world, typeURL, name string, m proto.Message) error {
	t.Helper()
	return w.update(typeURL, map[string]named{name: {"1", pack(t, m)}}, nil)
}

// A proxy whose server is gone asks for it again and again, but not without a pause: that would take the host's processor
// from the server that is about to come back.
func TestAServerThatIsGoneIsAskedInMeasure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xds.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tries.Add(1)
			_ = conn.Close()
		}
	}()
	c, err := New(Config{ID: "p", Service: "s", Address: "unix:" + path, Apply: func(*config.Snapshot) {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if n := tries.Load(); n < 2 || n > 40 {
		t.Errorf("%d tries in a second", n)
	}
}

// The proxy is given what it doesn't know, each with the same thing without it, which it takes.
func TestC36_NeverLessStrict(t *testing.T) {
	allowAll := &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW}
	matched := tcpListener(t)
	matched.FilterChains[0].FilterChainMatch = &listenerv3.FilterChainMatch{SourcePorts: []uint32{1}}
	dst := tcpListener(t)
	dst.UseOriginalDst = wrapperspb.Bool(true)
	revoking := &tlsv3.Secret{Name: "roots", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		Crl: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "x"}},
	}}}
	for _, c := range []struct {
		name, typeURL string
		control, bad  proto.Message
		says          string
	}{
		{"rules of an HTTP filter", listenerType, httpListener(t, &httprbacv3.RBAC{}), httpListener(t, &httprbacv3.RBAC{Rules: allowAll}), "rules"},
		{"filter chain match", listenerType, tcpListener(t), matched, "source_ports: not known to this proxy"},
		{"original destination", listenerType, tcpListener(t), dst, "use_original_dst"},
		{"revocation list", secretType, nil, revoking, "crl: not known to this proxy"},
		{
			"unknown balancing", clusterType, &clusterv3.Cluster{Name: "c"},
			&clusterv3.Cluster{Name: "c", LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED}, "lb_policy CLUSTER_PROVIDED",
		},
		{
			"TLS only for some routes", routeType, &routev3.RouteConfiguration{Name: "r"},
			&routev3.RouteConfiguration{Name: "r", VirtualHosts: []*routev3.VirtualHost{{Name: "v", Domains: []string{"*"}, RequireTls: routev3.VirtualHost_ALL}}},
			"require_tls",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(time.Now)
			if c.control != nil {
				if err := update(t, w, c.typeURL, "x", c.control); err != nil {
					t.Fatalf("the control is refused: %v", err)
				}
			}
			if err := update(t, w, c.typeURL, "x", c.bad); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
		})
	}
}

// A rule about a field that codecs take off can't be decided: nobody passes by it, nor by its negation.
func TestC36_RulesAboutFraming(t *testing.T) {
	for name, want := range map[string]config.RuleKind{"Connection": config.Undecidable, "content-length": config.Undecidable, "x-role": config.HeaderIs, "upgrade": config.HeaderIs} {
		m := &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
		permission, err := compilePermission(&rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: m}})
		principal, err2 := compilePrincipal(&rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: m}})
		if err != nil || err2 != nil || permission.Kind != want || principal.Kind != want {
			t.Errorf("%s: %v %v, %v %v", name, permission.Kind, err, principal.Kind, err2)
		}
	}
}

// TestWaitsForWhatIsReferredTo gives out no configuration until all of it is there, and shares what didn't change.
func TestWaitsForWhatIsReferredTo(t *testing.T) {
	w := newWorld(time.Now)
	eds := &clusterv3.Cluster{Name: "c", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}, EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{}}
	if err := update(t, w, clusterType, "c", eds); err != nil {
		t.Fatal(err)
	}
	if err := update(t, w, listenerType, "l", tcpListener(t)); err != nil {
		t.Fatal(err)
	}
	if w.assemble() != nil {
		t.Fatal("given out without endpoints")
	}
	put := func(ports ...uint32) {
		a := &endpointv3.ClusterLoadAssignment{ClusterName: "c", Endpoints: []*endpointv3.LocalityLbEndpoints{{}}}
		for _, p := range ports {
			a.Endpoints[0].LbEndpoints = append(a.Endpoints[0].LbEndpoints, &endpointv3.LbEndpoint{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at(p)}},
			})
		}
		if err := update(t, w, endpointType, "c", a); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 2)
	first := w.assemble()
	if first == nil || len(first.Clusters["c"].Endpoints) != 2 {
		t.Fatalf("got %+v", first)
	}
	put(2, 3)
	second := w.assemble()
	if second.Listeners["l"] != first.Listeners["l"] {
		t.Error("the listener is another although nothing of it changed")
	}
	if second.Clusters["c"].Endpoints[0] != first.Clusters["c"].Endpoints[1] {
		t.Error("an endpoint that stays is another")
	}
	put(2, 3)
	if third := w.assemble(); third.Clusters["c"] != second.Clusters["c"] {
		t.Error("the cluster is another although nothing of it changed")
	}
}

func TestStringForms(t *testing.T) {
	m := config.StringMatch{Kind: config.MatchPrefix, Text: "spiffe://td/", CaseFold: false}
	if !m.Matches("spiffe://td/ns/default") || m.Matches("spiffe://other/") {
		t.Error("prefix")
	}
}

// A proxy without upstreams has clusters that refer to nothing: they are no configuration before the listeners have come.
func TestClustersAloneAreNoConfiguration(t *testing.T) {
	w := newWorld(time.Now)
	if err := update(t, w, clusterType, "c", &clusterv3.Cluster{
		Name: "c", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: "c"},
	}); err != nil {
		t.Fatal(err)
	}
	if s := w.assemble(); s != nil {
		t.Errorf("clusters alone make %+v", s)
	}
	if err := update(t, w, listenerType, "l", tcpListener(t)); err != nil {
		t.Fatal(err)
	}
	if s := w.assemble(); s == nil || len(s.Listeners) != 1 {
		t.Errorf("with a listener: %+v", s)
	}
}

// Filter chains by server name are tunnels; anything more beside them is refused.
func TestServerNames(t *testing.T) {
	chain := func(cluster string, names ...string) *listenerv3.FilterChain {
		l := tcpListener(t)
		c := l.FilterChains[0]
		c.Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, &tcpv3.TcpProxy{
			StatPrefix: "s", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster},
		})}
		if names != nil {
			c.FilterChainMatch = &listenerv3.FilterChainMatch{ServerNames: names}
		}
		return c
	}
	inspector := &listenerv3.ListenerFilter{Name: "tls", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(t, &inspectorv3.TlsInspector{})}}
	listener := func(chains ...*listenerv3.FilterChain) *listenerv3.Listener {
		return &listenerv3.Listener{Name: "l", Address: at(1), ListenerFilters: []*listenerv3.ListenerFilter{inspector}, FilterChains: chains}
	}
	w := newWorld(time.Now)
	if err := update(t, w, listenerType, "l", listener(chain("a", "a.example", "*.a.example"), chain("rest"), chain("b", "b.example"))); err != nil {
		t.Fatal(err)
	}
	l := w.listeners["l"].config
	for name, want := range map[string]string{"a.example": "a", "x.a.example": "a", "b.example": "b", "": "rest", "c.example": "rest"} {
		if got := l.ByName(name).Cluster; got != want {
			t.Errorf("%q leads to %q, want %q", name, got, want)
		}
	}
	without := listener(chain("a", "a.example"))
	without.ListenerFilters = nil
	http := httpListener(t, &httprbacv3.RBAC{}).FilterChains[0]
	http.FilterChainMatch = &listenerv3.FilterChainMatch{ServerNames: []string{"h.example"}}
	for want, l := range map[string]*listenerv3.Listener{
		"tls_inspector": without, "tcp_proxy alone": listener(http), "has a chain already": listener(chain("a", "a.example"), chain("b", "a.example")),
		"of two, the first": listener(chain("a", "a.example"), chain("b"), chain("c")), "there is none": listener(),
	} {
		if err := update(t, newWorld(time.Now), listenerType, "l", l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a refusal with %q", err, want)
		}
	}
}
