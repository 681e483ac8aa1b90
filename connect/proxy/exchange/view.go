// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto/tls"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/mux"
)

// view is a snapshot made ready for requests. It is never changed after it was made, and shares with the one before what
// didn't change.
type view struct {
	snapshot  *config.Snapshot
	clusters  map[string]*clusterView
	listeners map[string]*listenerView
	tables    map[*config.RouteTable]*routes
	ageLook   time.Duration // how often connections are looked at for their age; 0: none has a bound
}

type listenerView struct {
	config *config.Listener
	routes *routes
	log    *format
}

type clusterView struct {
	config    *config.Cluster
	state     *clusterState
	endpoints []*endpoint
	tiers     []*tier
	edge      *Edge // outbound; an inbound request has its caller's
	identity  string
	tls       [4]*tls.Config // by wire; nil for plain
}

// wire is what is spoken on an upstream connection.
type wire uint8

const (
	raw      wire = iota
	http1         // which may be carried by another connection
	http1Own      // which isn't
	http2
)

var noView = &view{}

// current is the view of the snapshot in force.
func (e *Engine) current() *view {
	v := e.view.Load()
	if e.config.Snapshot() == v.snapshot {
		return v
	}
	return e.refresh()
}

// refresh makes the view of the newest snapshot.
func (e *Engine) refresh() *view {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, old := e.config.Snapshot(), e.view.Load()
	if s == old.snapshot {
		return old
	}
	v := &view{
		snapshot: s, clusters: map[string]*clusterView{}, listeners: map[string]*listenerView{}, tables: map[*config.RouteTable]*routes{},
	}
	if s != nil {
		for name, c := range s.Clusters {
			v.clusters[name] = e.cluster(name, c, old.clusters[name])
		}
		for name, l := range s.Listeners {
			v.listeners[name] = e.listener(v, l, old)
			v.ageLook = soonest(v.ageLook, ageLook(l.HTTP))
		}
	}
	e.view.Store(v)
	return v
}

// ageLook is how often a listener's connections are looked at for having had their time, or their requests; 0: they have no bound.
func ageLook(c *config.HTTP) time.Duration {
	switch {
	case c == nil || c.MaxAge <= 0 && c.MaxRequests <= 0:
		return 0
	case c.MaxAge <= 0:
		return time.Second
	}
	return min(time.Second, max(drainLook, c.MaxAge/10))
}

func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return a + b
	}
	return min(a, b)
}

func (e *Engine) listener(v *view, l *config.Listener, old *view) *listenerView {
	lv := &listenerView{config: l}
	if l.HTTP == nil {
		if t := l.TCP; t != nil || l.Named != nil {
			if t == nil {
				t = l.Named[0].TCP // of one listener they are the same
			}
			lv.log = e.config.Logs.compileFormat(t.Log)
		}
		return lv
	}
	table := l.HTTP.Inline
	if table == nil && v.snapshot != nil {
		table = v.snapshot.Routes[l.HTTP.RouteName]
	}
	if lv.routes = v.tables[table]; lv.routes == nil {
		if lv.routes = old.tables[table]; lv.routes == nil {
			lv.routes = compileRoutes(table)
		}
		v.tables[table] = lv.routes
	}
	if before := old.listeners[l.Name]; before != nil && before.config == l {
		lv.log = before.log
	} else {
		lv.log = e.config.Logs.compileFormat(l.HTTP.Log)
	}
	return lv
}

// cluster makes the view of a cluster; e.mu is held.
func (e *Engine) cluster(name string, c *config.Cluster, old *clusterView) *clusterView {
	if old != nil && old.config == c {
		return old
	}
	state := e.states[name]
	if state == nil {
		state = &clusterState{engine: e, held: e.held.Share(), hosts: map[hostKey]*host{}}
		e.states[name] = state
	}
	v := &clusterView{config: c, state: state, edge: e.config.Metrics.Outbound(c.Service.Name)}
	for _, ec := range c.Endpoints {
		e := &endpoint{config: ec, host: state.host(ec)}
		if c.Outlier == nil {
			e.until.Store(0) // nobody asks for ejections any more
		}
		if c.Outlier == nil || !c.Outlier.Probation {
			e.trial.Store(false)
		}
		v.endpoints = append(v.endpoints, e)
	}
	v.tiers = tiers(v.endpoints)
	if c.TLS != nil {
		v.identity = c.TLS.Identity
		v.tls[raw] = c.TLS.Config
		for w, alpn := range map[wire][]string{http1: {mux.ALPN, "http/1.1"}, http1Own: {"http/1.1"}, http2: {"h2"}} {
			v.tls[w] = c.TLS.Config.Clone()
			v.tls[w].NextProtos = alpn
		}
		if old != nil && old.config.TLS == c.TLS {
			v.tls = old.tls
		}
	}
	state.current.Store(v)
	return v
}

// Follow is called after a snapshot was put in force: idle connections to endpoints that are gone, or made with an identity
// that is no longer in force, are closed; those in use end with what is on them.
func (e *Engine) Follow(*config.Snapshot) {
	v := e.refresh()
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, state := range e.states {
		cv := v.clusters[name]
		if cv == nil {
			delete(e.states, name)
		}
		state.follow(cv)
	}
}
