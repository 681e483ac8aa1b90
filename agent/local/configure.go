// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weftmesh/weft/catalog"
)

// Configure takes what the configuration's files name, in place of what they named when the agent last ran: ordinary services
// first, proxies after them, then checks. What they don't name any more goes. All is one append to the journal. What is
// refused is left out, and its faults are joined; warnings name what was taken without effect.
func (s *State) Configure(services []ServiceDefinition, checks []CheckDefinition) (warnings []string, err error) {
	s.mu.Lock()
	var faults []error
	var records []record
	before := s.configured
	s.configured = map[string]bool{}
	take := func(r record) {
		r.Configured = true
		records = append(records, r)
		s.markLocked(r)
	}
	for _, proxies := range []bool{false, true} {
		for _, d := range services {
			if (d.Kind != "") != proxies {
				continue
			}
			main, sidecar, w, err := s.registerLocked(d, "", false)
			if err != nil {
				faults = append(faults, fmt.Errorf("service %q of the configuration: %w", serviceID(&d), err))
				continue
			}
			warnings = append(warnings, w...)
			take(record{Service: &main.Definition, Token: main.Token, SidecarPort: portOf(sidecar)})
		}
	}
	for _, d := range checks {
		c, err := s.checkLocked(d, "")
		if err != nil {
			faults = append(faults, fmt.Errorf("check %q of the configuration: %w", d.Name, err))
			continue
		}
		take(record{Check: &c.Definition, Token: c.Token})
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if s.configured[key] {
			continue
		}
		records = append(records, s.goneLocked(key))
	}
	s.publishLocked()
	done := s.journal.append(records...)
	s.mu.Unlock()
	return warnings, errors.Join(append(faults, done())...)
}

// goneLocked removes what the configuration doesn't name any more.
func (s *State) goneLocked(key string) record {
	id := key[1:]
	if key[0] == 'c' {
		of := ""
		if c, ok := s.checks[id]; ok {
			of = c.Record.ServiceID
		}
		delete(s.checks, id)
		return record{DropCheck: id, Of: of}
	}
	s.removeLocked(id)
	if side, ok := s.services[SidecarID(id)]; ok && side.Parent == id {
		s.removeLocked(SidecarID(id))
	}
	return record{DropService: id}
}

// markLocked notes that a record is the configuration's.
func (s *State) markLocked(r record) {
	if r.Configured {
		s.configured[r.key()] = true
	}
}

// checkLocked puts a check in place of what had its ID, or changes nothing.
func (s *State) checkLocked(d CheckDefinition, token string) (*Check, error) {
	var service *catalog.Service
	if d.ServiceID != "" {
		svc, ok := s.services[d.ServiceID]
		if !ok {
			return nil, fmt.Errorf("ServiceID %q does not exist: %w", d.ServiceID, ErrUnknown)
		}
		service = svc.Record
	}
	c, err := s.buildCheck(d, service, token)
	if err != nil {
		return nil, err
	}
	if old, ok := s.checks[c.Record.CheckID]; ok && d.Status == "" {
		c.Record.Status, c.Record.Output = old.Record.Status, old.Record.Output
	}
	s.checks[c.Record.CheckID] = c
	return c, nil
}
