// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	gosync "sync"
	"time"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// Config is what a Syncer is made of.
type Config struct {
	State  State
	Client weftv1.CatalogClient
	Log    *slog.Logger
	// Token is what stands for an item's own token, "" too; nil: the token itself.
	Token func(own string) string
	// Now is the clock, Jitter spreads full comparisons by numbers from 0 to 1; nil: the system's.
	Now    func() time.Time
	Jitter func() float64
	// Full is how often everything is compared with the catalog, 0 for a minute (spread by a quarter).
	Full time.Duration
	// Outputs is how long a change of nothing but a check's output may wait, 0 for five minutes.
	Outputs time.Duration
}

// State is where the wanted state comes from.
type State interface {
	Wanted() (local.Wanted, <-chan struct{})
}

// Syncer keeps the catalog's picture of this host.
type Syncer struct {
	c    Config
	host *Host // what the catalog has, as far as is known; nil: has to be asked

	again chan struct{} // asks for a full comparison at once

	mu     gosync.Mutex // guards what follows
	synced uint64       // version of the wanted state that the catalog has
	index  uint64       // and at which index
	wake   chan struct{}
}

// The waits between tries after a failure.
const (
	retryFirst = 50 * time.Millisecond
	retryLast  = 10 * time.Second
)

// New makes a syncer. It starts nothing.
func New(c Config) (*Syncer, error) {
	if c.Full == 0 {
		c.Full = time.Minute
	}
	if c.Outputs == 0 {
		c.Outputs = 5 * time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	return &Syncer{c: c, wake: make(chan struct{}), again: make(chan struct{}, 1)}, nil
}

// Run syncs at each change and at intervals until ctx ends. A server that can't be reached is tried again, slower and
// slower.
func (s *Syncer) Run(ctx context.Context) error {
	retry := retryFirst
	full, outputs := s.c.Now(), s.c.Now().Add(s.c.Outputs)
	var pace local.Pace
	for {
		wanted, changed := s.c.State.Wanted()
		now := s.c.Now()
		withOutputs := !now.Before(outputs)
		if !now.Before(full) {
			s.host = nil
			full = now.Add(s.c.Full*3/4 + time.Duration(s.c.Jitter()*float64(s.c.Full/2)))
		}
		wait := full.Sub(s.c.Now())
		if err := s.once(ctx, &wanted, withOutputs); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			s.c.Log.Warn("sync failed", "error", err, "retry_in", retry)
			s.host = nil
			wait = retry
			retry = min(2*retry, retryLast)
		} else {
			retry = retryFirst
			if withOutputs {
				outputs = now.Add(s.c.Outputs)
			}
			wait = min(wait, outputs.Sub(s.c.Now()))
		}
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-changed:
			pace.Wait(ctx)
		case <-s.again:
			full = s.c.Now()
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// Again has everything compared at once: what was refused before may be allowed now.
func (s *Syncer) Again() {
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// Wait returns when the catalog has the wanted state of this version (or a later one), with the index at which it does.
func (s *Syncer) Wait(ctx context.Context, version uint64) (uint64, error) {
	for {
		s.mu.Lock()
		synced, index, wake := s.synced, s.index, s.wake
		s.mu.Unlock()
		if synced >= version {
			return index, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// once brings the catalog up to wanted. Items that the server refuses are logged and tried again with the next full
// comparison; they hold up nobody else.
func (s *Syncer) once(ctx context.Context, wanted *local.Wanted, outputs bool) error {
	if s.host == nil {
		host, err := s.ask(ctx, wanted.Node)
		if err != nil {
			return err
		}
		s.host = host
	}
	items := Diff(wanted, s.host, outputs)
	if len(items) == 0 && !NodeDiffers(&wanted.Node, s.host.Node) {
		s.publish(wanted.Version, 0)
		return nil
	}
	index, refused, err := s.send(ctx, wanted, items)
	if err != nil {
		return err
	}
	if refused == 0 {
		s.publish(wanted.Version, index)
	}
	return nil
}

func (s *Syncer) publish(version, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = version
	s.index = max(s.index, index)
	close(s.wake)
	s.wake = make(chan struct{})
}

// ask learns what the catalog has of this host.
func (s *Syncer) ask(ctx context.Context, node catalog.Node) (*Host, error) {
	resp, err := s.c.Client.Host(ctx, &weftv1.HostRequest{Node: node.Node, Partition: node.Partition})
	if err != nil {
		return nil, fmt.Errorf("ask what the catalog has of this host: %w", err)
	}
	host := &Host{Services: map[string]*catalog.Service{}, Checks: map[string]*catalog.Check{}}
	if len(resp.GetNode()) > 0 {
		host.Node = &catalog.Node{}
		if err := catalog.FromCanonical(resp.GetNode(), host.Node); err != nil {
			return nil, fmt.Errorf("the catalog's record of this host: %w", err)
		}
	}
	for _, b := range resp.GetServices() {
		var r catalog.Service
		if err := catalog.FromCanonical(b, &r); err != nil {
			return nil, fmt.Errorf("the catalog's record of a service: %w", err)
		}
		host.Services[inNamespace(r.Namespace, r.ID)] = &r
	}
	for _, b := range resp.GetChecks() {
		var r catalog.Check
		if err := catalog.FromCanonical(b, &r); err != nil {
			return nil, fmt.Errorf("the catalog's record of a check: %w", err)
		}
		host.Checks[inNamespace(r.Namespace, r.CheckID)] = &r
	}
	return host, nil
}

// send sends the difference as one command and takes over what was accepted.
func (s *Syncer) send(ctx context.Context, wanted *local.Wanted, items []Item) (index uint64, refused int, err error) {
	cmd := catalog.Sync{Node: wanted.Node}
	tokens := make([]string, len(items))
	for i, item := range items {
		cmd.Items = append(cmd.Items, item.SyncItem)
		if tokens[i] = item.Token; s.c.Token != nil {
			tokens[i] = s.c.Token(item.Token)
		}
	}
	body, err := catalog.Canonical(cmd)
	if err != nil {
		return 0, 0, err
	}
	resp, err := s.c.Client.Sync(ctx, &weftv1.SyncRequest{Sync: body, Tokens: tokens})
	if err != nil {
		return 0, 0, fmt.Errorf("send %d items: %w", len(items), err)
	}
	if len(resp.GetResults()) != len(items) {
		return 0, 0, errors.New("the server answered for another number of items")
	}
	s.host.Node = &wanted.Node
	for i, r := range resp.GetResults() {
		if r.GetError() != "" {
			refused++
			s.c.Log.Warn("the catalog refused an item", "item", items[i].Label, "error", r.GetError())
			continue
		}
		s.host.take(items[i].SyncItem)
	}
	return resp.GetIndex(), refused, nil
}

func (h *Host) take(item catalog.SyncItem) {
	switch {
	case item.Service != nil:
		h.Services[inNamespace(item.Service.Namespace, item.Service.ID)] = item.Service
	case item.Check != nil:
		h.Checks[inNamespace(item.Check.Namespace, item.Check.CheckID)] = item.Check
	case item.DeleteService != "":
		delete(h.Services, inNamespace(item.Namespace, item.DeleteService))
		maps.DeleteFunc(h.Checks, func(_ string, c *catalog.Check) bool {
			return c.ServiceID == item.DeleteService && away(c.Namespace) == item.Namespace
		})
	case item.DeleteCheck != "":
		delete(h.Checks, inNamespace(item.Namespace, item.DeleteCheck))
	}
}
