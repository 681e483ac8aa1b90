// SPDX-License-Identifier: Apache-2.0

package acl

import (
	"errors"
	"strings"
	"testing"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/stormtest"
)

func parse(t *testing.T, text string) *Rules {
	t.Helper()
	r, err := Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

func TestForms(t *testing.T) {
	for _, text := range []string{
		"service \"web\" { policy = \"write\" }\nservice \"api\" { policy = \"read\" }\nservice_prefix \"\" { policy = \"deny\" }\noperator = \"read\"",
		`{"service":{"web":{"policy":"write"},"api":{"policy":"read"}},"service_prefix":{"":{"policy":"deny"}},"operator":"read"}`,
		`{"service":[{"web":[{"policy":"write"}]},{"api":[{"policy":"read"}]}],"service_prefix":[{"":[{"policy":"deny"}]}],"operator":"read"}`,
	} {
		a := New(Config{Default: Write}, parse(t, text))
		for name, want := range map[string]Level{"web": Write, "api": Read, "db": Deny, "": Deny} {
			if got := a.Level("service", name); got != want {
				t.Errorf("%s: service %q is %s, want %s", text, name, got, want)
			}
		}
		if got := a.Level("operator", ""); got != Read {
			t.Errorf("%s: operator is %s", text, got)
		}
	}
}

func TestFaultsAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		`service "web" { policy = "admin" }`:                      "Invalid service policy",
		`service "web" { policy = "list" }`:                       "Invalid service policy",
		`key "a" { policy = "owner" }`:                            "list or write",
		`servise "web" { policy = "read" }`:                       `unknown resource "servise"`,
		`service "web" { polizy = "read" }`:                       `no field "polizy"`,
		`node "a" { intentions = "read" }`:                        `no field "intentions"`,
		`service "web" {}`:                                        "says nothing",
		`operator = 3`:                                            "Invalid operator policy",
		`service "web" { policy = "read"`:                         "Failed to parse ACL rules",
		`{"service":{"web":"read"}}`:                              "wants a block",
		"service \"web\" {\n  policy = \"read\"\n  x = true\n}\n": "line 3",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", text, err, want)
		}
	}
}

func TestLongestPrefixWins(t *testing.T) {
	a := New(Config{Default: Deny}, parse(t, `
key_prefix "" { policy = "read" }
key_prefix "app/" { policy = "write" }
key_prefix "app/secret/" { policy = "deny" }
key "app/secret/shown" { policy = "list" }
`))
	for name, want := range map[string]Level{
		"x": Read, "app": Read, "app/": Write, "app/a": Write, "app/secret": Write, "app/secret/": Deny, "app/secret/a": Deny, "app/secret/shown": List,
	} {
		if got := a.Level("key", name); got != want {
			t.Errorf("%q is %s, want %s", name, got, want)
		}
	}
	p := api.Permission{Resource: "key", Access: api.WritePrefix}
	if a.Allows(p, "app/") || !a.Allows(p, "app/b") || a.Allows(p, "") {
		t.Error("deleting below a prefix needs write on all that is below")
	}
	p.Access = api.ReadPrefix
	if a.Allows(p, "app/") || !a.Allows(p, "app/b") || a.Allows(p, "") || a.Allows(p, "app/secret/") {
		t.Error("reading below a prefix needs read on all that is below")
	}
}

func TestCombine(t *testing.T) {
	rules := func(l string) *Rules { return parse(t, `service "web" { policy = "`+l+`" }`) }
	for _, c := range []struct {
		a, b string
		want Level
	}{{"read", "write", Write}, {"deny", "write", Deny}, {"write", "deny", Deny}, {"read", "read", Read}} {
		if got := New(Config{}, rules(c.a), rules(c.b)).Level("service", "web"); got != c.want {
			t.Errorf("%s and %s is %s, want %s", c.a, c.b, got, c.want)
		}
	}
	// An exact rule of one policy beats a prefix of another, also where it is stricter or laxer.
	a := New(Config{}, parse(t, `service_prefix "w" { policy = "write" }`), parse(t, `service "web" { policy = "read" }`))
	if got := a.Level("service", "web"); got != Read {
		t.Errorf("web is %s, want read", got)
	}
}

func TestIntentionsFollowServices(t *testing.T) {
	a := New(Config{Default: Deny}, parse(t, `
service "web" { policy = "write" }
service "api" {
  policy = "read"
  intentions = "write"
}
service "db" {
  policy = "write"
  intentions = "deny"
}
service "x" { policy = "deny" }
`))
	for name, want := range map[string]Level{"web": Read, "api": Write, "db": Deny, "x": Deny, "y": Deny} {
		if got := a.Level(Intentions, name); got != want {
			t.Errorf("intentions of %s: %s, want %s", name, got, want)
		}
	}
}

func TestDefaults(t *testing.T) {
	open, closed := New(Config{Default: Write}), New(Config{Default: Deny})
	for _, resource := range append(namedResources, Intentions, "operator", "mesh", "keyring") {
		if open.Level(resource, "x") != Write || closed.Level(resource, "x") != Deny {
			t.Errorf("%s doesn't follow the default", resource)
		}
	}
	if open.Level("acl", "") == Write {
		t.Error("a default of allow lets anybody make tokens")
	}
	for _, resource := range []string{"mesh", "peering"} {
		if got := New(Config{}, parse(t, `operator = "write"`)).Level(resource, ""); got != Write {
			t.Errorf("%s doesn't follow operator", resource)
		}
	}
	if got := New(Config{}, parse(t, "operator = \"write\"\nmesh = \"read\"")).Level("mesh", ""); got != Read {
		t.Errorf("mesh is %s, want what its own rule says", got)
	}
}

func TestKeyList(t *testing.T) {
	rules := parse(t, `key_prefix "" { policy = "read" }`)
	list := api.Permission{Resource: "key", Access: api.List}
	if !New(Config{}, rules).Allows(list, "a") || New(Config{KeyList: true}, rules).Allows(list, "a") {
		t.Error("listing needs list only where the agent says so")
	}
}

func TestBuiltins(t *testing.T) {
	manage, read := New(Config{}, parse(t, GlobalManagement)), New(Config{}, parse(t, GlobalReadOnly))
	for _, resource := range append(append([]string{Intentions}, namedResources...), scalarResources...) {
		if manage.Level(resource, "any") != Write || Management().Level(resource, "any") != Write || read.Level(resource, "any") != Read {
			t.Errorf("%s: a built-in policy leaves it out", resource)
		}
	}
	web := New(Config{Default: Deny}, parse(t, ServiceIdentityRules("web")))
	for name, want := range map[string]Level{"web": Write, "web-sidecar-proxy": Write, "api": Read} {
		if got := web.Level("service", name); got != want {
			t.Errorf("the identity of web: %s is %s, want %s", name, got, want)
		}
	}
	for _, tpl := range Templates() {
		value := ""
		if tpl.Variable != "" {
			value = "web"
			if _, err := tpl.Render("Web\" {}"); err == nil {
				t.Errorf("%s takes a value that isn't a name", tpl.Name)
			}
		}
		text, err := tpl.Render(value)
		if err != nil {
			t.Fatal(err)
		}
		parse(t, text)
	}
}

func TestDenialTexts(t *testing.T) {
	p := api.Permission{Resource: "service", Access: api.Write}
	for _, c := range []struct {
		accessor, name, want string
	}{
		{AnonymousAccessor, "", "Permission denied: anonymous token lacks permission 'service:write'. The anonymous token is used implicitly when a request does not specify a token."},
		{"a-b", "web", `Permission denied: token with AccessorID 'a-b' lacks permission 'service:write' on "web"`},
	} {
		err := (&Subject{Authorizer: New(Config{Default: Deny}), Accessor: c.accessor}).Allow(p, c.name)
		if !errors.Is(err, api.ErrDenied) || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

// FuzzParse: no text panics, and what parses can be asked anything.
func FuzzParse(f *testing.F) {
	f.Add(GlobalManagement)
	f.Add(`{"key_prefix":{"a/":{"policy":"list"}}}`)
	stormtest.Fuzz(f, func(_ *testing.T, text string) {
		if r, err := Parse(text); err == nil {
			a := New(Config{}, r, r)
			a.Level("key", text)
			a.Allows(api.Permission{Resource: "key", Access: api.WritePrefix}, text)
		}
	})
}
