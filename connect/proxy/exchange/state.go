// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/mux"
)

// clusterState is what stays of a cluster from snapshot to snapshot.
type clusterState struct {
	secured secured
	engine  *Engine
	held    *mux.Held
	current atomic.Pointer[clusterView]

	connections, pending, requests, retries atomic.Int64
	credit                                  atomic.Int64 // for retries, by the budget

	mu      sync.Mutex // guards hosts and waiters
	hosts   map[hostKey]*host
	waiters []chan struct{} // for a connection that is given back or closed
	swept   int64           // when the rates of success were looked at last
}

type hostKey struct {
	network, address string
	plain            bool
}

// host is what stays of an endpoint: its connections, and how it has done.
type host struct {
	key     hostKey
	cluster *clusterState
	active  atomic.Int64 // requests
	gone    atomic.Bool  // no cluster has it any more

	health
	latency
	born int64 // when it became known, as the engine counts

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
	k := hostKey{c.Network, c.Address, c.Plain}
	if k.network == "" {
		k.network = "tcp"
	}
	h := s.hosts[k]
	if h == nil {
		h = &host{key: k, cluster: s, born: s.engine.now(), pool: pool{spare: make(chan struct{}, 1)}}
		s.hosts[k] = h
	}
	return h
}

// follow lets go of what the view (nil: the cluster is gone) doesn't have.
func (s *clusterState) follow(v *clusterView) {
	if v != nil && v.config.TLS != nil && v.config.TLS.Gone != nil {
		s.secured.cut(v.config.TLS.Gone)
	}
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
