// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"maps"
	"reflect"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
)

// Memo keeps one proxy's last rendering in parts, each with what was read for it: what the proxy is by itself, and each of its
// upstreams. The zero Memo is empty. One rendering at a time uses it. A nil Memo keeps nothing.
//
// In 200 proxies that call the same service, of which an instance came, half of what a rendering took was the proxy's own listener,
// and most of the rest its upstream's cluster and listener: none of them had changed.
type Memo struct {
	own   *ownPart
	with  circumstances
	parts map[partKey]*part
	count int
}

// circumstances are what every upstream's rendering depends on, beside the catalog's topics that it reads itself.
type circumstances struct {
	epoch     uint64
	proxy     *catalog.Service
	defaults  *catalog.ServiceDefaults
	global    *catalog.ProxyDefaults
	td        identity.TrustDomain
	abilities Abilities
	limits    Limits
	// Who may call what is outside the mesh is decided here.
	defaultAllow, denyAll bool
}

// ownCircumstances are what the rest depends on, in the same way.
type ownCircumstances struct {
	epoch                 uint64
	proxy                 *catalog.Service
	leaf                  Leaf
	hasLeaf, leafless     bool
	abilities             Abilities
	limits                Limits
	nodeAddress           string
	defaultAllow, denyAll bool
}

// ownPart is what a proxy comes to without its upstreams.
type ownPart struct {
	with   ownCircumstances
	topics []catalog.Topic // that were read for it
	as     catalog.Moment  // what it was made of
	g      *Gathered
	err    error   // of gathering it
	out    *Output // nil: it isn't rendered yet
}

// partKey names an upstream: the registration's by its place there, one that a transparent proxy has besides by its service.
type partKey struct {
	index   int
	service catalog.Key
}

// part is what one upstream comes to.
type part struct {
	upstream *Upstream
	as       catalog.Moment // what it was made of; the zero Moment: it counts no more
	out      *Output
	chains   outboundChains // of a transparent proxy
}

// Rendered is how many upstreams the last rendering made anew.
func (m *Memo) Rendered() int { return m.count }

// own is the input's part of it.
func (in *Input) own() ownCircumstances {
	c := ownCircumstances{
		epoch: in.Txn.Position().Epoch, proxy: in.Proxy, hasLeaf: in.Leaf != nil, leafless: in.Leafless, abilities: in.Abilities, limits: in.Limits,
		nodeAddress: in.NodeAddress, defaultAllow: in.DefaultAllow, denyAll: in.DenyAll,
	}
	if in.Leaf != nil {
		c.leaf = *in.Leaf
	}
	return c
}

// ownPart gives what is kept of the proxy itself, if nothing has changed of it.
func (m *Memo) ownPart(in *Input, with ownCircumstances) *ownPart {
	if m == nil || m.own == nil {
		return nil
	}
	p := m.own
	if with.proxy != p.with.proxy && reflect.DeepEqual(with.proxy, p.with.proxy) {
		with.proxy = p.with.proxy
	}
	if with != p.with || over(p.out, in.Now) {
		return nil
	}
	if !in.Txn.Unchanged(p.topics, p.as) {
		return nil
	}
	p.as = in.Txn.Moment() // it is true of this one too, and the next look has less to look at
	return p
}

// over says whether the time has come at which something that was rendered ends.
func over(out *Output, now time.Time) bool { return !out.Deadline.IsZero() && !out.Deadline.After(now) }

// ownOnce renders the proxy itself, or takes what is kept of it.
func (r *renderer) ownOnce(p *ownPart) error {
	if p.out == nil {
		sub := &renderer{in: r.in, g: r.g, td: r.td, out: &Output{Resources: map[string][]Resource{}}}
		for _, step := range []func() error{sub.secrets, sub.inbound} {
			if err := step(); err != nil {
				return err
			}
		}
		p.out = sub.out
		if r.in.Memo != nil {
			r.in.Memo.own = p
		}
	}
	r.merge(p.out)
	return nil
}

// begin drops all that was kept of upstreams if anything that it all depends on is different.
func (m *Memo) begin(in *Input, g *Gathered) *Memo {
	if m == nil || g.CA == nil {
		return nil
	}
	with := circumstances{
		epoch: in.Txn.Position().Epoch, proxy: in.Proxy, defaults: g.Defaults, global: g.Global, td: identity.TrustDomain(g.CA.TrustDomain()),
		abilities: in.Abilities, limits: in.Limits, defaultAllow: in.DefaultAllow, denyAll: in.DenyAll,
	}
	if with.proxy != m.with.proxy && reflect.DeepEqual(with.proxy, m.with.proxy) {
		with.proxy = m.with.proxy
	}
	if m.parts == nil || with != m.with {
		m.parts = map[partKey]*part{}
	}
	m.with, m.count = with, 0
	for _, p := range m.parts {
		if over(p.out, in.Now) {
			p.as = catalog.Moment{}
		}
	}
	return m
}

// part gives what is kept of an upstream, if nothing has changed of what was read for it; moved says that its instances did.
func (m *Memo) part(t *catalog.Txn, i partKey) (p *part, moved bool) {
	if m == nil || m.parts[i] == nil || m.parts[i].as == (catalog.Moment{}) {
		return nil, false
	}
	p = m.parts[i]
	if !t.Unchanged(p.upstream.topics, p.as) {
		return nil, false
	}
	if !t.Unchanged(p.upstream.places, p.as) {
		return p, true
	}
	p.as = t.Moment()
	return p, false
}

// only forgets what isn't an upstream any more.
func (m *Memo) only(all []definition) {
	if m == nil || len(m.parts) <= len(all) {
		return
	}
	stays := make(map[partKey]bool, len(all))
	for _, d := range all {
		stays[d.place] = true
	}
	maps.DeleteFunc(m.parts, func(k partKey, _ *part) bool { return !stays[k] })
}

func (m *Memo) keep(i partKey, p *part) {
	if m == nil || m.parts == nil {
		return
	}
	m.count++
	m.parts[i] = p
}

// upstreamOnce renders an upstream, or takes what is kept of it.
func (r *renderer) upstreamOnce(i int, u *Upstream) error {
	p := r.g.kept[i]
	if p == nil {
		var err error
		if old := r.g.moved[i]; old != nil {
			p, err = r.relocate(old, u)
		} else {
			p, err = r.part(u)
		}
		if err != nil {
			return err
		}
		r.in.Memo.keep(u.place, p)
	}
	r.merge(p.out)
	if r.chains == nil {
		r.chains = map[*Upstream]outboundChains{}
	}
	r.chains[u] = p.chains
	return nil
}

// part renders an upstream by itself.
func (r *renderer) part(u *Upstream) (*part, error) {
	sub := &renderer{in: r.in, g: r.g, td: r.td, out: &Output{Resources: map[string][]Resource{}}}
	err := sub.upstream(u)
	return &part{u, r.in.Txn.Moment(), sub.out, sub.chains[u]}, err
}

// relocate renders the endpoints of an upstream of which all else is as it was.
func (r *renderer) relocate(old *part, u *Upstream) (*part, error) {
	sub := &renderer{in: r.in, g: r.g, td: r.td, out: &Output{Resources: map[string][]Resource{}}}
	if (len(r.direct(u)) > 0) != (old.chains.direct != nil) {
		return r.part(u)
	}
	used := r.reached(u.Chain)
	for _, id := range sortedNodes(u.Chain) {
		node := u.Chain.Nodes[id]
		if !used[id] || node.Type != chain.TypeResolver {
			continue
		}
		name, targets := clusterOf(u, node)
		if u.outsideOf(node) != nil {
			continue
		}
		if r.plainTargets(u, targets) != r.plainTargets(old.upstream, targets) {
			return r.part(u) // the cluster itself is another one
		}
		if err := sub.endpoints(name, u, node, targets); err != nil {
			return nil, err
		}
	}
	for url, all := range old.out.Resources {
		if url != EndpointType {
			sub.out.Resources[url] = all
		}
	}
	sub.out.Warnings, sub.out.Deadline = old.out.Warnings, old.out.Deadline
	return &part{u, r.in.Txn.Moment(), sub.out, old.chains}, nil
}

// merge takes what a part comes to; a resource of the same name that is there already stays.
func (r *renderer) merge(out *Output) {
	for url, all := range out.Resources {
		for _, res := range all {
			r.put(url, res)
		}
	}
	r.out.Warnings = append(r.out.Warnings, out.Warnings...)
	if d := out.Deadline; d != (time.Time{}) {
		r.until(d)
	}
}
