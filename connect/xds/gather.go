// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/intention"
)

// Gathered is all that rendering a proxy reads from the catalog. On a server, the topics that gathering it recorded are what
// the proxy's agent has to be sent.
type Gathered struct {
	Service  catalog.Key // what the proxy is the sidecar of
	CA       *catalog.CAState
	Protocol string // of the service
	// Undeclared says that nobody has said what the service speaks: Protocol is then tcp.
	Undeclared bool
	Defaults   *catalog.ServiceDefaults
	Global     *catalog.ProxyDefaults
	Mesh       *catalog.Mesh
	Rules      intention.Rules
	Upstreams  []*Upstream
	// Transparent is how the proxy gets all that its service sends; nil: it doesn't. Virtual are then the addresses of services, and
	// Beyond is how many services of those that it may reach it isn't told of, since there are too many.
	Transparent *catalog.TransparentProxy
	Virtual     map[catalog.Key][]string
	Beyond      int
	// Outside is what a transparent proxy knows that isn't of the mesh.
	Outside []*Outside
	// Providers are those of the tokens that the rules speak of.
	Providers []*catalog.JWTProvider
	// Audit says that the rules are looked at and have no effect.
	Audit bool
	// kept are the upstreams of which nothing changed since they were rendered, by their place, and moved those of which only the
	// instances did.
	kept, moved map[int]*part
	// Authorizer is who else decides about requests; nil: nobody. authz is that one as a service of the mesh.
	Authorizer *catalog.ExternalAuthorization
	authz      *Upstream
	// Peers is how many instances of the service pass their checks; looked at only for a limit on all of them.
	Peers int
}

// Upstream is one of the services that the proxy calls.
type Upstream struct {
	Definition catalog.Upstream
	Key        catalog.Key
	place      partKey
	Chain      *chain.Chain
	Undeclared bool // nobody has said what it speaks: the chain's protocol is tcp
	// Err is why the chain can't be compiled: this upstream isn't rendered, the others are.
	Err error
	// Instances, by the chain's target.
	Instances map[string][]*catalog.Instance
	// Defaults are those of the targets' services, by the target.
	Defaults map[string]*catalog.ServiceDefaults
	// Outside are the targets that aren't of the mesh.
	Outside map[string]*Outside
	topics  []catalog.Topic // that were read for it, but for
	places  []catalog.Topic // where its instances are
}

// Gather reads what rendering a proxy needs. An error that wraps catalog.ErrNotCovered means that a replica hasn't got all of
// it yet; it reads on all the same, so that a recording transaction learns of everything. DefaultAllow is the answer where no intention
// speaks: with it a transparent proxy reaches more.
func Gather(t *catalog.Txn, proxy *catalog.Service, defaultAllow bool) (*Gathered, error) {
	g, err := gatherOwn(t, proxy)
	if g == nil {
		return nil, err
	}
	return g, errors.Join(err, g.upstreams(t, proxy, defaultAllow, nil))
}

// gatherOwn reads all but the upstreams. It is nil only for what is no sidecar.
func gatherOwn(t *catalog.Txn, proxy *catalog.Service) (*Gathered, error) {
	if proxy.Kind != catalog.KindConnectProxy || proxy.Proxy == nil {
		return nil, fmt.Errorf("service %q is no sidecar", proxy.ID)
	}
	g := &Gathered{Service: proxy.Scope.Name(proxy.Proxy.DestinationServiceName)}
	var errs, err error
	g.CA, err = t.CA()
	errs = errors.Join(errs, err)
	g.Protocol, _, err = chain.Declared(t, g.Service)
	errs = errors.Join(errs, err)
	if own := strings.ToLower(text(proxy.Proxy.Config, "protocol")); own != "" {
		g.Protocol = own // the registration's word wins
	}
	if g.Protocol == "" {
		g.Protocol, g.Undeclared = catalog.ProtocolTCP, true
	}
	g.Defaults, err = catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, g.Service)
	errs = errors.Join(errs, err)
	if g.Defaults != nil && g.Defaults.RateLimits != nil && g.Defaults.RateLimits.ServiceLevel != nil {
		all, err := t.ConnectInstances(g.Service)
		errs = errors.Join(errs, err)
		for _, i := range all {
			if i.Status() != catalog.HealthCritical {
				g.Peers++
			}
		}
	}
	g.Global, err = catalog.EntryAs[*catalog.ProxyDefaults](t, catalog.KindProxyDefaults, g.Service.Scope.Global().Name(catalog.ProxyDefaultsName))
	errs = errors.Join(errs, err)
	g.Transparent = catalog.Transparency(proxy.Proxy, g.Defaults, g.Global)
	g.Mesh, err = catalog.EntryAs[*catalog.Mesh](t, catalog.KindMesh, g.Service.Scope.Global().Name(catalog.MeshName))
	errs = errors.Join(errs, err)
	g.Rules, err = intention.Match(t, g.Service)
	return g, errors.Join(errs, err, g.protection(t), g.authorizer(t, proxy))
}

// upstreams gathers what each of the proxy's upstreams needs, but for those of which memo has all.
func (g *Gathered) upstreams(t *catalog.Txn, proxy *catalog.Service, defaultAllow bool, memo *Memo) error {
	g.kept, g.moved = map[int]*part{}, map[int]*part{}
	defs, errs := g.definitions(t, proxy, defaultAllow)
	for i, d := range defs {
		p, moved := memo.part(t, d.place)
		if p != nil && !moved {
			g.kept[i] = p
			g.Upstreams = append(g.Upstreams, p.upstream)
			continue
		}
		u := &Upstream{}
		var err error
		if p != nil {
			g.moved[i] = p
			*u = *p.upstream
		} else {
			u.topics = t.Reading(func(t *catalog.Txn) { err = u.gather(t, proxy, d.Upstream, g.Defaults) })
			u.place = d.place
		}
		errs = errors.Join(errs, err)
		u.places = t.Reading(func(t *catalog.Txn) { err = u.locate(t) })
		errs = errors.Join(errs, err)
		g.Upstreams = append(g.Upstreams, u)
	}
	memo.only(defs)
	return errs
}

// gather reads all but where the instances are.
func (u *Upstream) gather(t *catalog.Txn, proxy *catalog.Service, def catalog.Upstream, d *catalog.ServiceDefaults) error {
	*u = Upstream{Definition: def, Key: def.Key(proxy.Scope), Defaults: map[string]*catalog.ServiceDefaults{}, Outside: map[string]*Outside{}}
	u.Chain, u.Err = chain.Compile(t, u.Key, chain.Overrides{Protocol: saidProtocol(u, d)})
	if errors.Is(u.Err, catalog.ErrNotCovered) {
		return u.Err
	}
	if u.Err != nil {
		return nil
	}
	if u.Chain.Protocol == catalog.ProtocolTCP && saidProtocol(u, d) == "" {
		said, _, err := chain.Declared(t, u.Key)
		if err != nil {
			return err
		}
		u.Undeclared = said == ""
	}
	var errs error
	for id, target := range u.known() {
		here := target.Key()
		here.Datacenter = t.Datacenter() // entries are the same in every datacenter
		var err error
		u.Defaults[id], err = catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, here)
		errs = errors.Join(errs, err)
		o, err := outsideOf(t, here, u.Defaults[id])
		errs = errors.Join(errs, err)
		if o != nil {
			u.Outside[id] = o
		}
	}
	return errs
}

// locate reads where the instances are.
func (u *Upstream) locate(t *catalog.Txn) error {
	u.Instances = map[string][]*catalog.Instance{}
	var errs error
	for id, target := range u.known() {
		instances, err := t.ConnectInstances(target.Key())
		errs = errors.Join(errs, err)
		u.Instances[id] = instances
	}
	return errs
}

// known are the targets of whom this catalog knows, also those of other datacenters, by ID.
func (u *Upstream) known() iter.Seq2[string, *chain.Target] {
	return func(yield func(string, *chain.Target) bool) {
		if u.Err != nil {
			return
		}
		for id, target := range u.Chain.Targets {
			if target.Peer != "" {
				continue // nobody of there is in this catalog
			}
			if !yield(id, target) {
				return
			}
		}
	}
}

// saidProtocol is the protocol that the caller says an upstream has: in its registration, else in its service-defaults for that
// upstream or for all. Mostly it says none, and the upstream's own holds.
func saidProtocol(u *Upstream, d *catalog.ServiceDefaults) string {
	said := ""
	if d != nil && d.UpstreamConfig != nil {
		if all := d.UpstreamConfig.Defaults; all != nil {
			said = all.Protocol
		}
		for i := range d.UpstreamConfig.Overrides {
			if o := &d.UpstreamConfig.Overrides[i]; o.About(u.Key, d.Namespace) && o.Protocol != "" {
				said = o.Protocol
			}
		}
	}
	if own := text(u.Definition.Config, "protocol"); own != "" {
		said = own
	}
	return strings.ToLower(said)
}

// protection reads what else the rules need.
func (g *Gathered) protection(t *catalog.Txn) error {
	own, errs := catalog.EntryAs[*catalog.ServiceIntentions](t, catalog.KindServiceIntentions, g.Service)
	g.Audit = own != nil && own.Mode == catalog.ModeAudit
	for _, name := range g.Rules.Providers() {
		p, err := catalog.EntryAs[*catalog.JWTProvider](t, catalog.KindJWTProvider, g.Service.Scope.Global().Name(name))
		errs = errors.Join(errs, err)
		if p != nil {
			g.Providers = append(g.Providers, p)
		}
	}
	return errs
}
