// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weftmesh/weft/internal/guard"
)

// SerfHealth is the ID of the node check by which membership says that a node is alive.
const SerfHealth = "serfHealth"

// checkName refuses what can't be part of a key.
func checkName(field, name string) error {
	switch {
	case name == "":
		return invalidf("%s must not be empty", field)
	case len(name) > 512:
		return invalidf("%s has %d bytes, more than 512", field, len(name))
	case !guard.Off("C121") && strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return invalidf("%s %q has control characters", field, name)
	}
	return nil
}

func checkScope(s Scope) error {
	for _, p := range []string{s.Datacenter, s.Partition, s.Namespace, s.Peer} {
		if p != "" {
			if err := checkName("scope", p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *unit) register(c *Register) error {
	node, err := u.setNode(&c.Node, c.SkipNodeUpdate)
	if err != nil {
		return err
	}
	for i := range c.Services {
		if err := u.setService(node, apart(c.Services, i)); err != nil {
			return err
		}
	}
	for i := range c.Checks {
		if err := u.setCheck(node, apart(c.Checks, i)); err != nil {
			return err
		}
	}
	return nil
}

// apart is a record of a list that doesn't hold the others in memory.
func apart[T any](list []T, i int) *T {
	if len(list) == 1 {
		return &list[0]
	}
	one := list[i]
	return &one
}

// setNode, setService and setCheck bring the record that they are given into the form in which it is stored, and compare it with the one that is
// there: most that comes is as it was, and a copy of each was a twentieth of what a registration allocated. What setService and setCheck
// are given becomes the row, if it is another.

// setNode writes a node's record by these rules: a name that has another ID takes the new ID unless the node is alive; an ID that
// has another name is a rename, for which the old node goes with all that is on it, unless that one is alive. Alive is a
// serfHealth check that isn't critical. A record without ID keeps the ID that is there.
func (u *unit) setNode(n *Node, skip bool) (*Node, error) {
	n.Scope = n.Scope.Default(u.w.dc)
	n.Namespace = DefaultNamespace
	if n.Node == "" {
		return nil, invalidf("Must provide node")
	}
	if err := checkName("node name", n.Node); err != nil {
		return nil, err
	}
	if err := checkScope(n.Scope); err != nil {
		return nil, err
	}
	if n.ID != "" {
		if err := checkName("node ID", n.ID); err != nil {
			return nil, err
		}
	}
	s := u.nodes.at(u.w, nodeString(n.Scope, n.Node))
	if skip && s.new != nil {
		return s.new, nil
	}
	if n.Address == "" {
		return nil, invalidf("Must provide address if SkipNodeUpdate is not set")
	}
	if s.new != nil && n.ID == "" {
		n.ID = s.new.ID
	}
	if s.new != nil && s.new.ID != "" && !strings.EqualFold(s.new.ID, n.ID) && u.alive(s.key) && !guard.Off("C103") {
		return nil, faultf(ErrConflict, "node name %q is in use by node ID %s, which is alive", n.Node, s.new.ID)
	}
	if err := u.takeID(n, s.key); err != nil {
		return nil, err
	}
	ix := func(n *Node) *Indexes { return &n.Indexes }
	var created uint64
	if s.new != nil {
		if same(s.new, n, ix) {
			return s.new, nil
		}
		created = s.new.CreateIndex
	}
	row := *n
	u.stamp(&row.Indexes, created)
	s.new = &row
	return s.new, nil
}

// takeID makes the node's ID free for it.
func (u *unit) takeID(n *Node, key string) error {
	if n.ID == "" {
		return nil
	}
	v, err := u.w.txn.First(tableNodes, "uuid", uuidString(n.Scope, n.ID))
	if err != nil {
		panic(err)
	}
	if v == nil {
		return nil
	}
	old := v.(*Node)
	oldKey := nodeString(old.Scope, old.Node)
	if oldKey == key {
		return nil
	}
	if u.alive(oldKey) {
		return faultf(ErrConflict, "node ID %s is in use by node %q, which is alive", n.ID, old.Node)
	}
	u.removeNode(oldKey)
	return nil
}

func (u *unit) alive(node string) bool {
	c := u.checks.at(u.w, node+join(DefaultNamespace, strings.ToLower(SerfHealth))).new
	return c != nil && c.Status != HealthCritical
}

func (u *unit) setService(node *Node, s *Service) error {
	ns := s.Namespace
	s.Scope = node.Scope
	s.Namespace = cmp.Or(ns, DefaultNamespace)
	s.Node = node.Node
	if s.Service == "" {
		return invalidf("Must provide service name (Service.Service)")
	}
	s.ID = cmp.Or(s.ID, s.Service)
	err := firstError(checkName("service name", s.Service), checkName("service ID", s.ID), checkName("namespace", s.Namespace))
	if err != nil {
		return err
	}
	if err := u.home(s.Scope); err != nil {
		return err
	}
	if d, ok := s.Destination(); ok {
		if err := checkName("Proxy.DestinationServiceName", d.Name); err != nil {
			return err
		}
	}
	slot := u.services.at(u.w, serviceString(s))
	keepVirtual(slot.new, s)
	var created uint64
	if slot.new != nil {
		if same(slot.new.Service, s, func(s *Service) *Indexes { return &s.Indexes }) {
			return nil
		}
		created = slot.new.Service.CreateIndex
	}
	u.stamp(&s.Indexes, created)
	old := slot.new
	slot.new = &instanceRow{Instance: Instance{Service: s}, key: slot.key}
	if old != nil && (old.Service.Service != s.Service || !slices.Equal(old.Service.Tags, s.Tags)) {
		u.relabelChecks(slot.key, s)
	}
	return nil
}

// relabelChecks brings a service's new name and tags into its checks.
func (u *unit) relabelChecks(service string, s *Service) {
	for _, c := range u.serviceChecks(service) {
		n := *c.new
		n.ServiceName, n.ServiceTags = s.Service, s.Tags
		u.stamp(&n.Indexes, n.CreateIndex)
		c.new = &n
	}
}

func (u *unit) setCheck(node *Node, c *Check) error {
	ns := c.Namespace
	c.Scope = node.Scope
	c.Namespace = cmp.Or(ns, DefaultNamespace)
	c.Node = node.Node
	c.CheckID = cmp.Or(c.CheckID, c.Name)
	if err := firstError(checkName("check ID", c.CheckID), checkName("namespace", c.Namespace)); err != nil {
		return err
	}
	switch c.Status = cmp.Or(c.Status, HealthCritical); c.Status {
	case HealthPassing, HealthWarning, HealthCritical:
	default:
		return invalidf("check %q: Status %q is none of passing, warning, critical", c.CheckID, c.Status)
	}
	c.ServiceName, c.ServiceTags = "", nil
	if c.ServiceID == "" {
		c.Namespace = DefaultNamespace
	} else {
		s := u.services.at(u.w, onNodeString(c.Scope, c.Node, c.ServiceID)).new
		if s == nil {
			return faultf(ErrNotFound, "check %q: node %q has no service with ID %q", c.CheckID, c.Node, c.ServiceID)
		}
		c.ServiceName, c.ServiceTags = s.Service.Service, s.Service.Tags
	}
	at := u.checks.at(u.w, checkString(c))
	var created uint64
	if at.new != nil {
		if same(at.new, c, func(c *Check) *Indexes { return &c.Indexes }) {
			return nil
		}
		created = at.new.CreateIndex
	}
	u.stamp(&c.Indexes, created)
	at.new = c
	if c.ServiceID != "" {
		if u.onService == nil {
			u.onService = map[string][]*slot[*Check]{}
		}
		key := onNodeString(c.Scope, c.Node, c.ServiceID)
		u.onService[key] = append(u.onService[key], at)
	}
	return nil
}

func (u *unit) deregister(c *Deregister) error {
	scope := c.Scope.Default(u.w.dc)
	if c.Node == "" {
		return invalidf("Must provide node")
	}
	switch {
	case c.CheckID != "":
		u.removeCheck(onNodeString(scope, c.Node, c.CheckID))
	case c.ServiceID != "":
		u.removeService(onNodeString(scope, c.Node, c.ServiceID))
	default:
		u.removeNode(nodeString(scope, c.Node))
	}
	return nil
}

func (u *unit) removeCheck(key string) { u.checks.at(u.w, key).new = nil }

func (u *unit) removeService(key string) {
	s := u.services.at(u.w, key)
	if s.new == nil {
		return
	}
	s.new = nil
	for _, c := range u.serviceChecks(key) {
		c.new = nil
	}
}

func (u *unit) removeNode(key string) {
	n := u.nodes.at(u.w, key)
	if n.new == nil {
		return
	}
	n.new = nil
	for _, s := range u.nodeServices(key) {
		s.new = nil
	}
	for _, c := range u.nodeChecks(key) {
		c.new = nil
	}
}

func (u *unit) sync(c *Sync) (any, error) {
	node, err := u.setNode(&c.Node, false)
	if err != nil {
		return nil, err
	}
	results := make([]SyncResult, len(c.Items))
	for i := range c.Items {
		results[i].Err = u.syncItem(node, &c.Items[i])
	}
	return results, nil
}

func (u *unit) syncItem(node *Node, it *SyncItem) error {
	set := 0
	for _, b := range []bool{it.Service != nil, it.Check != nil, it.DeleteService != "", it.DeleteCheck != ""} {
		if b {
			set++
		}
	}
	if set != 1 {
		return invalidf("a sync item holds exactly one of Service, Check, DeleteService, DeleteCheck; this one %d", set)
	}
	scope := node.Scope
	scope.Namespace = cmp.Or(it.Namespace, DefaultNamespace)
	owned := func(what, id, has, wants string) error {
		if has != "" && has != cmp.Or(wants, node.Owner) {
			return faultf(ErrConflict, "%s %q belongs to %q", what, id, has)
		}
		return nil
	}
	service := func(s Scope, id, owner string) error {
		if old := u.services.at(u.w, onNodeString(s, node.Node, id)).new; old != nil {
			return owned("service", id, old.Service.Owner, owner)
		}
		return nil
	}
	check := func(s Scope, id, owner string) error {
		if old := u.checks.at(u.w, onNodeString(s, node.Node, id)).new; old != nil {
			return owned("check", id, old.Owner, owner)
		}
		return nil
	}
	switch {
	case it.Service != nil:
		scope.Namespace = cmp.Or(it.Service.Namespace, scope.Namespace)
		if err := service(scope, cmp.Or(it.Service.ID, it.Service.Service), it.Service.Owner); err != nil {
			return err
		}
		it.Service.Namespace = scope.Namespace
		return u.setService(node, it.Service)
	case it.Check != nil:
		scope.Namespace = cmp.Or(it.Check.Namespace, scope.Namespace)
		if err := check(scope, cmp.Or(it.Check.CheckID, it.Check.Name), it.Check.Owner); err != nil {
			return err
		}
		it.Check.Namespace = scope.Namespace
		return u.setCheck(node, it.Check)
	case it.DeleteService != "":
		if err := service(scope, it.DeleteService, ""); err != nil {
			return err
		}
		u.removeService(onNodeString(scope, node.Node, it.DeleteService))
	default:
		if err := check(scope, it.DeleteCheck, ""); err != nil {
			return err
		}
		u.removeCheck(onNodeString(scope, node.Node, it.DeleteCheck))
	}
	return nil
}
