// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

// Who decides is reached as a service of the mesh, with limits and a cluster of its own beside that of the same service as an upstream; what
// is refused anyhow isn't asked about.
func TestAuthorizerIsAService(t *testing.T) {
	for _, weft := range []bool{false, true} {
		w := world(t)
		w.Abilities = xds.Abilities{Weft: weft}
		write(t, w, &catalog.ServiceDefaults{EntryHead: head("authz"), Protocol: "grpc"},
			&catalog.ServiceDefaults{EntryHead: head("web"), Protocol: "http", ExternalAuthorization: &catalog.ExternalAuthorization{
				Service: "authz", Requests: []catalog.IntentionHTTPPermission{{PathPrefix: "/admin"}}, Except: []catalog.IntentionHTTPPermission{{PathExact: "/admin/open"}},
			}},
			&catalog.ServiceIntentions{EntryHead: head("web"), Sources: []catalog.SourceIntention{{Name: "a", Action: "allow"}}},
			&catalog.ServiceSplitter{EntryHead: head("authz"), Splits: []catalog.ServiceSplit{{Weight: 10, ServiceSubset: "v2"}, {Weight: 90, ServiceSubset: "v1"}}},
			&catalog.ServiceResolver{EntryHead: head("authz"), Subsets: map[string]catalog.ServiceResolverSubset{"v1": {Filter: `Service.Meta.v == "1"`}, "v2": {}}})
		register(t, w, xdstest.Sidecar{Node: "n9", Address: "127.0.0.9", Service: "authz", Port: 1, PublicPort: 21009, Meta: map[string]string{"v": "1"}})
		_, p := render(t, w, register(t, w, web("authz")))
		var own string
		for name := range p.Clusters {
			if strings.HasPrefix(name, "ext_authz~v1.authz.") {
				own = name
			}
		}
		if a := p.Addresses(own); len(a) != 1 || len(a[0]) != 1 || !strings.HasPrefix(a[0][0], "127.0.0.9:21009") {
			t.Errorf("cluster %q: %v", own, a)
		}
		for path, want := range map[string]bool{"/": false, "/admin": true, "/admin/open": false, "/admin/x": true} {
			a, err := p.Inbound(w.ID("a"), intention.Request{Method: "GET", Path: path, Header: http.Header{}})
			if err != nil || !a.Allowed || a.Asked != want {
				t.Errorf("%s: %+v %v", path, a, err)
			}
		}
		if a, err := p.Inbound(w.ID("b"), intention.Request{Method: "GET", Path: "/admin", Header: http.Header{}}); err != nil || a.Allowed || a.Asked {
			t.Errorf("%+v %v", a, err)
		}
	}
}

// Where requests can't be seen, or who decides can't be asked, nobody gets by.
func TestAuthorizerThatCantBeAsked(t *testing.T) {
	w := world(t)
	w.DefaultAllow = true
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("web"), ExternalAuthorization: &catalog.ExternalAuthorization{Service: "authz"}})
	proxy := register(t, w, web())
	out, p := render(t, w, proxy)
	if a, err := p.Inbound(w.ID("a"), intention.Request{}); err != nil || a.Allowed || !strings.Contains(strings.Join(out.Warnings, "\n"), "nobody may call") {
		t.Errorf("%+v %v %q", a, err, out.Warnings)
	}
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("web"), Protocol: "http", ExternalAuthorization: &catalog.ExternalAuthorization{Service: "authz"}})
	out, p = render(t, w, proxy)
	if a, err := p.Inbound(w.ID("a"), intention.Request{Path: "/"}); err != nil || !a.Asked || p.Clusters["ext_authz"] == nil || len(p.Addresses("ext_authz")) != 0 ||
		!strings.Contains(strings.Join(out.Warnings, "\n"), "service authz can't be asked") {
		t.Errorf("%+v %v %q", a, err, out.Warnings)
	}
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("web")}, &catalog.ProxyDefaults{ExternalAuthorization: &catalog.ExternalAuthorization{Address: "/run/authz"}})
	if out, p = render(t, w, proxy); len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "proxy-defaults' ExternalAuthorization isn't for service web") {
		t.Errorf("%q", out.Warnings)
	}
	if a, err := p.Inbound(w.ID("a"), intention.Request{}); err != nil || !a.Allowed {
		t.Errorf("%+v %v", a, err)
	}
}
