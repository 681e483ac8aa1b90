// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValidate(t *testing.T) {
	head := EntryHead{Name: "web"}
	minus := -1
	for _, c := range []struct {
		entry Entry
		want  string // "" for none
	}{
		{&ServiceDefaults{EntryHead: head, Protocol: "HTTP"}, ""},
		{&ServiceDefaults{EntryHead: head, Protocol: "udp"}, `Protocol "udp" is none of tcp, http, http2, grpc`},
		{&ServiceDefaults{EntryHead: head, EnvoyExtensions: []EnvoyExtension{{Name: "builtin/lua"}, {}}}, "EnvoyExtensions[1]: Name is required"},
		{
			&ProxyDefaults{EnvoyExtensions: []EnvoyExtension{{Name: "lua"}}},
			`EnvoyExtensions[0].Name "lua" is none of builtin/aws/lambda, builtin/ext-authz, builtin/lua, builtin/otel-access-logging, builtin/property-override, builtin/wasm`,
		},
		{&ServiceDefaults{EntryHead: head, TransparentProxy: &TransparentProxy{OutboundListenerPort: 70000}}, "TransparentProxy.OutboundListenerPort is 70000, want 0 to 65535"},
		{&ServiceDefaults{EntryHead: EntryHead{Name: "*"}}, `Name must be the name of a service, not the wildcard "*"`},
		{
			&ServiceDefaults{EntryHead: head, UpstreamConfig: &UpstreamDefaults{Defaults: &UpstreamConfig{Limits: &UpstreamLimits{MaxConnections: &minus}}}},
			"UpstreamConfig.Defaults.Limits.MaxConnections must not be negative, got -1",
		},
		{&ProxyDefaults{}, ""},
		{&ProxyDefaults{EntryHead: head}, `invalid name ("web"), only "global" is supported`},
		{
			&Mesh{EntryHead: head, TLS: &MeshTLS{Incoming: &TLSRange{TLSMinVersion: "TLSv1_9"}}},
			`TLS.Incoming.TLSMinVersion "TLSv1_9" is none of TLS_AUTO, TLSv1_0, TLSv1_1, TLSv1_2, TLSv1_3`,
		},
		{&ServiceSplitter{EntryHead: head, Splits: []ServiceSplit{{Weight: 33.333}, {Weight: 33.333, ServiceSubset: "a"}, {Weight: 33.34, ServiceSubset: "b"}}}, ""},
		{&ServiceSplitter{EntryHead: head, Splits: []ServiceSplit{{Weight: 90}}}, "the sum of all split weights must be 100, not 90.000000"},
		{
			&ServiceSplitter{EntryHead: head, Splits: []ServiceSplit{{Weight: 50}, {Weight: 50, Service: "web"}}},
			`Splits[1]: split destination occurs more than once: service="web", subset=""`,
		},
		{
			&ServiceRouter{EntryHead: head, Routes: []ServiceRoute{{Match: &ServiceRouteMatch{HTTP: &ServiceRouteHTTPMatch{PathExact: "x"}}}}},
			`Routes[0].Match.HTTP.PathExact doesn't start with '/': "x"`,
		},
		{
			&ServiceRouter{EntryHead: head, Routes: []ServiceRoute{{Match: &ServiceRouteMatch{HTTP: &ServiceRouteHTTPMatch{Methods: []string{"get", "GET"}}}}}},
			`Routes[0].Match.HTTP.Methods contains "GET" more than once`,
		},
		{&ServiceResolver{EntryHead: head, DefaultSubset: "v1"}, `DefaultSubset "v1" is not a valid subset`},
		{&ServiceResolver{EntryHead: head, Subsets: map[string]ServiceResolverSubset{"v1": {Filter: "Service.Meta.version == v1"}}, DefaultSubset: "v1"}, ""},
		{
			&ServiceResolver{EntryHead: head, LoadBalancer: &LoadBalancer{Policy: "random", HashPolicies: []HashPolicy{{SourceIP: true}}}},
			`HashPolicies specified for non-hash-based Policy: "random"`,
		},
		{&ServiceIntentions{EntryHead: head}, "at least one source is required"},
		{&ServiceIntentions{EntryHead: head, Sources: []SourceIntention{{Name: "a", Action: "maybe"}}}, `Sources[0].Action "maybe" is none of allow, deny`},
		{&ServiceIntentions{EntryHead: head, Sources: []SourceIntention{{Name: "a", Action: "allow"}, {Name: "a", Action: "deny"}}}, `Sources[1] defines "a" more than once`},
		{
			&ServiceIntentions{EntryHead: EntryHead{Name: "*"}, Sources: []SourceIntention{{Name: "a", Permissions: []IntentionPermission{{Action: "allow"}}}}},
			"Sources[0].Permissions cannot be specified on intentions with wildcarded destinations",
		},
	} {
		c.entry.Normalize()
		err := c.entry.Validate()
		got := ""
		if err != nil {
			got = err.Error()
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v does not wrap ErrInvalid", err)
			}
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.entry.EntryKind(), got, c.want)
		}
	}
}

// TestRoundTrip checks that each kind comes back as it went, in the types that Opaque promises.
func TestRoundTrip(t *testing.T) {
	for _, kind := range EntryKinds() {
		e := must(NewEntry(kind))
		e.Head().Name = "x"
		if p, ok := e.(*ProxyDefaults); ok {
			p.Config = Opaque{"i": int64(1), "f": 1.0, "l": []any{true, nil, "s"}, "m": map[string]any{"x": int64(-5)}}
		}
		var box EntryBox
		if err := decode(must(encode(EntryBox{e})), &box); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(e, box.Entry); d != "" {
			t.Error(d)
		}
	}
	for _, bad := range []Opaque{{"a": func() {}}, {"a": map[any]any{1: 2}}, {"a": complex(1, 1)}} {
		_, err := Encode(SetEntry{Entry: EntryBox{&ProxyDefaults{Config: bad}}})
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
