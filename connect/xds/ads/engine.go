// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"maps"
	"slices"
	"strconv"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/xds"
)

// additions is the order in which changes go out, removals that of what is gone. Secrets that a proxy has asked for go first: they
// wait for nothing, and where endpoints change all the time what comes last may not come at all. A proxy that isn't told of
// new roots ends up unable to call those that were.
var (
	additions = []string{xds.SecretType, xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType}
	removals  = []string{xds.ListenerType, xds.RouteType, xds.EndpointType, xds.ClusterType, xds.SecretType}
)

// engine is one stream's state: what the proxy asked for, has, and was sent. It knows no network.
type engine struct {
	delta bool
	kinds map[string]*kind
	out   *xds.Output
	index map[string]map[string]xds.Resource // out's resources by type and name
	nonce uint64
	acked string // hash of the last output that the proxy has in whole
}

// kind is the state of one type.
type kind struct {
	url      string
	wildcard bool
	names    map[string]bool
	has      map[string]xds.Resource // what the proxy holds, by its acknowledgement
	refused  map[string]string       // versions that it wouldn't take, until there is a newer output
	absent   map[string]bool         // names that it was told don't exist
	force    map[string]bool         // to be sent although it may have them
	greet    bool                    // owes an answer even if it is empty
	pending  *push
	last     string // nonce of the last response
	trouble  string // what keeps the proxy from doing what it has taken, by its own later word
}

// push is one response.
type push struct {
	url     string
	nonce   string
	set     []xds.Resource // the changes, or in state of the world all there is
	removed []string       // delta only
	after   map[string]xds.Resource
	changed []string // names whose version is new to the proxy
	held    []string // names that go
}

func newEngine(delta bool) *engine { return &engine{delta: delta, kinds: map[string]*kind{}} }

// kind gives a type's state; fresh says that it was not asked for before.
func (e *engine) kind(url string) (k *kind, fresh bool) {
	if k = e.kinds[url]; k != nil {
		return k, false
	}
	k = &kind{
		url: url, names: map[string]bool{}, has: map[string]xds.Resource{}, refused: map[string]string{},
		absent: map[string]bool{}, force: map[string]bool{},
	}
	e.kinds[url] = k
	return k, true
}

// update takes a newer output.
func (e *engine) update(out *xds.Output) {
	if out == nil || (e.out != nil && e.out.Hash == out.Hash) {
		return
	}
	e.out, e.index = out, make(map[string]map[string]xds.Resource, len(out.Resources))
	for url, all := range out.Resources {
		byName := make(map[string]xds.Resource, len(all))
		for _, r := range all {
			byName[r.Name] = r
		}
		e.index[url] = byName
	}
	for _, k := range e.kinds {
		clear(k.refused)
	}
}

// wants lists the names of a type that the proxy asked for and that exist.
func (e *engine) wants(k *kind) []string {
	var out []string
	for _, r := range e.out.Resources[k.url] {
		if k.wildcard || k.names[r.Name] {
			out = append(out, r.Name)
		}
	}
	return out
}

// changes lists what of a type the proxy lacks.
func (e *engine) changes(k *kind) []string {
	var out []string
	for _, name := range e.wants(k) {
		r := e.index[k.url][name]
		if k.refused[name] != r.Version && (k.force[name] || k.has[name].Version != r.Version) {
			out = append(out, name)
		}
	}
	return out
}

// gone lists what the proxy holds and shouldn't, and asked-for names that don't exist.
func (e *engine) gone(k *kind) (held, absent []string) {
	for _, name := range slices.Sorted(maps.Keys(k.has)) {
		if _, ok := e.index[k.url][name]; !ok {
			held = append(held, name)
		}
	}
	if !e.delta {
		return held, nil // that protocol can't say so
	}
	for _, name := range slices.Sorted(maps.Keys(k.names)) {
		_, exists := e.index[k.url][name]
		if _, has := k.has[name]; !exists && !has && !k.absent[name] {
			absent = append(absent, name)
		}
	}
	return held, absent
}

// next is the response that is due now, or nil: there is nothing to send, or an answer must come first. Endpoints alone don't
// wait for the answer to clusters: Envoy gives that only when each changed cluster has its endpoints.
func (e *engine) next() *push {
	if e.out == nil {
		return nil
	}
	warming := false
	for _, url := range additions {
		k := e.kinds[url]
		if warming && url != xds.EndpointType {
			return nil
		}
		if k == nil {
			continue
		}
		if k.pending != nil && url == xds.ClusterType {
			warming = true
			continue
		}
		if k.pending != nil {
			return nil
		}
		changed := e.changes(k)
		if warming {
			changed = append(changed, e.lost(k)...)
		}
		if len(changed) > 0 || k.greet {
			return e.push(k, changed, nil, nil)
		}
	}
	for _, url := range removals {
		k := e.kinds[url]
		if k == nil {
			continue
		}
		if held, absent := e.gone(k); len(held)+len(absent) > 0 {
			return e.push(k, nil, held, absent)
		}
	}
	return nil
}

// lost lists the endpoints that Envoy asks for to begin a cluster of which a newer output, that came meanwhile, knows no more. It takes nothing
// else until it has them, for as long as its initial_fetch_timeout (15 s): it is told that they are nowhere, and the cluster goes next.
func (e *engine) lost(endpoints *kind) []string {
	var out []string
	for _, name := range e.kinds[xds.ClusterType].pending.changed {
		_, exists := e.index[xds.EndpointType][name]
		_, has := endpoints.has[name]
		if endpoints.names[name] && !exists && (!has || endpoints.force[name]) {
			out = append(out, name)
		}
	}
	return out
}

// nowhere are the endpoints of a cluster that has none.
func nowhere(cluster string) xds.Resource {
	none, _ := proto.Marshal(&endpointv3.ClusterLoadAssignment{ClusterName: cluster}) // a name in UTF-8, as it came: it can't fail
	return xds.Resource{Name: cluster, Version: "none", Any: &anypb.Any{TypeUrl: xds.EndpointType, Value: none}}
}

func (e *engine) push(k *kind, changed, held, absent []string) *push {
	e.nonce++
	p := &push{url: k.url, nonce: strconv.FormatUint(e.nonce, 10), changed: changed, held: held, after: maps.Clone(k.has)}
	for _, name := range changed {
		r, exists := e.index[k.url][name]
		if !exists {
			r = nowhere(name)
		}
		p.after[name] = r
		delete(k.force, name)
		delete(k.absent, name)
	}
	for _, name := range held {
		delete(p.after, name)
	}
	if e.delta {
		for _, name := range changed {
			p.set = append(p.set, p.after[name])
		}
		p.removed = append(slices.Clone(held), absent...)
	} else {
		for _, name := range slices.Sorted(maps.Keys(p.after)) {
			p.set = append(p.set, p.after[name])
		}
	}
	k.greet, k.pending, k.last = false, p, p.nonce
	if k.url == xds.ClusterType {
		e.warmAgain(k.has, p)
	}
	return p
}

// answer takes what a proxy says about a response: refusal is "" if it took it. It is false if the nonce isn't that of the
// response which is waited for.
//
// A proxy may come back to its last answer: with a refusal, because what it took didn't work out (a port that is taken), and
// without, once it did. In between it has the resources, and doesn't count as having the output.
func (e *engine) answer(k *kind, nonce, refusal string) bool {
	p := k.pending
	if p == nil && nonce == k.last && refusal != k.trouble {
		k.trouble = refusal
		e.acked = ""
		return true
	}
	if p == nil || p.nonce != nonce {
		return false
	}
	k.pending = nil
	for _, name := range p.removed {
		k.absent[name] = true
	}
	if refusal != "" {
		for _, name := range p.changed {
			k.refused[name] = p.after[name].Version
		}
		for _, name := range p.held {
			delete(k.has, name) // not to be told again and again
		}
		return true
	}
	k.has = map[string]xds.Resource{}
	for name, r := range p.after {
		if k.wildcard || k.names[name] {
			k.has[name] = r
		}
	}
	return true
}

// warmAgain has the endpoints of changed clusters sent once more: Envoy begins a changed cluster anew, waits for its endpoints,
// and doesn't ask for them, because it did for the cluster's old form.
func (e *engine) warmAgain(before map[string]xds.Resource, p *push) {
	eds := e.kinds[xds.EndpointType]
	if eds == nil {
		return
	}
	for _, name := range p.changed {
		if _, changed := before[name]; changed && eds.names[name] {
			eds.force[name] = true
		}
	}
}

// complete gives the output's hash once when the proxy has the whole output and nothing else.
func (e *engine) complete() (hash string, ok bool) {
	if e.out == nil || e.acked == e.out.Hash {
		return "", false
	}
	for url, all := range e.index {
		for name, r := range all {
			if k := e.kinds[url]; k == nil || k.has[name].Version != r.Version {
				return "", false
			}
		}
	}
	for _, url := range removals {
		k := e.kinds[url]
		if k == nil {
			continue
		}
		if held, _ := e.gone(k); len(held) > 0 || k.pending != nil || k.trouble != "" {
			return "", false
		}
	}
	e.acked = e.out.Hash
	return e.acked, true
}
