// SPDX-License-Identifier: Apache-2.0

package local

import (
	"maps"
	"slices"
)

// tables are what is registered: plain data without lock or disk. What they hold is shared and never changed in place.
type tables struct {
	services map[string]*Service
	checks   map[string]*Check   // those of services too
	of       map[string][]string // service → its checks' IDs, sorted; "" are the node's own
	ports    map[int]int         // port → how many services have it
	exposing map[string]bool     // proxies that let their services' checks through
	reserved map[string]int      // ports of generated sidecars, as the journal has them; only while it is read
	recalled map[string]string   // check → its status when the agent last ran
	// configured are the services and checks that files of the configuration named (keys as those of the journal's records).
	configured map[string]bool
}

func newTables() *tables {
	return &tables{
		services: map[string]*Service{}, checks: map[string]*Check{}, of: map[string][]string{}, ports: map[int]int{},
		exposing:   map[string]bool{},
		configured: map[string]bool{},
	}
}

func (t *tables) clone() *tables {
	return &tables{
		services: maps.Clone(t.services), checks: maps.Clone(t.checks), of: maps.Clone(t.of), ports: maps.Clone(t.ports),
		exposing: maps.Clone(t.exposing),
		reserved: t.reserved, recalled: t.recalled, configured: maps.Clone(t.configured),
	}
}

// change is a step from some tables to the next. It was validated before, can't fail, and means the same on every tables
// that the steps before it were made on.
type change interface{ apply(t *tables) }

// registration puts a service, with its checks and its generated sidecar, in place of what had its ID.
type registration struct {
	main, sidecar *Service // sidecar may be nil
	keepChecks    bool     // checks of before that aren't named stay
	configured    bool     // by a file of the configuration
}

func (c registration) apply(t *tables) {
	id := c.main.Record.ID
	t.put(c.main, c.keepChecks)
	if c.sidecar != nil {
		t.put(c.sidecar, c.keepChecks)
	} else if old, ok := t.services[SidecarID(id)]; ok && old.Parent == id {
		t.drop(SidecarID(id))
	}
	t.mark("s"+id, c.configured)
}

// removal takes a service away, with its checks and its generated sidecar.
type removal struct{ id string }

func (c removal) apply(t *tables) {
	t.drop(c.id)
	if side, ok := t.services[SidecarID(c.id)]; ok && side.Parent == c.id {
		t.drop(SidecarID(c.id))
	}
	t.mark("s"+c.id, false)
}

// checkRegistration puts a check in place of what had its ID.
type checkRegistration struct {
	check      *Check
	configured bool
}

func (c checkRegistration) apply(t *tables) {
	check := c.check
	if old, ok := t.checks[check.Record.CheckID]; ok && check.Definition.Status == "" {
		check = check.with(old.Record.Status, old.Record.Output)
	}
	t.putCheck(check)
	t.mark("c"+check.Record.CheckID, c.configured)
}

// checkRemoval takes a check away.
type checkRemoval struct{ id string }

func (c checkRemoval) apply(t *tables) {
	t.dropCheck(c.id)
	t.mark("c"+c.id, false)
}

// maintaining puts the check that holds a service, or the node, out of service.
type maintaining struct{ check *Check }

func (c maintaining) apply(t *tables) { t.putCheck(c.check) }

// maintained takes it away.
type maintained struct{ id string }

func (c maintained) apply(t *tables) { t.dropCheck(c.id) }

// mark notes whether a record is the configuration's.
func (t *tables) mark(key string, configured bool) {
	if configured {
		t.configured[key] = true
	} else {
		delete(t.configured, key)
	}
}

// put takes a service with its checks. What is known of a check stays known while it is asked anew.
func (t *tables) put(svc *Service, keepChecks bool) {
	id := svc.Record.ID
	named := map[string]bool{}
	for i := range svc.Checks {
		c := &svc.Checks[i]
		named[c.Record.CheckID] = true
		if old, ok := t.checks[c.Record.CheckID]; ok && old.Record.ServiceID == id && c.Definition.Status == "" {
			c = c.with(old.Record.Status, old.Record.Output)
		} else if !ok {
			c = t.recall(c)
		}
		t.putCheck(c)
	}
	for _, checkID := range t.of[id] {
		switch {
		case named[checkID] || checkID == maintenanceID(id):
		case keepChecks:
			c := *t.checks[checkID]
			r := *c.Record
			r.ServiceName, r.ServiceTags = svc.Record.Service, svc.Record.Tags
			c.Record = &r
			t.putCheck(&c)
		default:
			t.dropCheck(checkID)
		}
	}
	t.count(t.services[id], -1)
	t.count(svc, 1)
	t.services[id] = svc
	if p := svc.Record.Proxy; p != nil && p.Expose.Checks && p.DestinationServiceID != "" {
		t.exposing[id] = true
	} else {
		delete(t.exposing, id)
	}
}

func (t *tables) drop(id string) {
	for _, checkID := range t.of[id] {
		t.dropCheck(checkID)
	}
	t.count(t.services[id], -1)
	delete(t.services, id)
	delete(t.exposing, id)
}

func (t *tables) count(svc *Service, by int) {
	if svc == nil {
		return
	}
	port := svc.Record.Port
	if t.ports[port] += by; t.ports[port] == 0 {
		delete(t.ports, port)
	}
}

func (t *tables) putCheck(c *Check) {
	id := c.Record.CheckID
	if old, ok := t.checks[id]; !ok || old.Record.ServiceID != c.Record.ServiceID {
		t.dropCheck(id)
		own := t.of[c.Record.ServiceID]
		at, _ := slices.BinarySearch(own, id)
		t.of[c.Record.ServiceID] = slices.Insert(slices.Clone(own), at, id)
	}
	t.checks[id] = c
}

func (t *tables) dropCheck(id string) {
	c, ok := t.checks[id]
	if !ok {
		return
	}
	delete(t.checks, id)
	own := t.of[c.Record.ServiceID]
	if at, found := slices.BinarySearch(own, id); found {
		own = slices.Delete(slices.Clone(own), at, at+1)
	}
	if len(own) == 0 {
		delete(t.of, c.Record.ServiceID)
		return
	}
	t.of[c.Record.ServiceID] = own
}

// recall is a new check with the status that it had when the agent last ran.
func (t *tables) recall(c *Check) *Check {
	status := t.recalled[c.Record.CheckID]
	if status == "" || validStatus(status) != nil || c.Definition.Status != "" || c.Definition.Type() == "" {
		return c
	}
	return c.with(status, c.Record.Output)
}

// with is the check with another result.
func (c *Check) with(status, output string) *Check {
	n, r := *c, *c.Record
	r.Status, r.Output = status, output
	n.Record = &r
	return &n
}
