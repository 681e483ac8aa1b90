// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"
)

// Namespaces is the kind under which namespaces are kept, beside the ACL objects, as what else decides who may do what.
const Namespaces = "namespace"

// Namespace is a space of names of its own: services, keys, sessions, config entries and intentions of one have nothing to do with those of
// the same name in another. The default one is always there, and is no record.
type Namespace struct {
	Name        string
	Description string            `json:",omitempty"`
	Meta        map[string]string `json:",omitempty"`
	Indexes
}

var namespaceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// ValidNamespace says whether a namespace may have this name: lower case, digits and "-" within, at most 63, so that it is a DNS label.
func ValidNamespace(name string) bool { return len(name) <= 63 && namespaceName.MatchString(name) }

// The bounds of what is said of a namespace.
const (
	maxNamespaceText = 1024
	maxNamespaceMeta = 64
)

// Validate refuses a namespace that can't be.
func (n *Namespace) Validate() error {
	switch {
	case !ValidNamespace(n.Name):
		return invalidf("Invalid namespace %q: want lower-case letters, digits and - within, at most 63", n.Name)
	case len(n.Description) > maxNamespaceText:
		return invalidf("namespace %q: Description has %d bytes, more than %d", n.Name, len(n.Description), maxNamespaceText)
	case len(n.Meta) > maxNamespaceMeta:
		return invalidf("namespace %q: Meta has %d entries, more than %d", n.Name, len(n.Meta), maxNamespaceMeta)
	}
	for k, v := range n.Meta {
		if len(k)+len(v) > maxNamespaceText {
			return invalidf("namespace %q: Meta %.32q has %d bytes, more than %d", n.Name, k, len(k)+len(v), maxNamespaceText)
		}
	}
	return nil
}

// SetNamespace makes a namespace (Create: it must not exist, else ErrExists), or says something else of it. The result's value is the
// *Namespace.
type SetNamespace struct {
	Namespace Namespace
	Create    bool `json:",omitempty"`
}

// DeleteNamespace removes a namespace in which there is nothing any more; one that isn't there is ErrNotFound, one that isn't empty
// ErrConflict. The result has no value.
type DeleteNamespace struct{ Name string }

func (SetNamespace) commandType() string    { return "set-namespace" }
func (DeleteNamespace) commandType() string { return "delete-namespace" }

func (u *unit) setNamespace(c *SetNamespace) (any, error) {
	n := c.Namespace
	if err := n.Validate(); err != nil {
		return nil, err
	}
	key := aclString(Namespaces, n.Name)
	exists := n.Name == DefaultNamespace || u.acl.at(u.w, key).new != nil
	switch {
	case n.Name == DefaultNamespace:
		return nil, faultf(ErrExists, "namespace %q is always there, and can't be changed", n.Name)
	case c.Create && exists:
		return nil, faultf(ErrExists, "namespace %q exists", n.Name)
	}
	if err := u.putACL(ACLObject{Namespace: &n}, !exists); err != nil {
		return nil, err
	}
	return u.acl.at(u.w, key).new.Namespace, nil
}

func (u *unit) deleteNamespace(c *DeleteNamespace) error {
	row := u.acl.at(u.w, aclString(Namespaces, c.Name))
	switch {
	case c.Name == DefaultNamespace:
		return faultf(ErrConflict, "the namespace %q can't be deleted", c.Name)
	case row.new == nil:
		return faultf(ErrNotFound, "namespace %q doesn't exist", c.Name)
	}
	if held := contents(u.w.txn, Scope{Namespace: c.Name}.Default(u.w.dc)); len(held) > 0 {
		return faultf(ErrConflict, "namespace %q isn't empty: there are %s in it, remove these first", c.Name, strings.Join(held, ", "))
	}
	row.new = nil
	return nil
}

// contents are the sorts of things that a namespace holds.
func contents(txn *memdb.Txn, s Scope) (held []string) {
	begins := nameSpaceString(s)
	look := func(what, table, index, prefix string) {
		v, err := txn.First(table, index+"_prefix", prefix)
		if err != nil {
			panic(err)
		}
		if v != nil && !slices.Contains(held, what) {
			held = append(held, what)
		}
	}
	look("services", tableServices, "name", begins)
	look("keys", tableKV, "id", begins)
	look("sessions", tableSessions, "id", begins)
	for _, kind := range EntryKinds() {
		look("config entries", tableEntries, "id", kind+"\x00"+begins)
	}
	return held
}

// home refuses a write into a namespace that isn't there. What comes of another datacenter or a peer is in a namespace of theirs.
func (u *unit) home(s Scope) error {
	s = s.Default(u.w.dc)
	switch {
	case s.Namespace == DefaultNamespace, s.Datacenter != u.w.dc, s.Peer != "":
		return nil
	case s.Partition != DefaultPartition:
		return invalidf("namespace %q: partition %q has the default namespace alone", s.Namespace, s.Partition)
	case u.acl.at(u.w, aclString(Namespaces, s.Namespace)).new == nil:
		return faultf(ErrNamespace, "namespace %q doesn't exist: create it first, as by \"weft namespace create -name %s\"", s.Namespace, s.Namespace)
	}
	return nil
}

// homeOf is home for a config entry: intentions can be for the services of all namespaces, and some entries are for all of them anyway.
func (u *unit) homeOf(e Entry) error {
	head := e.Head()
	switch e.EntryKind() {
	case KindServiceIntentions:
		if head.Namespace == Wildcard {
			if head.Name != Wildcard {
				return invalidf("service-intentions %q: Namespace \"*\" is for the destination \"*\" alone", head.Name)
			}
			return nil
		}
	case KindProxyDefaults, KindMesh, KindExportedServices, KindSamenessGroup, KindJWTProvider, KindRequestLimit:
		if head.Namespace != DefaultNamespace {
			return invalidf("%s %q is for all namespaces: it is written in the default one, not in %q", e.EntryKind(), head.Name, head.Namespace)
		}
	}
	if u.copied {
		return nil
	}
	return u.home(head.Scope)
}

// TopicNamespaces is all namespaces: they are few.
const TopicNamespaces TopicKind = "namespaces"

var namespacesTopic = Topic{Kind: TopicNamespaces}

// Namespace gives a namespace by its name, nil if there is none; the default one is there always.
func (t *Txn) Namespace(name string) (*Namespace, error) {
	if err := t.use(namespacesTopic); err != nil {
		return nil, err
	}
	if name == DefaultNamespace {
		return &Namespace{Name: name, Description: "Builtin Default Namespace", Indexes: Indexes{1, 1}}, nil
	}
	if r := first[*aclRow](t.db, tableACL, aclString(Namespaces, name)); r != nil {
		return r.Namespace, nil
	}
	return nil, nil
}

// Namespaces lists the namespaces by name, the default one with them.
func (t *Txn) Namespaces() ([]*Namespace, error) {
	own, err := t.Namespace(DefaultNamespace)
	if err != nil {
		return nil, err
	}
	out := []*Namespace{own}
	each(t.db, tableACL, "id_prefix", join(Namespaces), func(r *aclRow) { out = append(out, r.Namespace) })
	slices.SortFunc(out, func(a, b *Namespace) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// ErrNamespace says that something is to be written into a namespace that doesn't exist.
var ErrNamespace = fmt.Errorf("%w: namespace", ErrInvalid)
