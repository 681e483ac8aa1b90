// SPDX-License-Identifier: Apache-2.0

// Package acl decides who may do what: it reads rules (Consul's rule language, in HCL or JSON), puts the rules of a token's
// policies together, and answers whether they grant an access to a resource. It stores nothing, looks no token up and owns
// no goroutine: values in, values out.
package acl

import (
	"fmt"
	"strings"

	"github.com/weftmesh/weft/internal/decode"
)

// Level is what a rule grants; each level grants those below it. The zero Level says nothing.
type Level uint8

// The levels. List is between Read and Write, and only keys have it.
const (
	Unset Level = iota
	Deny
	Read
	List
	Write
)

var levelNames = [...]string{"", "deny", "read", "list", "write"}

func (l Level) String() string { return levelNames[l] }

// Rules are one policy's rules: for each kind of resource, what holds for everything of that kind (scalars), for names, and
// for names that begin with a prefix.
type Rules struct {
	scalars  map[string]Level            // acl, keyring, operator, mesh, peering
	exact    map[string]map[string]Level // resource → name → level
	prefixes map[string]map[string]Level // resource → prefix → level
	// What blocks say of namespaces, by name and by prefix. What stands outside of a block is about the default namespace.
	inNamespace, underPrefix map[string]*Rules
}

// The resources that have no names, and those that have.
var (
	scalarResources = []string{"acl", "keyring", "operator", "mesh", "peering"}
	namedResources  = []string{"agent", "node", "service", "key", "session", "event", "query"}
)

// Intentions is the resource of intentions: granted by the intentions field of service rules.
const Intentions = "intentions"

func newRules() *Rules {
	return &Rules{
		scalars: map[string]Level{}, exact: map[string]map[string]Level{}, prefixes: map[string]map[string]Level{},
		inNamespace: map[string]*Rules{}, underPrefix: map[string]*Rules{},
	}
}

// Parse reads rules in HCL or JSON (a text that begins with a brace). An unknown resource, field or level is an error that
// names it and its line.
func Parse(text string) (*Rules, error) {
	form := "rules.hcl"
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		form = "rules.json"
	}
	doc, err := decode.Parse(form, []byte(text))
	if err != nil {
		return nil, fmt.Errorf("Failed to parse ACL rules: %w", err) //nolint:staticcheck // Consul's text
	}
	r := newRules()
	for _, f := range doc.Root.Fields {
		if err := r.take(f); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// take reads one top-level field: acl = "read", service "web" { … }, or in JSON "service": {"web": {…}}.
func (r *Rules) take(f *decode.Field) error {
	for _, s := range scalarResources {
		if f.Name == s {
			level, err := levelOf(s, f.Value, false)
			r.scalars[s] = level
			return err
		}
	}
	for _, s := range namedResources {
		if f.Name != s && f.Name != s+"_prefix" {
			continue
		}
		to := r.exact
		if f.Name != s {
			to = r.prefixes
		}
		return eachBlock(f.Value, func(name string, body *decode.Node) error { return r.block(s, name, body, to) })
	}
	if f.Name == "namespace" || f.Name == "namespace_prefix" {
		to := r.inNamespace
		if f.Name != "namespace" {
			to = r.underPrefix
		}
		return eachBlock(f.Value, func(name string, body *decode.Node) error { return takeNamespace(f.Name, name, body, to) })
	}
	if strings.HasPrefix(f.Name, "identity") {
		return nil // of an old Consul; without effect there too
	}
	return fmt.Errorf("Failed to parse ACL rules: line %d: unknown resource %q: want one of %s, or one of %s, namespace, alone or with _prefix", //nolint:staticcheck // Consul's text
		f.Line, f.Name, strings.Join(scalarResources, ", "), strings.Join(namedResources, ", "))
}

// block reads the rule for one name or prefix.
func (r *Rules) block(resource, name string, body *decode.Node, to map[string]map[string]Level) error {
	seen := false
	for _, f := range body.Fields {
		switch {
		case f.Name == "policy":
			level, err := levelOf(resource, f.Value, resource == "key")
			if err != nil {
				return err
			}
			put(to, resource, name, level)
			seen = true
		case f.Name == Intentions && resource == "service":
			level, err := levelOf(Intentions, f.Value, false)
			if err != nil {
				return err
			}
			put(to, Intentions, name, level)
			seen = true
		default:
			return fmt.Errorf("Failed to parse ACL rules: line %d: %s %q has no field %q: want policy%s", f.Line, resource, name, f.Name, //nolint:staticcheck // Consul's text
				map[bool]string{true: " or intentions"}[resource == "service"])
		}
	}
	if !seen {
		return fmt.Errorf("Failed to parse ACL rules: line %d: %s %q says nothing: give policy = \"read\", \"write\" or \"deny\"", body.Line, resource, name) //nolint:staticcheck // Consul's text
	}
	// Who may see or change a service may see who may call it, unless the rule says otherwise.
	if _, said := to[Intentions][name]; resource == "service" && !said {
		if level := to["service"][name]; level >= Read {
			put(to, Intentions, name, Read)
		}
	}
	return nil
}

func put(to map[string]map[string]Level, resource, name string, level Level) {
	if to[resource] == nil {
		to[resource] = map[string]Level{}
	}
	to[resource][name] = level
}

// eachBlock calls f for each labelled block, in whichever form the document has them.
func eachBlock(n *decode.Node, f func(name string, body *decode.Node) error) error {
	if n.Kind == decode.List {
		for _, item := range n.Items {
			if err := eachBlock(item, f); err != nil {
				return err
			}
		}
		return nil
	}
	for _, field := range n.Fields {
		body := field.Value
		if body.Kind == decode.List && len(body.Items) == 1 {
			body = body.Items[0]
		}
		if body.Kind != decode.Object {
			return fmt.Errorf("Failed to parse ACL rules: line %d: %q wants a block with a policy", field.Line, field.Name) //nolint:staticcheck // Consul's text
		}
		if err := f(field.Name, body); err != nil {
			return err
		}
	}
	return nil
}

func levelOf(resource string, n *decode.Node, list bool) (Level, error) {
	if n.Kind == decode.String {
		for _, l := range []Level{Deny, Read, List, Write} {
			if n.Text == l.String() && (l != List || list) {
				return l, nil
			}
		}
	}
	return Unset, fmt.Errorf("Invalid %s policy: %q (line %d): want deny, read%s or write", resource, n.Text, n.Line, //nolint:staticcheck // Consul's text
		map[bool]string{true: ", list"}[list])
}

// merge adds another policy's rules: of two levels for the same name the stricter holds, where deny is strictest and else the
// higher one is meant: deny, write, list, read.
func (r *Rules) merge(o *Rules) {
	for s, l := range o.scalars {
		r.scalars[s] = stronger(r.scalars[s], l)
	}
	for _, both := range [][2]map[string]map[string]Level{{r.exact, o.exact}, {r.prefixes, o.prefixes}} {
		for resource, names := range both[1] {
			for name, l := range names {
				put(both[0], resource, name, stronger(both[0][resource][name], l))
			}
		}
	}
	mergeNamespaces(r.inNamespace, o.inNamespace)
	mergeNamespaces(r.underPrefix, o.underPrefix)
}

func stronger(a, b Level) Level {
	if a == Deny || b == Deny {
		return Deny
	}
	return max(a, b)
}
