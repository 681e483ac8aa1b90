// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// world is what the server has said, each resource compiled by itself. It is used by one goroutine.
type world struct {
	secrets   *secrets
	version   map[string]map[string]string // by type and name
	clusters  map[string]*cluster
	endpoints map[string][]*config.Endpoint
	listeners map[string]*listener
	routes    map[string]*config.RouteTable

	known map[endpointKey]*config.Endpoint // equal endpoints are one pointer
	built map[string]builtCluster          // the cluster given out last, with what it was made of
	keys  map[string]*config.RemoteKeys    // of tokens, by where and how they are fetched: what was fetched outlives a changed listener
}

// cluster is a compiled cluster without its endpoints.
type cluster struct {
	config   *config.Cluster
	eds      string // name to ask for; "" if the endpoints are its own
	secrets  []string
	identity func() string
}

// listener is a compiled listener.
type listener struct {
	config  *config.Listener
	secrets []string
}

type builtCluster struct {
	from      *cluster
	endpoints []*config.Endpoint
	identity  string
	out       *config.Cluster
}

func newWorld(now func() time.Time) *world {
	return &world{
		secrets: newSecrets(now), version: map[string]map[string]string{}, clusters: map[string]*cluster{},
		endpoints: map[string][]*config.Endpoint{}, listeners: map[string]*listener{}, routes: map[string]*config.RouteTable{},
		known: map[endpointKey]*config.Endpoint{}, built: map[string]builtCluster{}, keys: map[string]*config.RemoteKeys{},
	}
}

func (w *world) versions(t string) map[string]string { return maps.Clone(w.version[t]) }

// update compiles what came. It takes all of a response or, with an error that names each fault, nothing.
func (w *world) update(t string, came map[string]named, gone []string) error {
	commit := make([]func(), 0, len(came))
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(came)) {
		n := came[name]
		put, err := w.compile(t, name, n.any)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		commit = append(commit, put, func() { w.setVersion(t, name, n.version) })
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	for _, f := range commit {
		f()
	}
	for _, name := range gone {
		w.forget(t, name)
	}
	return nil
}

func (w *world) setVersion(t, name, version string) {
	if w.version[t] == nil {
		w.version[t] = map[string]string{}
	}
	w.version[t][name] = version
}

// forget drops a resource.
func (w *world) forget(t, name string) {
	delete(w.version[t], name)
	switch t {
	case clusterType:
		delete(w.clusters, name)
	case endpointType:
		delete(w.endpoints, name)
	case listenerType:
		delete(w.listeners, name)
	case routeType:
		delete(w.routes, name)
	case secretType:
		w.secrets.forget(name)
	}
}

// compile reads one resource; the returned function puts it in place.
func (w *world) compile(t, name string, a *anypb.Any) (func(), error) {
	switch t {
	case clusterType:
		m, err := read[*clusterv3.Cluster](a)
		if err != nil {
			return nil, err
		}
		c, err := w.compileCluster(m)
		return func() { w.clusters[name] = c }, err
	case endpointType:
		m, err := read[*endpointv3.ClusterLoadAssignment](a)
		if err != nil {
			return nil, err
		}
		e, err := w.compileEndpoints(m, false)
		return func() { w.endpoints[name] = e }, err
	case listenerType:
		m, err := read[*listenerv3.Listener](a)
		if err != nil {
			return nil, err
		}
		l, err := w.compileListener(m)
		return func() { w.listeners[name] = l }, err
	case routeType:
		m, err := read[*routev3.RouteConfiguration](a)
		if err != nil {
			return nil, err
		}
		r, err := compileRoutes(m)
		return func() { w.routes[name] = r }, err
	case secretType:
		m, err := read[*tlsv3.Secret](a)
		if err != nil {
			return nil, err
		}
		s, err := compileSecret(m)
		return func() { w.secrets.put(name, s) }, err
	}
	return nil, fmt.Errorf("resources of type %s aren't known", t)
}

// validated is what every generated message has.
type validated interface {
	proto.Message
	ValidateAll() error
}

// read unpacks a message and checks it against the rules of its definition.
func read[M validated](a *anypb.Any) (M, error) {
	m, _ := reflect.New(reflect.TypeFor[M]().Elem()).Interface().(M)
	if err := unpack(a, m); err != nil {
		var none M
		return none, err
	}
	return m, m.ValidateAll()
}

// unpack reads a message, which must be of m's type.
func unpack(a *anypb.Any, m proto.Message) error {
	if !a.MessageIs(m) {
		return fmt.Errorf("it is a %q", a.GetTypeUrl())
	}
	return decode(a.GetValue(), m)
}

// needed are the resources that are asked for by name.
func (w *world) needed() map[string]map[string]bool {
	n := map[string]map[string]bool{endpointType: {}, routeType: {}, secretType: {}}
	for _, c := range w.clusters {
		if c.eds != "" {
			n[endpointType][c.eds] = true
		}
		for _, s := range c.secrets {
			n[secretType][s] = true
		}
	}
	for _, l := range w.listeners {
		for _, one := range l.inners() {
			if h := one.HTTP; h != nil && h.RouteName != "" {
				n[routeType][h.RouteName] = true
			}
		}
		for _, s := range l.secrets {
			n[secretType][s] = true
		}
	}
	return n
}

// assemble is the whole configuration, nil while something that it refers to isn't there.
func (w *world) assemble() *config.Snapshot {
	// Clusters come first. Until the listeners do, there is nothing to serve: a successor that took that for its whole configuration
	// would let go of the sockets that it was handed.
	if w.version[listenerType] == nil {
		return nil
	}
	for t, names := range w.needed() {
		for n := range names {
			if !w.has(t, n) {
				return nil
			}
		}
	}
	s := &config.Snapshot{Listeners: map[string]*config.Listener{}, Clusters: map[string]*config.Cluster{}, Routes: maps.Clone(w.routes)}
	for _, l := range w.listeners {
		for _, one := range l.inners() {
			s.Listeners[one.Name] = one
		}
	}
	for name, c := range w.clusters {
		s.Clusters[name] = w.build(name, c)
	}
	for name := range w.built {
		if _, ok := w.clusters[name]; !ok {
			delete(w.built, name)
		}
	}
	w.sweep(s)
	return s
}

func (w *world) has(t, name string) bool {
	switch t {
	case endpointType:
		_, ok := w.endpoints[name]
		return ok
	case routeType:
		_, ok := w.routes[name]
		return ok
	}
	return w.secrets.has(name)
}

// build is the cluster with its endpoints and identity; the same pointer as last time if nothing is different.
func (w *world) build(name string, c *cluster) *config.Cluster {
	endpoints := c.config.Endpoints
	if c.eds != "" {
		endpoints = w.endpoints[c.eds]
	}
	identity := ""
	if c.identity != nil {
		identity = c.identity()
	}
	old := w.built[name]
	if old.from == c && old.identity == identity && slices.Equal(old.endpoints, endpoints) {
		return old.out
	}
	out := *c.config
	out.Endpoints = endpoints
	if out.TLS != nil {
		out.TLS = &config.ClientTLS{Config: out.TLS.Config, Identity: identity, Gone: out.TLS.Gone}
	}
	w.built[name] = builtCluster{c, endpoints, identity, &out}
	return &out
}

// sweep forgets endpoints that no cluster has any more.
func (w *world) sweep(s *config.Snapshot) {
	used := map[*config.Endpoint]bool{}
	for _, c := range s.Clusters {
		for _, e := range c.Endpoints {
			used[e] = true
		}
	}
	maps.DeleteFunc(w.known, func(_ endpointKey, e *config.Endpoint) bool { return !used[e] })
}

// endpointKey is all of an endpoint: one that differs in anything is another.
type endpointKey struct {
	cluster, network, address string
	weight, priority          uint32
	healthy, draining, plain  bool
}

func (w *world) remoteKeys(r *config.RemoteKeys) *config.RemoteKeys {
	if r == nil {
		return nil
	}
	key := fmt.Sprint(r.URI, " ", r.Timeout, " ", r.CacheFor)
	if w.keys[key] == nil {
		w.keys[key] = r
	}
	return w.keys[key]
}

func (w *world) endpoint(k endpointKey) *config.Endpoint {
	e, ok := w.known[k]
	if !ok {
		e = &config.Endpoint{Network: k.network, Address: k.address, Weight: k.weight, Priority: k.priority, Healthy: k.healthy, Draining: k.draining, Plain: k.plain}
		w.known[k] = e
	}
	return e
}
