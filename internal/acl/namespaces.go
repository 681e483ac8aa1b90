// SPDX-License-Identifier: Apache-2.0

package acl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/decode"
)

// namespacedResources are those whose names are of a namespace, and what a namespace's block can grant. Nodes are of none: a block grants
// reading them, beside what stands outside.
var namespacedResources = []string{"service", Intentions, "key", "session"}

func hasNamespace(resource string) bool { return slices.Contains(namespacedResources, resource) }

// takeNamespace reads the rules for one namespace, or for those whose names have a prefix.
func takeNamespace(kind, name string, body *decode.Node, to map[string]*Rules) error {
	if kind == "namespace" && !api.ValidNamespace(name) {
		return fmt.Errorf("Failed to parse ACL rules: line %d: namespace %q: want lower-case letters, digits and - within, at most 63", body.Line, name) //nolint:staticcheck // Consul's text
	}
	r := newRules()
	for _, f := range body.Fields {
		resource := strings.TrimSuffix(f.Name, "_prefix")
		if resource == "node" || resource != Intentions && hasNamespace(resource) {
			if err := r.take(f); err != nil {
				return err
			}
			continue
		}
		return fmt.Errorf("Failed to parse ACL rules: line %d: %s %q has no rules for %q: want one of service, key, session, node, alone or with _prefix; "+ //nolint:staticcheck // Consul's text
			"what else there is belongs to no namespace: its rules stand outside of the block", f.Line, kind, name, f.Name)
	}
	for _, names := range []map[string]Level{r.exact["node"], r.prefixes["node"]} {
		for node, l := range names {
			if l > Read {
				return fmt.Errorf("Failed to parse ACL rules: line %d: %s %q: node %q: a node is of no namespace: a block can let it be read, its write stands outside", //nolint:staticcheck // Consul's text
					body.Line, kind, name, node)
			}
		}
	}
	if old := to[name]; old != nil {
		r.merge(old)
	}
	to[name] = r
	return nil
}

func mergeNamespaces(to, from map[string]*Rules) {
	for name, r := range from {
		sum := newRules() // what a policy says isn't changed
		if old := to[name]; old != nil {
			sum.merge(old)
		}
		sum.merge(r)
		to[name] = sum
	}
}

// of are the rules for a namespace: those that name it, else those of the longest prefix of its name. None are empty ones.
func (r *Rules) of(namespace string) *Rules {
	if in := r.inNamespace[namespace]; in != nil {
		return in
	}
	for n := len(namespace); n >= 0; n-- {
		if in := r.underPrefix[namespace[:n]]; in != nil {
			return in
		}
	}
	return newRules()
}

// In is the same token's authorizer for what is in a namespace. What has a namespace is decided by the rules for that one alone: for the
// default one by those that stand outside of every block, and by a block that names it.
func (a *Authorizer) In(namespace string) *Authorizer {
	if a.manage {
		return a
	}
	out := &Authorizer{rules: a.rules, c: a.c}
	if namespace != "" && namespace != api.DefaultNamespace {
		out.elsewhere = a.rules.of(namespace)
	}
	return out
}

// levelElsewhere is the level of a name where this is about another namespace than the default; ok is false for what has no namespace.
func (a *Authorizer) levelElsewhere(resource, name string) (level Level, ok bool) {
	if a.elsewhere == nil {
		return Unset, false
	}
	level, said := a.elsewhere.level(resource, name)
	switch {
	case hasNamespace(resource) && !said:
		return a.c.Default, true
	case hasNamespace(resource):
		return level, true
	case resource == "node" && said:
		outside, _ := a.rules.level(resource, name)
		return stronger(outside, level), true
	}
	return Unset, false
}

// In is the same subject for what is in a namespace.
func (s *Subject) In(namespace string) api.Subject {
	if namespace == api.DefaultNamespace {
		namespace = ""
	}
	if namespace == s.namespace {
		return s
	}
	return &Subject{Authorizer: s.Authorizer.In(namespace), Accessor: s.Accessor, namespace: namespace}
}
