// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"slices"
	"time"
)

// What this datacenter knows of services of others is kept as its own: nodes, services and checks whose scope names the other
// datacenter. A service there is imported whole, and only what is called here is: see chain.Abroad.

// Import brings a service of another datacenter to what its servers said of it: the instances that can be dialled over mutual TLS,
// all of them. With a Fault the instances stay as they were, and only the fault is noted; with Drop all of it goes. The result has
// no value.
type Import struct {
	Service   Key              // with its datacenter
	Instances []InstanceRecord `json:",omitempty"`
	// Fault is why nothing has been heard since Since; "" where the servers there answer.
	Fault string    `json:",omitempty"`
	Since time.Time `json:",omitzero"`
	Drop  bool      `json:",omitempty"`
}

func (Import) commandType() string { return "import" }

// Imported is a service of another datacenter, of which this one keeps the instances.
type Imported struct {
	Service Key
	// Fault is why nothing has been heard of it since Since: the instances are what was known then.
	Fault string    `json:",omitempty"`
	Since time.Time `json:",omitzero"`
	Indexes
}

const tableImports = "imports" // *Imported

// The topics of other datacenters; in no feed.
const (
	// TopicImports is what is imported, and what is wrong with it.
	TopicImports TopicKind = "imports"
	// TopicAbroad is what decides which services of other datacenters are called: config entries, and upstreams that name one.
	TopicAbroad TopicKind = "abroad"
)

var (
	importsTopic = Topic{Kind: TopicImports}
	abroadTopic  = Topic{Kind: TopicAbroad}
)

func (u *unit) importService(c *Import) error {
	key := c.Service
	key.Scope = key.Scope.Default(u.w.dc)
	if err := firstError(checkName("service name", key.Name), checkScope(key.Scope)); err != nil {
		return err
	}
	if key.Datacenter == u.w.dc || key.Peer != "" {
		return invalidf("import of %q: want a service of another datacenter", key)
	}
	key = key.Fold()
	slot := u.imports.at(u.w, nameString(key))
	if c.Drop {
		slot.new = nil
		u.keepImported(key, nil)
		return nil
	}
	if c.Fault == "" {
		kept, err := u.importInstances(key, c.Instances)
		if err != nil {
			return err
		}
		u.keepImported(key, kept)
	}
	row := Imported{Service: key, Fault: c.Fault, Since: c.Since}
	var created uint64
	if old := slot.new; old != nil {
		if old.Fault == row.Fault && old.Since.Equal(row.Since) {
			return nil
		}
		created = old.CreateIndex
	}
	u.stamp(&row.Indexes, created)
	slot.new = &row
	return nil
}

// importInstances writes the instances of a service of another datacenter, and gives their keys. Nodes come without their ID: who
// has which name is for their own datacenter to say.
func (u *unit) importInstances(key Key, list []InstanceRecord) (kept map[string]bool, err error) {
	kept = map[string]bool{}
	for i := range list {
		if list[i].Node == nil || list[i].Service == nil {
			return nil, invalidf("import of %q: instance %d has no node or no service", key, i)
		}
		n, s := *list[i].Node, *list[i].Service
		n.ID, n.Scope = "", Scope{Datacenter: key.Datacenter, Partition: key.Partition}
		node, err := u.setNode(&n, false)
		if err != nil {
			return nil, err
		}
		s.Scope, s.Node = key.Scope, node.Node
		if d, ok := s.Destination(); !ok || d.Fold() != key {
			return nil, invalidf("import of %q: instance %q isn't one of it", key, s.ID)
		}
		if err := u.setService(node, &s); err != nil {
			return nil, err
		}
		row := serviceString(&s)
		kept[row] = true
		if err := u.importChecks(node, row, list[i].Checks); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// importChecks makes the checks that count for a service the given ones.
func (u *unit) importChecks(node *Node, service string, list []*Check) error {
	kept := map[string]bool{}
	for _, c := range list {
		if c == nil {
			continue
		}
		check := *c
		check.Scope, check.Node, check.CheckID = node.Scope, node.Node, cmp.Or(check.CheckID, check.Name)
		if check.ServiceID != "" {
			check.Namespace = u.services.at(u.w, service).new.Service.Namespace
		}
		if err := u.setCheck(node, &check); err != nil {
			return err
		}
		kept[checkString(&check)] = true
	}
	for _, x := range u.nodeChecks(nodeString(node.Scope, node.Node)) {
		if x.new == nil || kept[x.key] {
			continue
		}
		if x.new.ServiceID == "" || onNodeString(x.new.Scope, x.new.Node, x.new.ServiceID) == service {
			x.new = nil
		}
	}
	return nil
}

// keepImported removes the instances of an imported service that aren't among those to keep, and nodes on which nothing is left.
func (u *unit) keepImported(key Key, kept map[string]bool) {
	var gone []*instanceRow
	each(u.w.txn, tableServices, "connect", nameString(key), func(r *instanceRow) {
		if !kept[r.key] {
			gone = append(gone, r)
		}
	})
	for _, r := range gone {
		u.services.put(r.key, r)
		u.removeService(r.key)
	}
	for _, r := range gone {
		node := nodeString(r.Service.Scope, r.Service.Node)
		if !slices.ContainsFunc(u.nodeServices(node), func(s *slot[*instanceRow]) bool { return s.new != nil }) {
			u.removeNode(node)
		}
	}
}

func (u *unit) flushImport(s *slot[*Imported]) {
	if s.new != nil {
		insert(u.w.txn, tableImports, s.new)
	} else {
		remove(u.w.txn, tableImports, s.old)
	}
	u.w.touch(importsTopic)
}

// callsAbroad says whether an instance names a datacenter in one of its upstreams.
func (r *instanceRow) callsAbroad() bool {
	return r != nil && r.Service.Proxy != nil && slices.ContainsFunc(r.Service.Proxy.Upstreams, func(u Upstream) bool { return u.Datacenter != "" })
}

// Imports lists what is imported of other datacenters, by datacenter and name.
func (t *Txn) Imports() ([]*Imported, error) {
	if err := t.use(importsTopic); err != nil {
		return nil, err
	}
	var out []*Imported
	each(t.db, tableImports, "id_prefix", "", func(r *Imported) { out = append(out, r) })
	return out, nil
}

// Import gives what is known of the import of a service of another datacenter; nil: it isn't imported.
func (t *Txn) Import(service Key) (*Imported, error) {
	if err := t.use(importsTopic); err != nil {
		return nil, err
	}
	return first[*Imported](t.db, tableImports, nameString(t.key(service))), nil
}

// CallersAbroad lists the sidecars of this datacenter that have an upstream which names a datacenter.
func (t *Txn) CallersAbroad() ([]*Service, error) {
	if err := t.use(abroadTopic); err != nil {
		return nil, err
	}
	var out []*Service
	each(t.db, tableServices, "abroad_prefix", "", func(r *instanceRow) {
		if r.Service.Datacenter == t.dc && r.Service.Peer == "" {
			out = append(out, r.Service)
		}
	})
	return out, nil
}

// Resolvers lists the service-resolvers of all namespaces and partitions.
func (t *Txn) Resolvers() ([]*ServiceResolver, error) {
	if err := t.use(abroadTopic); err != nil {
		return nil, err
	}
	var out []*ServiceResolver
	for _, e := range t.entriesUnder(KindServiceResolver + "\x00") {
		if r, ok := e.(*ServiceResolver); ok {
			out = append(out, r)
		}
	}
	return out, nil
}
