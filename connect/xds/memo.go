// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"reflect"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// Memo keeps the upstreams of one proxy's last rendering, each with what was read for it. The zero Memo is empty. One rendering at a
// time uses it. A nil Memo keeps nothing.
type Memo struct {
	with  circumstances
	parts map[int]*part
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
}

// part is what one upstream comes to.
type part struct {
	upstream *Upstream
	index    uint64 // of the catalog that it was made of; 0: it counts no more
	out      *Output
}

// Rendered is how many upstreams the last rendering made anew.
func (m *Memo) Rendered() int { return m.count }

// begin drops all that was kept if anything that it all depends on is different.
func (m *Memo) begin(in *Input, g *Gathered) *Memo {
	if m == nil || g.CA == nil {
		return nil
	}
	with := circumstances{
		epoch: in.Txn.Position().Epoch, proxy: in.Proxy, defaults: g.Defaults, global: g.Global, td: identity.TrustDomain(g.CA.TrustDomain()),
		abilities: in.Abilities, limits: in.Limits,
	}
	if with.proxy != m.with.proxy && reflect.DeepEqual(with.proxy, m.with.proxy) {
		with.proxy = m.with.proxy
	}
	if m.parts == nil || with != m.with {
		m.parts = map[int]*part{}
	}
	m.with, m.count = with, 0
	for _, p := range m.parts {
		if d := p.out.Deadline; !d.IsZero() && !d.After(in.Now) {
			p.index = 0 // what it was rendered for is over
		}
	}
	return m
}

// part gives what is kept of an upstream, if nothing has changed of what was read for it.
func (m *Memo) part(t *catalog.Txn, i int) *part {
	if m == nil || m.parts[i] == nil || m.parts[i].index == 0 {
		return nil
	}
	p := m.parts[i]
	if changed, ok := t.Again(p.upstream.topics); !ok || changed > p.index {
		return nil
	}
	return p
}

func (m *Memo) keep(i int, p *part) {
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
		if p, err = r.part(u); err != nil {
			return err
		}
		r.in.Memo.keep(i, p)
	}
	r.merge(p)
	return nil
}

// part renders an upstream by itself.
func (r *renderer) part(u *Upstream) (*part, error) {
	sub := &renderer{in: r.in, g: r.g, td: r.td, out: &Output{Resources: map[string][]Resource{}}}
	err := sub.upstream(u)
	return &part{u, r.in.Txn.Index(), sub.out}, err
}

// merge takes what an upstream comes to; a resource of the same name that is there already stays.
func (r *renderer) merge(p *part) {
	for url, all := range p.out.Resources {
		for _, res := range all {
			key := url + "\x00" + res.Name
			if r.has[key] {
				continue
			}
			if r.has == nil {
				r.has = map[string]bool{}
			}
			r.has[key] = true
			r.out.Resources[url] = append(r.out.Resources[url], res)
		}
	}
	r.out.Warnings = append(r.out.Warnings, p.out.Warnings...)
	if d := p.out.Deadline; d != (time.Time{}) {
		r.until(d)
	}
}
