// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/catalog"
)

// The cluster's schema version is the lowest of its servers' newest. The leader raises it, by a command, once it has heard from
// every server that it may; it is never lowered.

const (
	schemaEvery  = 5 * time.Second
	schemaWithin = 2 * time.Second
)

// keepSchema raises the version as soon as all servers know a higher one, until ctx ends.
func (s *Server) keepSchema(ctx context.Context) error {
	for {
		if err := s.raiseSchema(ctx); err != nil && ctx.Err() == nil {
			s.c.Log.Error("can't raise the schema version", "error", err)
		}
		timer := time.NewTimer(schemaEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (s *Server) raiseSchema(ctx context.Context) error {
	now := s.store.Read().Schema()
	if now >= s.c.Schema {
		s.inTheWay.Store(nil)
		return nil
	}
	version, why := s.lowestSchema(ctx)
	s.inTheWay.Store(&why)
	if version <= now {
		return nil
	}
	_, err := s.Propose(ctx, catalog.RaiseSchema{Version: version})
	if err == nil {
		s.c.Log.Info("schema version raised", "version", version, "from", now)
	}
	return err
}

// lowestSchema is the newest version that every server knows, at least 1; why names the servers that know less than this one, and
// those that don't answer.
func (s *Server) lowestSchema(ctx context.Context) (version uint64, why string) {
	future := s.raft.Load().GetConfiguration()
	if err := future.Error(); err != nil {
		return 1, "the servers aren't known: " + err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, schemaWithin)
	defer cancel()
	version = s.c.Schema
	var lagging []string
	for _, p := range future.Configuration().Servers {
		if p.ID == raft.ServerID(s.c.NodeID) {
			continue
		}
		status, err := s.statusOf(ctx, string(p.ID), s.addressOf(string(p.ID), string(p.Address)))
		switch {
		case err != nil:
			version = 1
			lagging = append(lagging, fmt.Sprintf("server %s doesn't answer", p.ID))
		case status.GetSchemaVersion() < s.c.Schema:
			version = min(version, max(1, status.GetSchemaVersion()))
			lagging = append(lagging, fmt.Sprintf("server %q runs weft %s, which knows up to %d", status.GetNode(), status.GetVersion(), status.GetSchemaVersion()))
		}
	}
	slices.Sort(lagging)
	return version, strings.Join(lagging, "; ")
}

// understood refuses a command that some server wouldn't understand, and names that server.
func (s *Server) understood(body catalog.Body) error {
	if _, raise := body.(catalog.RaiseSchema); raise {
		return nil
	}
	need, what := catalog.Needs(body)
	if need <= 1 { // what every weft understands
		return nil
	}
	now := max(s.store.Read().Schema(), 1)
	if need <= now {
		return nil
	}
	why := "it is about to be raised"
	if in := s.inTheWay.Load(); in != nil && *in != "" {
		why = *in
	}
	return fmt.Errorf("%w: %s needs version %d, and the cluster's is %d: %s", catalog.ErrSchema, what, need, now, why)
}
