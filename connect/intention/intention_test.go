// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"errors"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

func view(t *testing.T, entries ...catalog.Entry) *catalog.Txn {
	t.Helper()
	s, err := catalog.New(catalog.Config{Datacenter: "dc1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		e.Head().Scope = e.Head().Default("dc1")
		e.Normalize()
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	return s.Read().With(entries...)
}

func rules(dst string, sources ...catalog.SourceIntention) catalog.Entry {
	return &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Name: dst}, Sources: sources}
}

func TestPrecedence(t *testing.T) {
	txn := view(t,
		rules("*", catalog.SourceIntention{Name: "*", Action: "deny"}, catalog.SourceIntention{Name: "web", Action: "allow"}),
		rules("api", catalog.SourceIntention{Name: "*", Action: "allow"}, catalog.SourceIntention{Name: "web", Action: "deny"}),
		rules("l7", catalog.SourceIntention{Name: "web", Permissions: []catalog.IntentionPermission{
			{Action: "deny", HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/admin"}},
			{Action: "allow", HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/", Methods: []string{"GET"}}},
		}}))
	for _, test := range []struct {
		src, dst string
		want     bool
		prec     int
	}{
		{"web", "api", false, 9}, {"other", "api", true, 8}, {"web", "db", true, 6}, {"other", "db", false, 5}, {"web", "l7", false, 9},
	} {
		d, err := Decide(txn, identity.Service{Service: test.src}, catalog.Scope{}.Name(test.dst), true)
		if err != nil {
			t.Fatal(err)
		}
		if d.Allowed != test.want || d.Rule == nil || d.Rule.Precedence != test.prec {
			t.Errorf("%s to %s: got %+v, want %v by precedence %d", test.src, test.dst, d, test.want, test.prec)
		}
	}
	for _, test := range []struct {
		req  Request
		def  bool
		want bool
	}{
		{Request{Method: "GET", Path: "/x?y=/admin"}, false, true},
		{Request{Method: "GET", Path: "/admin/x"}, true, false},
		{Request{Method: "PUT", Path: "/x"}, false, false},
		{Request{Method: "PUT", Path: "/x"}, true, true},
	} {
		d, err := DecideRequest(txn, identity.Service{Service: "web"}, catalog.Scope{}.Name("l7"), test.req, test.def)
		if err != nil || d.Allowed != test.want {
			t.Errorf("%+v: got %+v, %v, want %v", test, d, err, test.want)
		}
	}
}

func TestDefaultAndCoverage(t *testing.T) {
	for _, def := range []bool{true, false} {
		d, err := Decide(view(t), identity.Service{Service: "web"}, catalog.Scope{}.Name("api"), def)
		if err != nil || d.Allowed != def || d.Rule != nil {
			t.Errorf("default %v: got %+v, %v", def, d, err)
		}
	}
	s, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := Decide(s.Read(), identity.Service{Service: "web"}, catalog.Scope{}.Name("api"), true); !errors.Is(err, catalog.ErrNotCovered) || d.Allowed {
		t.Errorf("got %+v, %v, want ErrNotCovered and no permission", d, err)
	}
}
