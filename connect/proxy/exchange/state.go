// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// clusterState is what stays of a cluster from snapshot to snapshot.
type clusterState struct {
	engine  *Engine
	current atomic.Pointer[clusterView]

	connections, pending, requests, retries atomic.Int64

	mu      sync.Mutex // guards hosts and waiters
	hosts   map[hostKey]*host
	waiters []chan struct{} // for a connection that is given back or closed
}

type hostKey struct{ network, address string }

// host is what stays of an endpoint: its connections, and how it has done.
type host struct {
	key     hostKey
	cluster *clusterState
	active  atomic.Int64 // requests
	gone    atomic.Bool  // no cluster has it any more

	failures  atomic.Int32
	ejections atomic.Int32
	until     atomic.Int64 // ejected, in nanoseconds since the engine's start; 0: not

	pool
}

// endpoint is an endpoint as one view has it.
type endpoint struct {
	*host
	config *config.Endpoint
}

func (s *clusterState) host(c *config.Endpoint) *host {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := hostKey{c.Network, c.Address}
	if k.network == "" {
		k.network = "tcp"
	}
	h := s.hosts[k]
	if h == nil {
		h = &host{key: k, cluster: s}
		s.hosts[k] = h
	}
	return h
}

// follow lets go of what the view (nil: the cluster is gone) doesn't have.
func (s *clusterState) follow(v *clusterView) {
	kept := map[*host]bool{}
	identity := ""
	if v != nil {
		identity = v.identity
		for _, e := range v.endpoints {
			kept[e.host] = true
		}
	} else {
		s.current.Store(nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, h := range s.hosts {
		if !kept[h] {
			h.gone.Store(true)
			delete(s.hosts, k)
		}
		h.prune(func(id string) bool { return kept[h] && id == identity }, time.Time{})
	}
}

// valid says whether a connection made with identity to h may carry new requests.
func (s *clusterState) valid(h *host, identity string) bool {
	v := s.current.Load()
	return v != nil && !h.gone.Load() && v.identity == identity
}

// enter counts in where fewer than limit (0: no bound) are.
func enter(n *atomic.Int64, limit int) bool {
	if n.Add(1) > int64(limit) && limit > 0 {
		n.Add(-1)
		return false
	}
	return true
}

// wake lets one waiter look again.
func (s *clusterState) wake() {
	if s.pending.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiters) > 0 {
		close(s.waiters[0])
		s.waiters = s.waiters[1:]
	}
}

// await waits until a connection is given back or closed. It gives false where too many wait already, or ctx ends. again
// is asked when the wait is registered: true means that there is no need to wait.
func (s *clusterState) await(ctx context.Context, limit int, again func() bool) bool {
	if !enter(&s.pending, limit) {
		return false
	}
	defer s.pending.Add(-1)
	ch := make(chan struct{})
	s.mu.Lock()
	s.waiters = append(s.waiters, ch)
	s.mu.Unlock()
	defer s.forget(ch)
	if again() {
		return true
	}
	select {
	case <-ch:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *clusterState) forget(ch chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.waiters {
		if w == ch {
			s.waiters = append(s.waiters[:i:i], s.waiters[i+1:]...)
			return
		}
	}
}

func (h *host) ejected(now int64) bool {
	until := h.until.Load()
	return until != 0 && now < until
}

const (
	defaultEjection = 30 * time.Second
	defaultInterval = 10 * time.Second
)

// report notes how an exchange with the endpoint (or connecting to it) went, and ejects it after too many failures in a row.
func (v *clusterView) report(e *endpoint, failed bool) {
	o := v.config.Outlier
	if o == nil || o.Consecutive5xx <= 0 {
		return
	}
	if !failed {
		if e.failures.Load() != 0 {
			e.failures.Store(0)
		}
		return
	}
	if int(e.failures.Add(1)) < o.Consecutive5xx {
		return
	}
	e.failures.Store(0)
	now := v.state.engine.now()
	if e.ejected(now) || rand.IntN(100) >= o.Enforcing {
		return
	}
	out := 0
	for _, other := range v.endpoints {
		if other.ejected(now) {
			out++
		}
	}
	share := o.MaxPercent
	if share <= 0 {
		share = 10
	}
	// One may always be ejected, as with Envoy, but never the only one.
	if len(v.endpoints) < 2 || out > 0 && (out+1)*100 > share*len(v.endpoints) {
		return
	}
	base := o.BaseEjection
	if base <= 0 {
		base = defaultEjection
	}
	e.until.Store(now + int64(base)*int64(min(e.ejections.Add(1), 10)))
}

// healed lets the count of ejections fall while an endpoint isn't ejected; called once an interval.
func (s *clusterState) healed(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if n := h.ejections.Load(); n > 0 && !h.ejected(now) {
			h.ejections.CompareAndSwap(n, n-1)
		}
	}
}
