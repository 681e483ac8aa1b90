// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
)

// What a configuration says in Envoy's own words takes the place of what would be rendered, but for names, and who a peer must be. Weft's
// own proxy, and what can't be used, get the ordinary one and a warning.
func TestEscapes(t *testing.T) {
	cluster := `{"name": "mine", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}, "connect_timeout": "7s"}`
	listener := `{"name": "mine", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 4444}}, "filter_chains": [{"filters": [{
		"name": "tcp", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "mine",
		"cluster": "db.default.dc1.internal.11111111-2222-3333-4444-555555555555.consul"}}]}]}`
	for _, c := range []struct {
		weft     bool
		cluster  string
		listener string
		warnings []string
		seconds  int
	}{
		{false, cluster, listener, nil, 7},
		{true, cluster, "", []string{"envoy_local_cluster_json is for Envoy", "envoy_cluster_json is for Envoy"}, 5},
		{false, `{"name": "mine", "conect_timeout": "7s"}`, "", []string{"envoy_local_cluster_json can't be used", `unknown field "conect_timeout"`}, 5},
	} {
		w := world(t)
		w.Abilities = xds.Abilities{Weft: c.weft}
		write(t, w, &catalog.ServiceDefaults{EntryHead: head("db"), Protocol: "tcp"})
		s := web("db")
		s.Config = catalog.Opaque{"envoy_local_cluster_json": strings.Replace(c.cluster, `"type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}`, `"type": "STATIC"`, 1), "envoy_public_listener_json": "{}"}
		s.Upstreams[0].Config = catalog.Opaque{"envoy_cluster_json": c.cluster}
		if c.listener != "" {
			s.Upstreams[0].Config["envoy_listener_json"] = c.listener
		}
		out, p := render(t, w, register(t, w, s))
		found := 0
		for name, cl := range p.Clusters {
			if strings.HasPrefix(name, "db.") || name == "local_app" {
				found++
				if got := cl.GetConnectTimeout().AsDuration(); got != time.Duration(c.seconds)*time.Second {
					t.Errorf("%s: %s, want %d s", name, got, c.seconds)
				}
				if cl.GetName() != name || (cl.GetTransportSocket() == nil) != (name == "local_app") {
					t.Errorf("%s is called %s, over %v", name, cl.GetName(), cl.GetTransportSocket())
				}
			}
		}
		if found != 2 || (p.Listeners["mine"] != nil) != (c.listener != "") {
			t.Errorf("clusters %v, listeners %v", p.Clusters, p.Listeners)
		}
		for _, want := range append(c.warnings, "envoy_public_listener_json has no effect") {
			if all := strings.Join(out.Warnings, "\n"); !strings.Contains(strings.ReplaceAll(all, "\u00a0", " "), want) {
				t.Errorf("no warning %q in\n%s", want, all)
			}
		}
	}
}

// A cluster of one's own can stand for one alone.
func TestEscapedClusterOfSeveral(t *testing.T) {
	w := world(t)
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("db"), Protocol: "tcp"},
		&catalog.ServiceResolver{EntryHead: head("db"), Failover: map[string]catalog.ServiceResolverFailover{"*": {Service: "spare"}}})
	s := web("db")
	s.Upstreams[0].Config = catalog.Opaque{"envoy_cluster_json": `{"name": "mine"}`}
	out, _ := render(t, w, register(t, w, s))
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "several clusters") {
		t.Errorf("warnings %q", out.Warnings)
	}
}
