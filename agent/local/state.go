// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/weftmesh/weft/catalog"
)

// Owner is who the records of an agent belong to; sync touches no other's.
const Owner = "agent"

// Config is what a State is made of.
type Config struct {
	Node       catalog.Node // this host's record, with its scope filled in
	Journal    string       // file that keeps registrations; "" keeps nothing
	SidecarMin int          // ports of generated sidecars, default 21000 to 21255
	SidecarMax int
	Log        *slog.Logger
}

// State is this host's wanted state. It is safe for use by several goroutines.
type State struct {
	node                   catalog.Node
	sidecarMin, sidecarMax int
	log                    *slog.Logger
	journal                *journal

	mu       sync.Mutex     // guards all below
	ports    map[string]int // of generated sidecars, as the journal has them; only while it is read
	services map[string]*Service
	checks   map[string]*Check // those of services too
	version  uint64
	changed  chan struct{}     // closed and made anew at each change
	recalled map[string]string // check → its status when the agent last ran
	// configured are the services and checks that files of the configuration named (keys as those of the journal's records).
	configured map[string]bool
}

// New makes a state and reads what its journal holds. It starts nothing.
func New(c Config) (*State, error) {
	if c.SidecarMin == 0 {
		c.SidecarMin = 21000
	}
	if c.SidecarMax == 0 {
		c.SidecarMax = c.SidecarMin + 255
	}
	s := &State{
		node: c.Node, sidecarMin: c.SidecarMin, sidecarMax: c.SidecarMax, log: c.Log,
		services: map[string]*Service{}, checks: map[string]*Check{}, changed: make(chan struct{}),
		configured: map[string]bool{},
	}
	if c.Journal == "" {
		return s, nil
	}
	j, kept, err := openJournal(c.Journal)
	if err != nil {
		return nil, err
	}
	s.journal = j
	return s, s.replay(kept)
}

// Node is this host's record.
func (s *State) Node() catalog.Node { return s.node }

// Register takes a service, with its checks and generated sidecar, in place of what had its ID. It answers when the
// journal has it on disk. With keepChecks, checks of the old registration that the new one doesn't name stay.
// Warnings name what was taken without effect.
func (s *State) Register(d ServiceDefinition, token string, keepChecks bool) (warnings []string, err error) {
	s.mu.Lock()
	main, sidecar, warnings, err := s.registerLocked(d, token, keepChecks)
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	delete(s.configured, "s"+main.Record.ID)
	s.publishLocked()
	done := s.journal.append(s.recordsLocked(main, sidecar)...)
	s.mu.Unlock()
	return warnings, done()
}

// registerLocked puts what a definition means in place of what had its ID, or changes nothing.
func (s *State) registerLocked(d ServiceDefinition, token string, keepChecks bool) (main, sidecar *Service, warnings []string, err error) {
	main, sidecar, warnings, err = s.build(d, token)
	if err == nil {
		err = s.destinationHereLocked(main)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	s.replaceLocked(main, keepChecks)
	if sidecar != nil {
		s.replaceLocked(sidecar, keepChecks)
	} else if old, ok := s.services[SidecarID(main.Record.ID)]; ok && old.Parent == main.Record.ID {
		s.removeLocked(old.Record.ID)
	}
	return main, sidecar, warnings, nil
}

// recordsLocked is a registration for the journal: the definition, and the checks of before that stay without being in it.
func (s *State) recordsLocked(main, sidecar *Service) []record {
	records := []record{{Service: &main.Definition, Token: main.Token, SidecarPort: portOf(sidecar)}}
	for _, svc := range []*Service{main, sidecar} {
		if svc == nil {
			continue
		}
		for id, c := range s.checks {
			named := slices.ContainsFunc(svc.Checks, func(own Check) bool { return own.Record.CheckID == id })
			if c.Record.ServiceID == svc.Record.ID && !named && c.Definition.Type() != "" {
				records = append(records, record{Check: &c.Definition, Token: c.Token})
			}
		}
	}
	return records
}

// destinationHereLocked refuses a proxy for a service that this agent doesn't have.
func (s *State) destinationHereLocked(svc *Service) error {
	p := svc.Record.Proxy
	if p == nil || p.DestinationServiceID == "" || svc.Parent != "" {
		return nil
	}
	if _, ok := s.services[p.DestinationServiceID]; !ok {
		return invalidf("proxy %q: Proxy.DestinationServiceID %q isn't registered on this agent; register that service first",
			svc.Record.ID, p.DestinationServiceID)
	}
	return nil
}

func (s *State) replaceLocked(svc *Service, keepChecks bool) {
	id := svc.Record.ID
	named := map[string]bool{}
	for i := range svc.Checks {
		c := &svc.Checks[i]
		named[c.Record.CheckID] = true
		// What is known of a check stays known while it is asked anew.
		if old, ok := s.checks[c.Record.CheckID]; ok && old.Record.ServiceID == id && c.Definition.Status == "" {
			r := *c.Record
			r.Status, r.Output = old.Record.Status, old.Record.Output
			c.Record = &r
		} else if !ok {
			c = s.recalledLocked(c)
		}
		s.checks[c.Record.CheckID] = c
	}
	for checkID, c := range s.checks {
		if c.Record.ServiceID != id || named[checkID] || checkID == maintenanceID(id) {
			continue
		}
		if keepChecks {
			r := *c.Record
			r.ServiceName, r.ServiceTags = svc.Record.Service, svc.Record.Tags
			s.checks[checkID] = &Check{Record: &r, Definition: c.Definition, Token: c.Token}
			continue
		}
		delete(s.checks, checkID)
	}
	s.services[id] = svc
}

// Deregister removes a service with its checks and generated sidecar.
func (s *State) Deregister(id string) error {
	s.mu.Lock()
	svc, ok := s.services[id]
	if !ok {
		s.mu.Unlock()
		return fmt.Errorf("Unknown service ID %q. Ensure that the service ID is passed, not the service name.: %w", id, ErrUnknown) //nolint:staticcheck // Consul's text
	}
	if svc.Parent != "" {
		s.mu.Unlock()
		return invalidf("service %q is the generated sidecar of %q and goes with it", id, svc.Parent)
	}
	s.removeLocked(id)
	if side, ok := s.services[SidecarID(id)]; ok && side.Parent == id {
		s.removeLocked(SidecarID(id))
	}
	delete(s.configured, "s"+id)
	s.publishLocked()
	done := s.journal.append(record{DropService: id})
	s.mu.Unlock()
	return done()
}

func (s *State) removeLocked(id string) {
	delete(s.services, id)
	for checkID, c := range s.checks {
		if c.Record.ServiceID == id {
			delete(s.checks, checkID)
		}
	}
}

// RegisterCheck takes a check, of the node or of the service that it names.
func (s *State) RegisterCheck(d CheckDefinition, token string) error {
	s.mu.Lock()
	c, err := s.checkLocked(d, token)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	delete(s.configured, "c"+c.Record.CheckID)
	s.publishLocked()
	done := s.journal.append(record{Check: &c.Definition, Token: c.Token})
	s.mu.Unlock()
	return done()
}

// DeregisterCheck removes a check.
func (s *State) DeregisterCheck(id string) error {
	s.mu.Lock()
	c, ok := s.checks[id]
	if !ok {
		s.mu.Unlock()
		return unknownCheck(id)
	}
	delete(s.checks, id)
	delete(s.configured, "c"+id)
	s.publishLocked()
	done := s.journal.append(record{DropCheck: id, Of: c.Record.ServiceID})
	s.mu.Unlock()
	return done()
}

func unknownCheck(id string) error {
	return fmt.Errorf("Unknown check ID %q. Ensure that the check ID is passed, not the check name.: %w", id, ErrUnknown) //nolint:staticcheck // Consul's text
}

// SetCheck records a check's result; the output is cut to the check's bound. A result that changes nothing wakes nobody.
func (s *State) SetCheck(id, status, output string) error {
	if err := validStatus(status); err != nil || status == "" {
		return invalidf("Invalid check status: %q", status)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.checks[id]
	if !ok {
		return unknownCheck(id)
	}
	if limit := c.Definition.OutputMaxSize; limit > 0 && len(output) > limit {
		output = strings.ToValidUTF8(output[:limit], "") + fmt.Sprintf(" (cut: %d of %d bytes)", limit, len(output))
	}
	if c.Record.Status == status && c.Record.Output == output {
		return nil
	}
	r := *c.Record
	r.Status, r.Output = status, output
	s.checks[id] = &Check{Record: &r, Definition: c.Definition, Token: c.Token}
	s.publishLocked()
	return nil
}

// NodeMaintenance is the ID of the check that holds the whole node out of service.
const NodeMaintenance = "_node_maintenance"

func maintenanceID(service string) string { return "_service_maintenance:" + service }

// SetMaintenance takes a service (or with "" the node) out of service, or back in.
func (s *State) SetMaintenance(service string, on bool, reason string) error {
	s.mu.Lock()
	if err := s.maintainLocked(service, on, reason); err != nil {
		s.mu.Unlock()
		return err
	}
	s.publishLocked()
	done := s.journal.append(record{Maintenance: &maintenance{Of: service, On: on, Reason: reason}})
	s.mu.Unlock()
	return done()
}

func (s *State) maintainLocked(service string, on bool, reason string) error {
	r := &catalog.Check{
		Scope: s.node.Scope, Node: s.node.Node, CheckID: NodeMaintenance, Name: "Node Maintenance Mode", Type: TypeMaintenance,
		Status: catalog.HealthCritical, Notes: reason, Owner: Owner,
	}
	if service != "" {
		svc, ok := s.services[service]
		if !ok {
			return fmt.Errorf("Unknown service ID %q: %w", service, ErrUnknown) //nolint:staticcheck // Consul's text
		}
		r.Scope, r.CheckID, r.Name = svc.Record.Scope, maintenanceID(service), "Service Maintenance Mode"
		r.ServiceID, r.ServiceName, r.ServiceTags = service, svc.Record.Service, svc.Record.Tags
	}
	if r.Notes == "" {
		r.Notes = "Maintenance mode is enabled for this " + map[bool]string{true: "service", false: "node"}[service != ""] + ", but no reason was provided."
	}
	if on {
		s.checks[r.CheckID] = &Check{Record: r}
	} else {
		delete(s.checks, r.CheckID)
	}
	return nil
}

// Wanted is the host's wanted state at one moment. Its records are shared: nobody may change them.
type Wanted struct {
	Version  uint64
	Node     catalog.Node
	Services map[string]*Service
	Checks   map[string]*Check
}

// Wanted gives the state now, and a channel that is closed at the next change.
func (s *State) Wanted() (Wanted, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Wanted{Version: s.version, Node: s.node, Services: maps.Clone(s.services), Checks: maps.Clone(s.checks)}, s.changed
}

func (s *State) publishLocked() {
	s.version++
	close(s.changed)
	s.changed = make(chan struct{})
}

// Sidecars lists the proxies registered for the service with this ID (or, if none has it as ID, of this name).
func (w *Wanted) Sidecars(service string) []*Service {
	var found []*Service
	for _, id := range slices.Sorted(maps.Keys(w.Services)) {
		p := w.Services[id].Record.Proxy
		if p == nil {
			continue
		}
		if p.DestinationServiceID == service || (p.DestinationServiceID == "" && p.DestinationServiceName == service) {
			found = append(found, w.Services[id])
		}
	}
	return found
}

// ChecksOf lists a service's checks, sorted by ID; "" lists the node's own.
func (w *Wanted) ChecksOf(service string) []*Check {
	var found []*Check
	for _, id := range slices.Sorted(maps.Keys(w.Checks)) {
		if c := w.Checks[id]; c.Record.ServiceID == service {
			found = append(found, c)
		}
	}
	return found
}
