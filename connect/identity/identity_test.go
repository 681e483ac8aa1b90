// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/stormtest"
)

const td = identity.TrustDomain("11111111-2222-3333-4444-555555555555.consul")

var forms = map[string]identity.Identity{
	"/ns/default/dc/dc1/svc/web":          identity.Service{TrustDomain: td, Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web"},
	"/ap/blue/ns/team-a/dc/dc1/svc/Web.2": identity.Service{TrustDomain: td, Partition: "blue", Namespace: "team-a", Datacenter: "dc1", Service: "Web.2"},
	"/ns/default/sa/batch":                identity.ServiceAccount{TrustDomain: td, Partition: "default", Namespace: "default", Name: "batch"},
	"/ap/blue/ns/n/sa/batch":              identity.ServiceAccount{TrustDomain: td, Partition: "blue", Namespace: "n", Name: "batch"},
	"/agent/client/dc/dc1/id/Node-1":      identity.Agent{TrustDomain: td, Partition: "default", Datacenter: "dc1", Node: "Node-1"},
	"/ap/b/agent/client/dc/dc1/id/n":      identity.Agent{TrustDomain: td, Partition: "b", Datacenter: "dc1", Node: "n"},
	"/agent/server/dc/dc1":                identity.Server{TrustDomain: td, Datacenter: "dc1"},
	"/gateway/mesh/dc/dc1":                identity.MeshGateway{TrustDomain: td, Partition: "default", Datacenter: "dc1"},
	"/ap/b/gateway/mesh/dc/dc1":           identity.MeshGateway{TrustDomain: td, Partition: "b", Datacenter: "dc1"},
	"":                                    identity.Signing{TrustDomain: td},
	// Names that look like the fixed segments are names like any other.
	"/ap/ap/ns/ns/dc/dc/svc/svc": identity.Service{TrustDomain: td, Partition: "ap", Namespace: "ns", Datacenter: "dc", Service: "svc"},
}

func TestFormsRoundTrip(t *testing.T) {
	for path, want := range forms {
		uri := "spiffe://" + string(td) + path
		got, err := identity.Parse(uri)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %#v, %v, want %#v", uri, got, err, want)
		}
		if want.String() != uri {
			t.Errorf("String() = %q, want %q", want, uri)
		}
		if want.Domain() != td {
			t.Errorf("%q: domain %q", uri, want.Domain())
		}
	}
}

var refused = []string{
	"",
	"spiffe://",
	"spiffe:///ns/default/dc/dc1/svc/web",
	"http://td/ns/default/dc/dc1/svc/web",
	"SPIFFE://td/ns/default/dc/dc1/svc/web",
	"spiffe:td/ns/default/dc/dc1/svc/web",
	"spiffe://TD/ns/default/dc/dc1/svc/web",
	"spiffe://td:8443/ns/default/dc/dc1/svc/web",
	"spiffe://u@td/ns/default/dc/dc1/svc/web",
	"spiffe://u:p@td/ns/default/dc/dc1/svc/web",
	"spiffe://./ns/default/dc/dc1/svc/web",
	"spiffe://../ns/default/dc/dc1/svc/web",
	"spiffe://@td/ns/default/dc/dc1/svc/web",
	"spiffe://td/ns/default/dc/dc1/svc/web?x=1",
	"spiffe://td/ns/default/dc/dc1/svc/web?",
	"spiffe://td/ns/default/dc/dc1/svc/web#x",
	"spiffe://td/ns/default/dc/dc1/svc/web#",
	"spiffe://td/ns/default/dc/dc1/svc/web/",
	"spiffe://td//ns/default/dc/dc1/svc/web",
	"spiffe://td/ns//dc/dc1/svc/web",
	"spiffe://td/ns/default/dc/dc1/svc/",
	"spiffe://td/ns/default/dc/dc1/svc/.",
	"spiffe://td/ns/default/dc/dc1/svc/..",
	"spiffe://td/ns/default/dc/../svc/web",
	"spiffe://td/ns/default/dc/dc1/svc/web/../api",
	"spiffe://td/ns/default/dc/dc1/svc/web%2fapi",
	"spiffe://td/ns/default/dc/dc1/svc/w%65b",
	"spiffe://td/ns/default/dc/dc1/svc/w eb",
	"spiffe://td/ns/default/dc/dc1/svc/wéb",
	"spiffe://td/ns/default/dc/dc1/svc/web\x00",
	"spiffe://td/ns/default/dc/dc1/svc/*",
	"spiffe://td/ns/Default/dc/dc1/svc/web",
	"spiffe://td/ns/default/dc/DC1/svc/web",
	"spiffe://td/ns/default/dc/d.c/svc/web",
	"spiffe://td/ap/default/ns/default/dc/dc1/svc/web",
	"spiffe://td/ap/blue/agent/server/dc/dc1",
	"spiffe://td/ns/default/dc/dc1/web",
	"spiffe://td/ap/blue",
	"spiffe://td/",
	"spiffe://td/dc/dc1/svc/web",
	"spiffe://spiffe://td/ns/default/dc/dc1/svc/web",
	"spiffe://" + strings.Repeat("a", 256),
	"spiffe://td/ns/default/dc/dc1/svc/" + strings.Repeat("a", 2048),
}

func TestC83_ParseRefuses(t *testing.T) {
	for _, uri := range refused {
		if got, err := identity.Parse(uri); !errors.Is(err, identity.ErrInvalid) {
			t.Errorf("Parse(%q) = %#v, %v, want ErrInvalid", uri, got, err)
		} else if len(err.Error()) > 500 {
			t.Errorf("Parse(%.20q…): message of %d bytes", uri, len(err.Error()))
		}
	}
	if _, err := identity.Parse("spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web"); err != nil { // the control
		t.Error(err)
	}
}

func TestEqualFillsDefaults(t *testing.T) {
	short := identity.Service{TrustDomain: td, Datacenter: "dc1", Service: "web"}
	long := identity.Service{TrustDomain: td, Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web"}
	other := long
	other.Namespace = "x"
	if !identity.Equal(short, long) || identity.Equal(short, other) || identity.Equal(short, nil) || !identity.Equal(nil, nil) {
		t.Error("Equal is wrong about defaults or nil")
	}
}

func TestSNI(t *testing.T) {
	web := identity.Service{TrustDomain: "x.consul", Datacenter: "dc1", Service: "web"}
	blue := web
	blue.Partition, blue.Namespace = "blue", "n"
	for got, want := range map[string]string{
		web.SNI():            "web.default.dc1.internal.x.consul",
		web.SubsetSNI("v2"):  "v2.web.default.dc1.internal.x.consul",
		blue.SubsetSNI("v2"): "v2.web.n.blue.dc1.internal-v1.x.consul",
		identity.PeerSNI("y.consul", "", "", "east", "web"):                                       "web.default.default.east.external.y.consul",
		identity.QuerySNI("x.consul", "dc1", "near"):                                              "near.default.dc1.query.x.consul",
		identity.MeshGateway{TrustDomain: "x.consul", Datacenter: "dc1"}.SNI():                    "dc1.internal.x.consul",
		identity.MeshGateway{TrustDomain: "x.consul", Partition: "blue", Datacenter: "dc1"}.SNI(): "blue.dc1.internal-v1.x.consul",
		identity.Server{TrustDomain: "x.consul", Datacenter: "dc1"}.PeeringSNI():                  "server.dc1.peering.x.consul",
		string(identity.ForCluster("AAAAAAAA-2222-3333-4444-555555555555")):                       "aaaaaaaa-2222-3333-4444-555555555555.consul",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for path := range forms {
		f.Add("spiffe://" + string(td) + path)
	}
	for _, uri := range refused {
		f.Add(uri)
	}
	stormtest.Fuzz(f, func(t *testing.T, uri string) {
		id, err := identity.Parse(uri)
		if err != nil {
			if !errors.Is(err, identity.ErrInvalid) || id != nil {
				t.Fatalf("Parse(%q) = %v, %v", uri, id, err)
			}
			return
		}
		if id.String() != uri {
			t.Fatalf("Parse(%q).String() = %q", uri, id)
		}
		if strings.ContainsAny(uri, "?#%@* ") || strings.Contains(uri, "/../") || strings.Contains(uri, "/./") {
			t.Fatalf("Parse took %q", uri)
		}
		if again, err := identity.Parse(id.String()); err != nil || again != id {
			t.Fatalf("second parse of %q: %v, %v", uri, again, err)
		}
	})
}
