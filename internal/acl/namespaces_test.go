// SPDX-License-Identifier: Apache-2.0

package acl

import (
	"strings"
	"testing"

	"github.com/weftmesh/weft/internal/api"
)

const spaces = `
service "web" { policy = "write" }
key_prefix "" { policy = "write" }
node "n1" { policy = "write" }
node "hidden" { policy = "deny" }
operator = "read"
query_prefix "" { policy = "read" }
namespace "red" {
  service_prefix "" {
    policy = "read"
    intentions = "write"
  }
  key_prefix "app/" { policy = "write" }
  node_prefix "" { policy = "read" }
}
namespace "red" { session_prefix "" { policy = "write" } }
namespace_prefix "team-" { service "api" { policy = "write" } }
namespace_prefix "team-a" { service "api" { policy = "read" } }
namespace "default" { session "n1" { policy = "write" } }
`

// What stands outside of a block is about the default namespace; a block about its own alone, the most exact one; what has no namespace is
// granted outside.
func TestNamespaceRules(t *testing.T) {
	rules, err := Parse(spaces)
	if err != nil {
		t.Fatal(err)
	}
	s := &Subject{Authorizer: New(Config{Default: Deny}, rules), Accessor: "x"}
	for _, c := range []struct {
		namespace, resource string
		access              api.Access
		name                string
		want                bool
	}{
		{"default", "service", api.Write, "web", true},
		{"", "service", api.Write, "web", true},
		{"red", "service", api.Write, "web", false},
		{"red", "service", api.Read, "web", true},
		{"red", "intentions", api.Write, "web", true},
		{"blue", "service", api.Read, "web", false},
		{"default", "key", api.Write, "x", true},
		{"red", "key", api.Read, "x", false},
		{"red", "key", api.Write, "app/x", true},
		{"red", "key", api.WritePrefix, "app/", true},
		{"red", "key", api.WritePrefix, "", false},
		{"blue", "key", api.Read, "x", false},
		{"red", "session", api.Write, "n9", true},
		{"default", "session", api.Write, "n1", true},
		{"default", "session", api.Write, "n9", false},
		{"team-b", "service", api.Write, "api", true},
		{"team-a1", "service", api.Write, "api", false},
		{"team-a1", "service", api.Read, "api", true},
		// Nodes are of no namespace: a block lets them be read, and takes nothing away.
		{"red", "node", api.Read, "n9", true},
		{"red", "node", api.Write, "n1", true},
		{"red", "node", api.Write, "n9", false},
		{"red", "node", api.Read, "hidden", false},
		{"red", "node", api.ReadPrefix, "", false},
		{"default", "node", api.Read, "n9", false},
		{"blue", "node", api.Read, "n1", true},
		{"red", "operator", api.Read, "", true},
		{"red", "query", api.Read, "q", true},
		{"*", "service", api.Read, "web", false},
	} {
		if got := s.In(c.namespace).Allow(api.Permission{Resource: c.resource, Access: c.access}, c.name) == nil; got != c.want {
			t.Errorf("%s %s:%s on %q: %t", c.namespace, c.resource, c.access, c.name, got)
		}
	}
	if err := s.In("blue").Allow(api.Permission{Resource: "service", Access: api.Read}, "web"); err == nil || !strings.HasSuffix(err.Error(), `'service:read' on "web" in namespace "blue"`) {
		t.Error(err)
	}
	open := &Subject{Authorizer: New(Config{Default: Write}, rules), Accessor: "x"}
	if err := open.In("blue").Allow(api.Permission{Resource: "service", Access: api.Write}, "web"); err != nil {
		t.Errorf("a default of allow is for every namespace: %v", err)
	}
}

// The stricter of two policies' levels for the same name holds in a namespace too; the policies themselves stay as they are.
func TestNamespaceRulesMerge(t *testing.T) {
	parse := func(text string) *Rules {
		r, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	one := parse(`namespace "red" { key "a" { policy = "write" } }`)
	two := parse(`{"namespace": {"red": {"key": {"a": {"policy": "deny"}}, "service_prefix": {"": {"policy": "read"}}}}}`)
	read := api.Permission{Resource: "key", Access: api.Read}
	both := &Subject{Authorizer: New(Config{Default: Deny}, one, two)}
	if both.In("red").Allow(read, "a") == nil || both.In("red").Allow(api.Permission{Resource: "service", Access: api.Read}, "x") != nil {
		t.Error("of two levels the stricter holds")
	}
	if (&Subject{Authorizer: New(Config{Default: Deny}, one)}).In("red").Allow(read, "a") != nil {
		t.Error("a policy was changed by another one")
	}
	every := &Subject{Authorizer: New(Config{Default: Deny}, parse(GlobalManagement), parse(EveryNamespace(Write)))}
	for _, ns := range []string{"default", "red", "*"} {
		for _, p := range []string{"service", "key", "session", "intentions", "node"} {
			if err := every.In(ns).Allow(api.Permission{Resource: p, Access: api.Write}, "x"); err != nil {
				t.Errorf("who manages everything: %v", err)
			}
		}
	}
}

// A block says what is wrong with it.
func TestNamespaceRulesRefused(t *testing.T) {
	for text, want := range map[string]string{
		`namespace "Red" { key "a" { policy = "read" } }`:      "lower-case",
		`namespace "red" { operator = "read" }`:                "belongs to no namespace",
		`namespace "red" { acl = "read" }`:                     "belongs to no namespace",
		`namespace "red" { policy = "write" }`:                 "belongs to no namespace",
		`namespace "red" { namespace "x" {} }`:                 "belongs to no namespace",
		`namespace "red" { node "n" { policy = "write" } }`:    "its write stands outside",
		`namespace "red" { service "n" { policy = "often" } }`: "Invalid service policy",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
