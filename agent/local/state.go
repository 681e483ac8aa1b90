// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
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
	ExposeMin  int // ports at which proxies let checks through, default 21500 to 21755
	ExposeMax  int
	Scripts    ScriptPolicy
	Locality   *catalog.Locality // of services that name none
	// MaxOutput bounds each check's output, whatever the check says; 0 is 4096. DiscardOutput keeps none.
	MaxOutput     int
	DiscardOutput bool
	Log           *slog.Logger
}

// State is this host's wanted state. It is safe for use by several goroutines.
//
// A change goes three ways: it is validated against next, which has all that is on its way to the disk too; it is written to the
// journal, with all others that arrive meanwhile; and then it is in force, by being made on now. If the disk fails, what
// was on its way is forgotten: next becomes now again.
type State struct {
	node                   catalog.Node
	sidecarMin, sidecarMax int
	scripts                ScriptPolicy
	locality               *catalog.Locality
	maxOutput              int
	log                    *slog.Logger
	journal                *journal // nil: nothing is kept

	mu        sync.Mutex // guards all below
	discard   bool
	now       *tables
	next      *tables // now itself without a journal
	version   uint64
	changed   chan struct{} // closed and made anew at each change
	published *Wanted       // the copy of now that all readers of this version share; nil: nobody has asked yet
	exposed   exposed
}

// New makes a state and reads what its journal holds. It starts nothing.
func New(c Config) (*State, error) {
	if c.SidecarMin == 0 {
		c.SidecarMin = 21000
	}
	if c.SidecarMax == 0 {
		c.SidecarMax = c.SidecarMin + 255
	}
	if c.ExposeMin == 0 {
		c.ExposeMin = 21500
	}
	if c.ExposeMax == 0 {
		c.ExposeMax = c.ExposeMin + 255
	}
	if c.MaxOutput == 0 {
		c.MaxOutput = defaultOutput
	}
	s := &State{
		scripts: c.Scripts, locality: c.Locality, maxOutput: c.MaxOutput, discard: c.DiscardOutput, node: c.Node, sidecarMin: c.SidecarMin, sidecarMax: c.SidecarMax, log: c.Log, now: newTables(), changed: make(chan struct{}),
		exposed: exposed{min: c.ExposeMin, max: c.ExposeMax},
	}
	s.next = s.now
	if c.Journal == "" {
		return s, nil
	}
	j, kept, err := openJournal(c.Journal)
	if err != nil {
		return nil, err
	}
	s.journal = j
	s.replay(kept)
	return s, nil
}

// Node is this host's record.
func (s *State) Node() catalog.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// SetMeta replaces what describes this host.
func (s *State) SetMeta(meta map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if maps.Equal(s.node.Meta, meta) {
		return
	}
	s.node.Meta = meta
	s.publishLocked()
}

// step is a change with what the journal keeps of it.
type step struct {
	change  change
	records []record
}

// beginLocked sends steps that were validated against next on their way. The returned function waits until they are in force,
// or gives the reason why they never will be; it is called without the lock.
func (s *State) beginLocked(steps ...step) (done func() error) {
	if s.journal == nil {
		for _, st := range steps {
			st.change.apply(s.now)
		}
		s.publishLocked()
		return func() error { return nil }
	}
	var records []record
	for _, st := range steps {
		records = append(records, st.records...)
	}
	wait, err := s.journal.append(records, steps)
	if err != nil {
		return func() error { return err }
	}
	for _, st := range steps {
		st.change.apply(s.next)
	}
	return func() error { return <-wait }
}

// settle ends the way of what was appended: with err nil it is in force, else nothing of it, nor of what came after it, is.
func (s *State) settle(written []appended, err error) {
	s.mu.Lock()
	if err == nil {
		for _, a := range written {
			for _, st := range a.steps {
				st.change.apply(s.now)
			}
		}
		s.publishLocked()
	} else {
		written = append(written, s.journal.takePending()...) // it was validated against what isn't to be
		s.next = s.now.clone()
	}
	s.mu.Unlock()
	for _, a := range written {
		a.done <- err
	}
}

// Register takes a service, with its checks and generated sidecar, in place of what had its ID. It answers when the
// journal has it on disk and it is in force; with an error, nothing has changed. With keepChecks, checks of the old
// registration that the new one doesn't name stay. Warnings name what was taken without effect.
func (s *State) Register(d ServiceDefinition, token string, keepChecks bool) (warnings []string, err error) {
	s.mu.Lock()
	st, warnings, err := s.plan(s.next, d, token, registration{keepChecks: keepChecks})
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	done := s.beginLocked(st)
	s.mu.Unlock()
	if err := done(); err != nil {
		return nil, err
	}
	return warnings, nil
}

// RegisterAll takes many services as one: all of them, ordinary ones before proxies, or none if any is refused.
func (s *State) RegisterAll(all []ServiceDefinition, token string, keepChecks bool) (warnings []string, err error) {
	s.mu.Lock()
	steps, warnings, faults := s.planAll(s.next.clone(), all, token, registration{keepChecks: keepChecks})
	if len(faults) > 0 {
		s.mu.Unlock()
		return nil, joinSome(faults)
	}
	done := s.beginLocked(steps...)
	s.mu.Unlock()
	if err := done(); err != nil {
		return nil, err
	}
	return warnings, nil
}

// planAll validates registrations one after the other on a draft, which it changes.
func (s *State) planAll(draft *tables, all []ServiceDefinition, token string, as registration) (steps []step, warnings []string, faults []error) {
	seen := map[string]bool{}
	for _, proxies := range []bool{false, true} {
		for _, d := range all {
			if (d.Kind != "") != proxies {
				continue
			}
			id := serviceID(&d)
			if seen[id] {
				faults = append(faults, twice(id))
				continue
			}
			seen[id] = true
			st, w, err := s.plan(draft, d, token, as)
			if err != nil {
				faults = append(faults, fmt.Errorf("service %q: %w", id, err))
				continue
			}
			st.change.apply(draft)
			steps, warnings = append(steps, st), append(warnings, w...)
		}
	}
	return steps, warnings, faults
}

// someFaults is how many faults one answer names.
const someFaults = 10

func joinSome(faults []error) error {
	if more := len(faults) - someFaults; more > 0 {
		faults = append(faults[:someFaults:someFaults], fmt.Errorf("and %d more", more))
	}
	return errors.Join(faults...)
}

// plan turns a definition into the step that it means after t.
func (s *State) plan(t *tables, d ServiceDefinition, token string, as registration) (st step, warnings []string, err error) {
	if err = s.scripts.allow(as.configured, d.allChecks()...); err != nil {
		return step{}, nil, err
	}
	if as.main, as.sidecar, warnings, err = s.build(t, d, token); err != nil {
		return step{}, nil, err
	}
	for _, svc := range []*Service{as.main, as.sidecar} {
		if err = inOwnNamespace(t, svc); err != nil {
			return step{}, nil, err
		}
	}
	if err = destinationHere(t, as.main); err != nil {
		return step{}, nil, err
	}
	return step{as, recordsOf(t, as)}, warnings, nil
}

// recordsOf is a registration for the journal: the definition, and the checks of before that stay without being in it.
func recordsOf(t *tables, r registration) []record {
	main := r.main
	records := []record{{Service: &main.Definition, Token: main.Token, SidecarPort: portOf(r.sidecar), Configured: r.configured}}
	if !r.keepChecks {
		return records
	}
	for _, svc := range []*Service{main, r.sidecar} {
		if svc == nil {
			continue
		}
		for _, id := range t.of[svc.Record.ID] {
			named := slices.ContainsFunc(svc.Checks, func(own Check) bool { return own.Record.CheckID == id })
			if c := t.checks[id]; !named && c.Definition.Type() != "" {
				records = append(records, record{Check: &c.Definition, Token: c.Token})
			}
		}
	}
	return records
}

// inOwnNamespace refuses an ID that something in another namespace has: an agent's IDs are the same over all namespaces, so that nobody takes
// the place of another namespace's service or check.
func inOwnNamespace(t *tables, svc *Service) error {
	if svc == nil {
		return nil
	}
	if !catalog.ValidNamespace(svc.Record.Namespace) {
		return invalidf("service %q: namespace %q: want lower-case letters, digits and - within, at most 63", svc.Record.ID, svc.Record.Namespace)
	}
	if old, ok := t.services[svc.Record.ID]; ok && old.Record.Namespace != svc.Record.Namespace {
		return invalidf("service ID %q is in use in namespace %q on this agent: choose another one, or deregister it first", svc.Record.ID, old.Record.Namespace)
	}
	for i := range svc.Checks {
		c := svc.Checks[i].Record
		if old, ok := t.checks[c.CheckID]; ok && old.Record.ServiceID != "" && old.Record.Namespace != c.Namespace {
			return invalidf("check ID %q is in use in namespace %q on this agent: choose another one", c.CheckID, old.Record.Namespace)
		}
	}
	return nil
}

// destinationHere refuses a proxy for a service that this agent doesn't have.
func destinationHere(t *tables, svc *Service) error {
	p := svc.Record.Proxy
	if p == nil || p.DestinationServiceID == "" || svc.Parent != "" {
		return nil
	}
	of, ok := t.services[p.DestinationServiceID]
	if !ok {
		return invalidf("proxy %q: Proxy.DestinationServiceID %q isn't registered on this agent; register that service first",
			svc.Record.ID, p.DestinationServiceID)
	}
	if of.Record.Namespace != svc.Record.Namespace {
		return invalidf("proxy %q is of namespace %q, and Proxy.DestinationServiceID %q of %q: a proxy is of its service's namespace",
			svc.Record.ID, svc.Record.Namespace, p.DestinationServiceID, of.Record.Namespace)
	}
	return nil
}

// Deregister removes a service with its checks and generated sidecar.
func (s *State) Deregister(id string) error {
	s.mu.Lock()
	svc, ok := s.next.services[id]
	if !ok {
		s.mu.Unlock()
		return fmt.Errorf("Unknown service ID %q. Ensure that the service ID is passed, not the service name.: %w", id, ErrUnknown) //nolint:staticcheck // Consul's text
	}
	if svc.Parent != "" {
		s.mu.Unlock()
		return invalidf("service %q is the generated sidecar of %q and goes with it", id, svc.Parent)
	}
	done := s.beginLocked(step{removal{id}, []record{{DropService: id}}})
	s.mu.Unlock()
	return done()
}

// RegisterCheck takes a check, of the node or of the service that it names.
func (s *State) RegisterCheck(d CheckDefinition, token string) error {
	s.mu.Lock()
	st, err := s.planCheck(s.next, d, token, false)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	done := s.beginLocked(st)
	s.mu.Unlock()
	return done()
}

// planCheck turns a check's definition into the step that it means after t.
func (s *State) planCheck(t *tables, d CheckDefinition, token string, configured bool) (step, error) {
	if err := s.scripts.allow(configured, d); err != nil {
		return step{}, err
	}
	var service *catalog.Service
	if d.ServiceID != "" {
		svc, ok := t.services[d.ServiceID]
		if !ok {
			return step{}, fmt.Errorf("ServiceID %q does not exist: %w", d.ServiceID, ErrUnknown)
		}
		service = svc.Record
	}
	c, err := s.buildCheck(d, service, token)
	if err != nil {
		return step{}, err
	}
	if old, ok := t.checks[c.Record.CheckID]; ok && old.Record.Namespace != c.Record.Namespace {
		return step{}, invalidf("check ID %q is in use in namespace %q on this agent: choose another one", c.Record.CheckID, old.Record.Namespace)
	}
	return step{checkRegistration{c, configured}, []record{{Check: &c.Definition, Token: c.Token, Configured: configured}}}, nil
}

// DeregisterCheck removes a check.
func (s *State) DeregisterCheck(id string) error {
	s.mu.Lock()
	c, ok := s.next.checks[id]
	if !ok {
		s.mu.Unlock()
		return unknownCheck(id)
	}
	done := s.beginLocked(step{checkRemoval{id}, []record{{DropCheck: id, Of: c.Record.ServiceID}}})
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
	c, ok := s.now.checks[id]
	if !ok {
		return unknownCheck(id)
	}
	if limit := c.Definition.OutputMaxSize; c.Definition.Type() == TypeTTL && len(output) > limit { // probes have kept to it
		output = strings.ToValidUTF8(output[:limit], "") + fmt.Sprintf(" ... (captured %d of %d bytes)", limit, len(output))
	}
	if s.discard {
		output = ""
	}
	if c.Record.Status == status && c.Record.Output == output {
		return nil
	}
	s.now.checks[id] = c.with(status, output) // a result isn't journaled: what is on its way takes it over when it is in force
	s.publishLocked()
	return nil
}

// DiscardOutput says whether outputs of checks are kept from now on.
func (s *State) DiscardOutput(discard bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.discard = discard
}

// NodeMaintenance is the ID of the check that holds the whole node out of service.
const NodeMaintenance = "_node_maintenance"

func maintenanceID(service string) string { return "_service_maintenance:" + service }

// SetMaintenance takes a service (or with "" the node) out of service, or back in.
func (s *State) SetMaintenance(service string, on bool, reason string) error {
	s.mu.Lock()
	c, err := s.planMaintenance(s.next, service, on, reason)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	done := s.beginLocked(step{c, []record{{Maintenance: &maintenance{Of: service, On: on, Reason: reason}}}})
	s.mu.Unlock()
	return done()
}

func (s *State) planMaintenance(t *tables, service string, on bool, reason string) (change, error) {
	r := &catalog.Check{
		Scope: s.node.Scope, Node: s.node.Node, CheckID: NodeMaintenance, Name: "Node Maintenance Mode", Type: TypeMaintenance,
		Status: catalog.HealthCritical, Notes: reason, Owner: Owner,
	}
	if service != "" {
		svc, ok := t.services[service]
		if !ok {
			return nil, fmt.Errorf("Unknown service ID %q: %w", service, ErrUnknown) //nolint:staticcheck // Consul's text
		}
		r.Scope, r.CheckID, r.Name = svc.Record.Scope, maintenanceID(service), "Service Maintenance Mode"
		r.ServiceID, r.ServiceName, r.ServiceTags = service, svc.Record.Service, svc.Record.Tags
	}
	if r.Notes == "" {
		r.Notes = "Maintenance mode is enabled for this " + map[bool]string{true: "service", false: "node"}[service != ""] + ", but no reason was provided."
	}
	if on {
		return maintaining{&Check{Record: r}}, nil
	}
	return maintained{r.CheckID}, nil
}

// Wanted is the host's wanted state at one moment. All of it is shared between its readers: nobody may change it.
type Wanted struct {
	Version  uint64
	Node     catalog.Node
	Services map[string]*Service
	Checks   map[string]*Check

	of map[string][]string // service → its checks; nil in one that wasn't made by a State
}

// Wanted gives the state now, and a channel that is closed at the next change. The copy is made once for each version that
// somebody asks for: with ten thousand services, a copy for each of the agent's readers was most of what a registration cost.
func (s *State) Wanted() (Wanted, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.published == nil {
		s.published = &Wanted{
			Version: s.version, Node: s.node, Services: maps.Clone(s.now.services), Checks: maps.Clone(s.now.checks), of: maps.Clone(s.now.of),
		}
		if all := s.exposed.proxies(s.published, s.now.exposing); len(all) > 0 || len(s.exposed.ports) > 0 {
			s.exposed.over(s.published, all)
		}
	}
	return *s.published, s.changed
}

// Service is the registration of this ID, nil if there is none.
func (s *State) Service(id string) *Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.services[id]
}

// Check is the check of this ID, nil if there is none.
func (s *State) Check(id string) *Check {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.checks[id]
}

func (s *State) publishLocked() {
	s.version++
	s.published = nil
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
	if w.of != nil {
		for _, id := range w.of[service] {
			found = append(found, w.Checks[id])
		}
		return found
	}
	for _, id := range slices.Sorted(maps.Keys(w.Checks)) {
		if c := w.Checks[id]; c.Record.ServiceID == service {
			found = append(found, c)
		}
	}
	return found
}
