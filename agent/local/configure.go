// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
)

// Configure takes what the configuration's files name, in place of what they named before: ordinary services first, proxies
// after them, then checks. What they don't name any more goes. All is one append to the journal, and all or nothing: if
// token is that of those that bring none; "" for none. If
// anything is refused, the faults are joined and what was in force stays. Warnings name what was taken without effect.
func (s *State) Configure(services []ServiceDefinition, checks []CheckDefinition, token string) (warnings []string, err error) {
	s.mu.Lock()
	draft := s.next.clone()
	steps, warnings, faults := s.planAll(draft, services, token, registration{configured: true})
	for _, d := range checks {
		st, err := s.planCheck(draft, d, token, true)
		if err != nil {
			faults = append(faults, fmt.Errorf("check %q: %w", d.Name, err))
			continue
		}
		st.change.apply(draft)
		steps = append(steps, st)
	}
	if len(faults) > 0 {
		s.mu.Unlock()
		return nil, fmt.Errorf("registrations of the configuration: %w", joinSome(faults))
	}
	named := map[string]bool{}
	for _, st := range steps {
		named[st.records[0].key()] = true
	}
	for _, key := range slices.Sorted(maps.Keys(s.next.configured)) {
		if !named[key] {
			steps = append(steps, gone(draft, key))
		}
	}
	done := s.beginLocked(steps...)
	s.mu.Unlock()
	if err := done(); err != nil {
		return nil, err
	}
	return warnings, nil
}

// Validate says what of a configuration no agent would take. What it can't know is what else will be registered there: the service of
// a proxy or of a check may come from elsewhere.
func Validate(c Config, services []ServiceDefinition, checks []CheckDefinition) error {
	c.Journal, c.Log = "", slog.New(slog.DiscardHandler)
	s, err := New(c)
	if err != nil {
		return err
	}
	var faults []error
	seen := map[string]bool{}
	for _, d := range services {
		id := serviceID(&d)
		if seen[id] {
			faults = append(faults, twice(id))
			continue
		}
		seen[id] = true
		err := s.scripts.allow(true, d.allChecks()...)
		var main, sidecar *Service
		if err == nil {
			main, sidecar, _, err = s.build(s.now, d, "")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("service %q: %w", id, err))
			continue
		}
		registration{main: main, sidecar: sidecar}.apply(s.now)
	}
	for _, d := range checks {
		err := s.scripts.allow(true, d)
		if err == nil {
			_, err = s.buildCheck(d, nil, "")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("check %q: %w", d.Name, err))
		}
	}
	return joinSome(faults)
}

func twice(id string) error {
	return invalidf("service %q: two services have this ID; give one of them another id", id)
}

// gone removes what the configuration doesn't name any more.
func gone(t *tables, key string) step {
	id := key[1:]
	if key[0] != 'c' {
		return step{removal{id}, []record{{DropService: id}}}
	}
	of := ""
	if c, ok := t.checks[id]; ok {
		of = c.Record.ServiceID
	}
	return step{checkRemoval{id}, []record{{DropCheck: id, Of: of}}}
}
