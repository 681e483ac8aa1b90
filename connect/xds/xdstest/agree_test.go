// SPDX-License-Identifier: Apache-2.0

package xdstest

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/intention"
)

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomPermission(r *rand.Rand) catalog.IntentionPermission {
	h := &catalog.IntentionHTTPPermission{}
	switch r.IntN(4) {
	case 0:
		h.PathExact = pick(r, "/a", "/b/c")
	case 1:
		h.PathPrefix = pick(r, "/a", "/b", "/")
	case 2:
		h.PathRegex = pick(r, "/a|/b", "/[ab]/.*", "/a(/c)?")
	}
	if r.IntN(2) == 0 {
		h.Methods = pick(r, []string{"GET"}, []string{"GET", "PUT"}, []string{"DELETE"})
	}
	for range r.IntN(3) {
		m := catalog.IntentionHTTPHeader{Name: pick(r, "x-one", "X-Two"), Invert: r.IntN(3) == 0}
		v := pick(r, "a", "B", "ab")
		switch r.IntN(6) {
		case 0:
			m.Present = true
		case 1:
			m.Exact = v
		case 2:
			m.Prefix = v
		case 3:
			m.Suffix = v
		case 4:
			m.Contains = v
		case 5:
			m.Regex = pick(r, "a+", "(?i)b", "a|b|")
		}
		m.IgnoreCase = r.IntN(2) == 0 && !m.Present && m.Regex == ""
		h.Header = append(h.Header, m)
	}
	if h.PathExact+h.PathPrefix+h.PathRegex == "" && len(h.Methods)+len(h.Header) == 0 {
		h.PathPrefix = "/"
	}
	p := catalog.IntentionPermission{Action: pick(r, "allow", "deny"), HTTP: h}
	if r.IntN(4) == 0 {
		p.JWT = randomToken(r)
	}
	return p
}

func randomToken(r *rand.Rand) *catalog.JWTRequirement {
	p := catalog.JWTRequired{Name: "sso"}
	if r.IntN(2) == 0 {
		p.VerifyClaims = []catalog.JWTClaim{{Path: pick(r, []string{"role"}, []string{"perms", "role"}), Value: pick(r, "admin", "user")}}
	}
	return &catalog.JWTRequirement{Providers: []catalog.JWTRequired{p}}
}

func randomEntry(r *rand.Rand, dst string) *catalog.ServiceIntentions {
	e := &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Name: dst}}
	for _, name := range []string{"web", "Shop", "*", "api.v2"} {
		if r.IntN(3) == 0 {
			continue
		}
		s := catalog.SourceIntention{Name: name, Namespace: pick(r, "", "", "red")}
		if name == "*" && r.IntN(2) == 0 {
			s.Namespace = "*"
		}
		if dst != "*" && r.IntN(2) == 0 {
			for range 1 + r.IntN(3) {
				s.Permissions = append(s.Permissions, randomPermission(r))
			}
		} else {
			s.Action = pick(r, "allow", "deny")
		}
		e.Sources = append(e.Sources, s)
	}
	if len(e.Sources) == 0 {
		e.Sources = []catalog.SourceIntention{{Name: "web", Action: "allow"}}
	}
	return e
}

func randomRequest(r *rand.Rand) intention.Request {
	req := intention.Request{Method: pick(r, "GET", "PUT", "DELETE"), Path: pick(r, "/a", "/b", "/b/c", "/a/c?x=/b", "/", "/a/b"), Header: http.Header{}}
	for _, name := range []string{"X-One", "X-Two"} {
		for range r.IntN(3) {
			req.Header.Add(name, pick(r, "a", "b", "AB", ""))
		}
	}
	if r.IntN(2) == 0 {
		req.Claims = intention.Claims{"sso": {"role": pick(r, any("admin"), any("user"), any([]any{"x", "admin"}), any(1.0)), "perms": pick(r, any("none"), any(map[string]any{"role": "admin"}))}}
	}
	return req
}

// The intentions' answer and that of the rendered filters are the same, for connections and for requests.
func TestProxyAgreesWithIntentions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		w, err := NewWorld(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		w.DefaultAllow = round%2 == 0
		requests := round%3 > 0
		if requests {
			keys := &catalog.JSONWebKeySet{Local: &catalog.LocalJWKS{JWKS: "e30="}}
			if err := w.Write(&catalog.JWTProvider{EntryHead: catalog.EntryHead{Name: "sso"}, JSONWebKeySet: keys}); err != nil {
				t.Fatal(err)
			}
			if err := w.Write(&catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: "db"}, Protocol: "http"}); err != nil {
				t.Fatal(err)
			}
		}
		for i, dst := range []string{"db", "*", "*"} {
			if r.IntN(5) == 0 {
				continue
			}
			e := randomEntry(r, dst)
			if i == 2 {
				e.Namespace = "*"
			}
			if requests && dst != "*" && r.IntN(4) == 0 {
				e.JWT = randomToken(r)
			}
			if !requests { // the proxy of a TCP service sees no requests, and stored rules may still speak of them
				e.Sources[0].Permissions, e.Sources[0].Action = nil, "deny"
			}
			if err := w.Write(e); err != nil {
				t.Fatal(err)
			}
		}
		proxy, err := w.Register(Sidecar{Service: "db", Port: 5432, PublicPort: 21000})
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := w.Leaf("db")
		if err != nil {
			t.Fatal(err)
		}
		out, err := w.Render(proxy, leaf)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Load(out)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := intention.Match(w.Store.Read(), catalog.Scope{}.Name("db"))
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			src, req := w.ID(pick(r, "web", "WEB", "shop", "api.v2", "apixv2", "other")), randomRequest(r)
			src.Namespace = pick(r, "", "red", "blue")
			want := rules.Decide(src, w.DefaultAllow)
			if requests {
				if want, err = rules.DecideRequest(src, req, w.DefaultAllow); err != nil {
					t.Fatal(err)
				}
			}
			got, err := p.Inbound(src, req)
			if err != nil {
				t.Fatal(err)
			}
			if got.Allowed != want.Allowed {
				t.Fatalf("%s %+v (default %v):\nproxy %+v\nintentions %+v\nrules %+v", src, req, w.DefaultAllow, got, want, rules)
			}
		}
	}
}
