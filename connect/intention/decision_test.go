// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

func txn(t *testing.T, entries ...catalog.Entry) *catalog.Txn {
	t.Helper()
	s, err := catalog.New(catalog.Config{Datacenter: "dc1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		e.Normalize()
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	return s.Read().With(entries...)
}

func entry(dst string, sources ...catalog.SourceIntention) *catalog.ServiceIntentions {
	return &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Scope: catalog.Scope{}.Default("dc1"), Name: dst}, Sources: sources}
}

func source(name, action string, perms ...catalog.IntentionPermission) catalog.SourceIntention {
	return catalog.SourceIntention{Name: name, Action: action, Permissions: perms}
}

func service(name string) identity.Service {
	return identity.Service{TrustDomain: "c.consul", Datacenter: "dc1", Service: name}
}

func key(name string) catalog.Key { return catalog.Scope{}.Default("dc1").Name(name) }

func TestDecideByPrecedence(t *testing.T) {
	perm := catalog.IntentionPermission{Action: "allow", HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/v1", Methods: []string{"GET"}}}
	v := txn(t, entry("db", source("web", "allow"), source("*", "deny"), source("l7", "", perm)),
		entry("*", source("ops", "allow"), source("*", "allow")))
	for _, c := range []struct {
		src, dst string
		def      bool
		allowed  bool
		reason   string
	}{
		{"web", "db", false, true, "Matched L4 intention: default/web => default/db (Precedence: 9, Action: ALLOW)"},
		{"WEB", "DB", false, true, "Matched L4 intention: default/web"},
		{"ops", "db", true, false, "Matched L4 intention: default/* => default/db (Precedence: 8, Action: DENY)"},
		{"l7", "db", true, false, "Matched L7 intention: default/l7"},
		{"ops", "api", false, true, "Matched L4 intention: default/ops => default/* (Precedence: 6"},
		{"x", "api", false, true, "Matched L4 intention: default/* => default/* (Precedence: 5"},
	} {
		d, err := Decide(v, service(c.src), key(c.dst), c.def)
		if err != nil || d.Allowed != c.allowed || !strings.HasPrefix(d.Reason, c.reason) || d.Default {
			t.Errorf("%s to %s: %+v, %v", c.src, c.dst, d, err)
		}
	}
	for _, allow := range []bool{true, false} {
		d, _ := Decide(txn(t), service("a"), key("b"), allow)
		if d.Allowed != allow || !d.Default || d.Reason != "Default intention policy" {
			t.Errorf("%+v", d)
		}
	}
	rules, err := MatchSource(v, key("ops"))
	if err != nil || len(rules) != 3 || rules[0].Precedence != 8 || rules[1].Source.Name != "ops" {
		t.Errorf("%+v, %v", rules, err)
	}
}

func TestDecideRequest(t *testing.T) {
	h := func(m catalog.IntentionHTTPHeader) catalog.IntentionPermission {
		return catalog.IntentionPermission{Action: "allow", HTTP: &catalog.IntentionHTTPPermission{Header: []catalog.IntentionHTTPHeader{m}}}
	}
	for _, c := range []struct {
		perm    catalog.IntentionPermission
		request Request
		allowed bool
	}{
		{h(catalog.IntentionHTTPHeader{Name: "x", Exact: "a", IgnoreCase: true}), Request{Header: http.Header{"X": {"A"}}}, true},
		{h(catalog.IntentionHTTPHeader{Name: "x", Exact: "a"}), Request{Header: http.Header{"X": {"A"}}}, false},
		{h(catalog.IntentionHTTPHeader{Name: "x", Exact: "b"}), Request{Header: http.Header{"X": {"a", "b"}}}, true},
		{h(catalog.IntentionHTTPHeader{Name: "x", Exact: "a,b"}), Request{Header: http.Header{"X": {"a", "b"}}}, false},
		{h(catalog.IntentionHTTPHeader{Name: "x", Exact: "b", Invert: true}), Request{Header: http.Header{"X": {"a", "b"}}}, false},
		{h(catalog.IntentionHTTPHeader{Name: "x", Exact: "a", Invert: true}), Request{}, false},
		{h(catalog.IntentionHTTPHeader{Name: "x", Present: true, Invert: true}), Request{}, true},
		{h(catalog.IntentionHTTPHeader{Name: "x", Regex: "a+"}), Request{Header: http.Header{"X": {"aab"}}}, false},
		{h(catalog.IntentionHTTPHeader{Name: "x", Suffix: "b", Invert: true}), Request{Header: http.Header{"X": {"aa"}}}, true},
		{catalog.IntentionPermission{Action: "allow", HTTP: &catalog.IntentionHTTPPermission{PathExact: "/a"}}, Request{Path: "/a?b=c"}, true},
		{catalog.IntentionPermission{Action: "allow", HTTP: &catalog.IntentionHTTPPermission{PathRegex: "/a|/b"}}, Request{Path: "/bc"}, false},
	} {
		v := txn(t, entry("db", source("web", "", c.perm)))
		d, err := DecideRequest(v, service("web"), key("db"), c.request, false)
		if err != nil || d.Allowed != c.allowed || d.Default != !c.allowed {
			t.Errorf("%+v: %+v, %v", c.perm.HTTP, d, err)
		}
	}
}

func TestUncoveredIsNoAnswer(t *testing.T) {
	s, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := Decide(s.Read(), service("web"), key("db"), true); !errors.Is(err, catalog.ErrNotCovered) || d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
}
