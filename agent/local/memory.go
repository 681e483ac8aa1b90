// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/weftmesh/weft/internal/durable"
	"github.com/weftmesh/weft/internal/run"
)

// The status of each check is kept beside the journal, so that an agent that comes back doesn't call a healthy service
// critical until its checks have run again. It is a hint: it is written a moment after a change, and a file that can't be
// read is none.

// rememberAfter is how long a changed status may wait for others to be written with it.
const rememberAfter = 100 * time.Millisecond

func memoryOf(journal string) string { return journal + ".checks" }

// recallFor is how long after the start what was kept is used: until the files of the configuration are registered.
const recallFor = 5 * time.Second

// recall reads the statuses that were kept.
func (s *State) recall() map[string]string {
	kept := map[string]string{}
	data, err := os.ReadFile(memoryOf(s.journal.path))
	if errors.Is(err, os.ErrNotExist) {
		return kept
	}
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil {
		s.log.Warn("the last results of checks can't be read: checks begin anew", "error", err)
		return nil
	}
	return kept
}

// Run writes the journal, and what checks last said, until ctx ends.
func (s *State) Run(ctx context.Context) error {
	if s.journal == nil {
		<-ctx.Done()
		return nil
	}
	g := run.New(ctx)
	g.Go("journal", func(ctx context.Context) error { return s.journal.run(ctx, s.settle) })
	g.Go("memory", s.remember)
	return g.Wait()
}

func (s *State) remember(ctx context.Context) error {
	var last string
	forget := time.NewTimer(recallFor)
	defer forget.Stop()
	for {
		wanted, changed := s.Wanted()
		statuses := map[string]string{}
		for id, c := range wanted.Checks {
			if c.Definition.Type() != "" {
				statuses[id] = c.Record.Status
			}
		}
		data, err := json.Marshal(statuses) // sorted by key
		if err != nil {
			return fmt.Errorf("the last results of checks: %w", err)
		}
		if string(data) != last {
			if err := durable.Replace(memoryOf(s.journal.path), data); err != nil {
				s.log.Warn("the last results of checks can't be kept", "error", err)
			}
			last = string(data)
		}
		select {
		case <-changed:
		case <-forget.C:
			s.mu.Lock()
			s.now.recalled, s.next.recalled = nil, nil
			s.mu.Unlock()
			continue
		case <-ctx.Done():
			return nil
		}
		timer := time.NewTimer(rememberAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}
