// SPDX-License-Identifier: Apache-2.0

package acl

import (
	"fmt"
	"strings"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/guard"
)

// Config is what decides where no rule speaks.
type Config struct {
	// Default is the agent's default policy: Deny, or Write for "allow".
	Default Level
	// KeyList says that listing keys needs more than reading them (acl.enable_key_list_policy).
	KeyList bool
}

// Authorizer answers for one set of policies. It is immutable, and safe for concurrent use.
type Authorizer struct {
	rules  *Rules
	c      Config
	manage bool // everything is allowed
	// elsewhere are the rules for what has a namespace, where this is about another one than the default; nil: it is about the default.
	elsewhere *Rules
}

// New puts policies together.
func New(c Config, policies ...*Rules) *Authorizer {
	a := &Authorizer{rules: newRules(), c: c}
	for _, p := range policies {
		a.rules.merge(p)
	}
	a.rules.merge(a.rules.of(api.DefaultNamespace))
	return a
}

// Management allows everything: it is what the policy global-management and the servers themselves have.
func Management() *Authorizer { return &Authorizer{rules: newRules(), manage: true} }

// Level is what the rules grant for a resource's name: an exact rule, else that of the longest prefix, else what holds for
// all. The default is in it.
func (a *Authorizer) Level(resource, name string) Level {
	if a.manage {
		return Write
	}
	if l, ok := a.levelElsewhere(resource, name); ok {
		return l
	}
	if l, ok := a.rules.level(resource, name); ok {
		return l
	}
	if resource == "mesh" || resource == "peering" { // part of an operator's work, unless said apart
		if l, ok := a.rules.level("operator", ""); ok {
			return l
		}
	}
	if resource == Intentions && a.c.Default == Write {
		return Write
	}
	if resource == "acl" && a.c.Default == Write {
		return Deny // a default of allow has never meant that anybody may make tokens
	}
	return a.c.Default
}

func (r *Rules) level(resource, name string) (Level, bool) {
	if l, ok := r.scalars[resource]; ok {
		return l, true
	}
	if l, ok := r.exact[resource][name]; ok {
		return l, true
	}
	prefixes := r.prefixes[resource]
	for n := len(name); n >= 0 && len(prefixes) > 0; n-- {
		if l, ok := prefixes[name[:n]]; ok {
			return l, true
		}
	}
	return Unset, false
}

// Allows says whether the rules grant a permission on a name.
func (a *Authorizer) Allows(p api.Permission, name string) bool {
	if p.Resource == "" {
		return true
	}
	have := a.Level(p.Resource, name)
	switch p.Access {
	case api.Write:
		return have == Write
	case api.List:
		if p.Resource == "key" && a.c.KeyList {
			return have >= List
		}
		return have >= Read
	case api.WritePrefix:
		if guard.Off("C101") {
			return true
		}
		return have == Write && a.allBelow(p.Resource, name, Write)
	case api.ReadPrefix:
		return have >= Read && a.allBelow(p.Resource, name, Read)
	}
	return have >= Read
}

// allBelow says whether no rule grants less than a level on some name that begins with the prefix.
func (a *Authorizer) allBelow(resource, prefix string, least Level) bool {
	if a.manage {
		return true
	}
	all := []*Rules{a.rules, a.elsewhere}
	if hasNamespace(resource) && a.elsewhere != nil {
		all = all[1:]
	}
	for _, r := range all {
		if r != nil && !r.allBelow(resource, prefix, least) {
			return false
		}
	}
	return true
}

func (r *Rules) allBelow(resource, prefix string, least Level) bool {
	for _, names := range []map[string]Level{r.exact[resource], r.prefixes[resource]} {
		for name, l := range names {
			if strings.HasPrefix(name, prefix) && l < least {
				return false
			}
		}
	}
	return true
}

// Subject is a token's authorizer with the token's name: what a handler is given.
type Subject struct {
	*Authorizer
	// Accessor is the token's public ID; AnonymousAccessor for who sends none.
	Accessor string

	namespace string // that it is about, "" for the default one
}

// AnonymousAccessor is the public ID of the token that stands for requests without one.
const AnonymousAccessor = "00000000-0000-0000-0000-000000000002"

var _ api.Subject = (*Subject)(nil)

// Allow is nil if the token grants the permission, else an error in Consul's words that wraps api.ErrDenied.
func (s *Subject) Allow(p api.Permission, name string) error {
	if s.Allows(p, name) {
		return nil
	}
	what := fmt.Sprintf("'%s'", api.Permission{Resource: p.Resource, Access: shown(p.Access)})
	if name != "" {
		what += fmt.Sprintf(" on %q", name)
	}
	if s.namespace != "" && hasNamespace(p.Resource) {
		what += fmt.Sprintf(" in namespace %q", s.namespace)
	}
	if s.Accessor == AnonymousAccessor {
		return fmt.Errorf("%w: anonymous token lacks permission %s. The anonymous token is used implicitly when a request does not specify a token.",
			api.ErrDenied, what)
	}
	return fmt.Errorf("%w: token with AccessorID '%s' lacks permission %s", api.ErrDenied, s.Accessor, what)
}

func shown(a api.Access) api.Access {
	switch a {
	case api.WritePrefix:
		return api.Write
	case api.ReadPrefix:
		return api.Read
	}
	return a
}

func (s *Subject) String() string {
	if s.Accessor == AnonymousAccessor {
		return "anonymous"
	}
	return "token " + s.Accessor
}
