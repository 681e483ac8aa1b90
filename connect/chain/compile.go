// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

type invalid struct{ text string }

func (e *invalid) Error() string { return e.text }
func (e *invalid) Unwrap() error { return ErrInvalid }

func invalidf(format string, args ...any) error { return &invalid{fmt.Sprintf(format, args...)} }

type compiler struct {
	t        *catalog.Txn
	root     catalog.Key
	over     Overrides
	domain   string
	chain    *Chain
	path     []string // of nodes that are being compiled, for loops
	protocol string
}

// Compile gives the chain of a service. Errors wrap ErrInvalid or catalog.ErrNotCovered.
func Compile(t *catalog.Txn, service catalog.Key, o Overrides) (*Chain, error) {
	service.Scope = service.Scope.Default(t.Datacenter())
	ca, err := t.CA()
	if err != nil {
		return nil, err
	}
	c := &compiler{t: t, root: service, over: o, domain: ca.TrustDomain()}
	c.chain = &Chain{
		ServiceName: service.Name, Namespace: service.Namespace, Partition: service.Partition, Datacenter: service.Datacenter,
		Nodes: map[string]*Node{}, Targets: map[string]*Target{}, AutoVirtualIPs: []string{}, ManualVirtualIPs: []string{},
	}
	own, meta, err := Protocol(t, service)
	if err != nil {
		return nil, err
	}
	c.protocol, c.chain.ServiceMeta = own, meta
	c.chain.Protocol = own
	if o.Protocol != "" {
		c.chain.Protocol = o.Protocol
	}
	if c.chain.StartNode, err = c.start(); err != nil {
		return nil, err // clients know the bare texts
	}
	if c.chain.Fallback, err = c.fallback(); err != nil {
		return nil, err
	}
	c.finish(own)
	return c.chain, nil
}

// Protocol gives a service's protocol (its service-defaults, else proxy-defaults, else tcp) and the meta of its service-defaults.
func Protocol(t *catalog.Txn, service catalog.Key) (string, map[string]string, error) {
	said, meta, err := Declared(t, service)
	if err == nil && said == "" {
		said = catalog.ProtocolTCP
	}
	return said, meta, err
}

// Declared is Protocol where somebody has said one, else "".
func Declared(t *catalog.Txn, service catalog.Key) (string, map[string]string, error) {
	service.Datacenter = t.Datacenter() // entries are the same in every datacenter
	d, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, service)
	if err != nil {
		return "", nil, err
	}
	var meta map[string]string
	if d != nil {
		meta = d.Meta
		if d.Protocol != "" {
			return strings.ToLower(d.Protocol), meta, nil
		}
	}
	global := service
	global.Namespace, global.Peer, global.Name = catalog.DefaultNamespace, "", catalog.ProxyDefaultsName
	p, err := catalog.EntryAs[*catalog.ProxyDefaults](t, catalog.KindProxyDefaults, global)
	if err != nil {
		return "", nil, err
	}
	if p != nil {
		if s, ok := p.Config["protocol"].(string); ok && s != "" {
			return strings.ToLower(s), meta, nil
		}
	}
	return "", meta, nil
}

func (c *compiler) start() (string, error) {
	router, err := catalog.EntryAs[*catalog.ServiceRouter](c.t, catalog.KindServiceRouter, c.here(c.root))
	if err != nil {
		return "", err
	}
	splitter, err := catalog.EntryAs[*catalog.ServiceSplitter](c.t, catalog.KindServiceSplitter, c.here(c.root))
	if err != nil {
		return "", err
	}
	if !catalog.HTTPLike(c.chain.Protocol) {
		// A splitter may divide connections too; Consul refuses that.
		if splitter != nil && router == nil && c.over.Protocol == "" {
			return c.splitter(c.root, splitter)
		}
		if router != nil && c.over.Protocol == "" {
			return "", invalidf("discovery chain %q uses a protocol %q that does not permit advanced routing or splitting behavior", c.root.Name, c.chain.Protocol)
		}
		return c.resolver(c.root, "")
	}
	if router == nil {
		return c.service(c.root, "")
	}
	return c.router(router)
}

// here is where the entries about a service are found: they are written for all datacenters, and each has them all.
func (c *compiler) here(k catalog.Key) catalog.Key {
	k.Datacenter = c.t.Datacenter()
	return k
}

func nodeName(k catalog.Key) string { return k.Name + "." + k.Namespace + "." + k.Partition }

func (c *compiler) router(e *catalog.ServiceRouter) (string, error) {
	key := TypeRouter + ":" + nodeName(c.root)
	leave, err := c.enter(key)
	if err != nil {
		return "", err
	}
	defer leave()
	n := &Node{Type: TypeRouter, Name: nodeName(c.root)}
	for _, i := range order(e.Routes) {
		r := &e.Routes[i]
		if err := c.fits(e, i); err != nil {
			return "", err
		}
		next, mirrors, err := c.lead(r)
		if err != nil {
			return "", err
		}
		expanded, callers, err := c.expand(e, i)
		if err != nil {
			return "", err
		}
		for _, a := range alternatives(expanded, next, mirrors, fmt.Sprintf("%s/%s route %d", catalog.KindServiceRouter, e.Name, i+1)) {
			a.Callers = callers
			n.Routes = append(n.Routes, a)
		}
	}
	next, err := c.service(c.root, "")
	if err != nil {
		return "", err
	}
	all := &catalog.ServiceRoute{
		Match:       &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{PathPrefix: "/"}},
		Destination: &catalog.ServiceRouteDestination{Service: c.root.Name, Namespace: c.root.Namespace, Partition: c.root.Partition},
	}
	n.Routes = append(n.Routes, &Route{Definition: all, NextNode: next, Source: "service " + c.root.Name})
	c.chain.Nodes[key] = n
	return key, nil
}

// redirected is the key from with the parts replaced that are given.
func (c *compiler) redirected(from catalog.Key, service, ns, partition string) catalog.Key {
	if service != "" {
		from.Name = service
	}
	if ns != "" {
		from.Namespace = ns
	}
	if partition != "" {
		from.Partition = partition
	}
	return from
}

// service leads to a service's splitter if it has one and no subset is named, else to its resolver.
func (c *compiler) service(k catalog.Key, subset string) (string, error) {
	if subset != "" {
		return c.resolver(k, subset)
	}
	e, err := catalog.EntryAs[*catalog.ServiceSplitter](c.t, catalog.KindServiceSplitter, c.here(k))
	if err != nil {
		return "", err
	}
	if e == nil {
		return c.resolver(k, "")
	}
	return c.splitter(k, e)
}

func (c *compiler) splitter(k catalog.Key, e *catalog.ServiceSplitter) (string, error) {
	key := TypeSplitter + ":" + nodeName(k)
	leave, err := c.enter(key)
	if err != nil {
		return "", err
	}
	defer leave()
	if c.chain.Nodes[key] != nil {
		return key, nil
	}
	if err := c.agree(k); err != nil {
		return "", err
	}
	n := &Node{Type: TypeSplitter, Name: nodeName(k), Sticky: e.Sticky}
	if !catalog.HTTPLike(c.chain.Protocol) && whole(e) {
		return "", invalidf("service-splitter %q: RequestHeaders, ResponseHeaders and Sticky need a protocol with requests, and %q has %q", e.Name, k.Name, c.chain.Protocol)
	}
	for i := range e.Splits {
		s := &e.Splits[i]
		to := c.redirected(k, s.Service, s.Namespace, s.Partition)
		var next string
		if to.Fold() == k.Fold() {
			next, err = c.resolver(to, s.ServiceSubset)
		} else {
			next, err = c.service(to, s.ServiceSubset)
		}
		if err != nil {
			return "", err
		}
		sub := c.chain.Nodes[next]
		if n.LoadBalancer == nil && sub.LoadBalancer != nil && (sub.LoadBalancer.Policy == "ring_hash" || sub.LoadBalancer.Policy == "maglev") {
			n.LoadBalancer = sub.LoadBalancer
		}
		if sub.Type != TypeSplitter {
			n.Splits = append(n.Splits, &Split{Definition: s, Weight: hundredths(s.Weight), NextNode: next})
			continue
		}
		if len(n.Sticky) == 0 {
			n.Sticky = sub.Sticky
		}
		for _, inner := range sub.Splits {
			n.Splits = append(n.Splits, &Split{Definition: merged(s, inner.Definition), Weight: hundredths(s.Weight * inner.Weight / 100), NextNode: inner.NextNode})
		}
	}
	c.chain.Nodes[key] = n
	return key, nil
}

func hundredths(w float64) float64 { return math.Round(w*100) / 100 }

// merged is the inner leg of a flattened splitter: its request edits win over the outer's, the outer's response edits win.
func merged(outer, inner *catalog.ServiceSplit) *catalog.ServiceSplit {
	m := *inner
	m.RequestHeaders = mergeEdits(outer.RequestHeaders, inner.RequestHeaders)
	m.ResponseHeaders = mergeEdits(inner.ResponseHeaders, outer.ResponseHeaders)
	return &m
}

func mergeEdits(base, win *catalog.HTTPHeaderModifiers) *catalog.HTTPHeaderModifiers {
	if base == nil || win == nil {
		if base == nil {
			return win
		}
		return base
	}
	both := func(a, b map[string]string) map[string]string {
		out := map[string]string{}
		for _, m := range []map[string]string{a, b} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	out := &catalog.HTTPHeaderModifiers{Add: both(base.Add, win.Add), Set: both(base.Set, win.Set), Remove: append(slices.Clone(base.Remove), win.Remove...)}
	slices.Sort(out.Remove)
	out.Remove = slices.Compact(out.Remove)
	return out
}

func (c *compiler) enter(key string) (leave func(), err error) {
	if i := slices.Index(c.path, key); i >= 0 {
		return nil, invalidf("detected circular reference: [%s]", strings.Join(append(slices.Clone(c.path[i:]), key), " -> "))
	}
	c.path = append(c.path, key)
	return func() { c.path = c.path[:len(c.path)-1] }, nil
}

// agree checks that a service has the chain's protocol.
func (c *compiler) agree(k catalog.Key) error {
	p, _, err := Protocol(c.t, k)
	if err != nil {
		return err
	}
	if p != c.protocol {
		return invalidf("discovery chain %q uses inconsistent protocols; service %q has %q which is not %q", c.root.Name, k.Name, p, c.protocol)
	}
	return nil
}

// finish drops what the graph no longer reaches (splitters that were flattened away) and says whether anything differs from
// the defaults.
func (c *compiler) finish(own string) {
	reached := map[string]bool{}
	var walk func(string)
	walk = func(key string) {
		n := c.chain.Nodes[key]
		if n == nil || reached[key] {
			return
		}
		reached[key] = true
		for _, r := range n.Routes {
			walk(r.NextNode)
			for _, m := range r.Mirrors {
				walk(m)
			}
		}
		for _, s := range n.Splits {
			walk(s.NextNode)
		}
	}
	walk(c.chain.StartNode)
	for key := range c.chain.Nodes {
		if !reached[key] {
			delete(c.chain.Nodes, key)
		}
	}
	first := c.chain.Nodes[c.chain.StartNode]
	if first.Resolver != nil {
		t := c.chain.Targets[first.Resolver.Target]
		c.chain.Default = first.Resolver.Default && t.Key().Fold() == c.root.Fold()
	}
	c.customize(own)
}

func (c *compiler) customize(own string) {
	var parts []string
	if c.over.Protocol != "" && c.over.Protocol != own {
		parts = append(parts, "protocol="+c.over.Protocol)
	}
	if c.over.ConnectTimeout > 0 && c.over.ConnectTimeout != DefaultConnectTimeout {
		parts = append(parts, "connect_timeout="+c.over.ConnectTimeout.String())
	}
	if c.over.MeshGateway.Mode != "" {
		parts = append(parts, "mesh_gateway="+c.over.MeshGateway.Mode)
	}
	if len(parts) == 0 {
		return
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	c.chain.CustomizationHash = hex.EncodeToString(sum[:4])
}

func (c *compiler) sni(k catalog.Key, subset, externalSNI string) string {
	if externalSNI != "" {
		return externalSNI
	}
	td := identity.TrustDomain(c.domain)
	if k.Peer != "" {
		return identity.PeerSNI(td, k.Partition, k.Namespace, k.Peer, k.Name)
	}
	return identity.Service{TrustDomain: td, Partition: k.Partition, Namespace: k.Namespace, Datacenter: k.Datacenter, Service: k.Name}.SubsetSNI(subset)
}

func orDuration(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}
