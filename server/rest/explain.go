// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/internal/api"
)

// explanation is what becomes of a request, and why.
type explanation struct {
	Protocol string
	Routes   []chain.Step
	Route    string `json:",omitempty"`
	Answer   string `json:",omitempty"` // of the caller's own proxy
	Fallback string `json:",omitempty"` // what the caller gets where no instance answers
	// Transparent is by which addresses the caller's transparent proxy knows the service, and why.
	Transparent string `json:",omitempty"`
	Ways        []explainedWay
}

// explainedWay is one place that the request can go to.
type explainedWay struct {
	Percent   float64
	Source    string `json:",omitempty"`
	Target    string
	Failover  []string `json:",omitempty"`
	Instances []explainedInstance
	// Outside is where a service is that isn't of the mesh: it has no instances, and the caller's sidecar decides.
	Outside   string `json:",omitempty"`
	Allowed   bool
	Intention string // what decided, and in which words
	// Authorizer is who else decides where that allows it.
	Authorizer string `json:",omitempty"`
	// Warnings say of targets in other datacenters why nobody is known there, or since when nothing was heard.
	Warnings []string `json:",omitempty"`
}

type explainedInstance struct {
	ID, Node, Address, Status string
	MutualTLS                 string // the mode in which it is called
}

// explain walks a request from source to destination by the functions that configure proxies.
func (h *handlers) explain(w http.ResponseWriter, r *api.Request) error {
	src, dst, err := pair(r)
	if err != nil {
		return err
	}
	if err := r.AuthorizeIn(dst.Namespace, dst.Name); err != nil {
		return err
	}
	q := r.URL.Query()
	req := chain.Request{Method: q.Get("method"), Path: q.Get("path"), Authority: q.Get("authority"), Scheme: "http", Header: http.Header{}}
	for _, line := range q["header"] {
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return badRequest("header %q: want name:value", line)
		}
		req.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Authority = host
	}
	if req.Method == "" || !strings.HasPrefix(req.Path, "/") {
		return badRequest("want a method and a path that begins with /")
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (*explanation, error) { return h.explained(t, r, src, dst, req) })
}

func (h *handlers) explained(t *catalog.Txn, r *api.Request, src, dst catalog.Key, req chain.Request) (*explanation, error) {
	c, err := chain.Compile(t, dst, chain.Overrides{})
	if err != nil {
		return nil, refused(err)
	}
	if err := seesChain(r, dst.Namespace, c); err != nil {
		return nil, err
	}
	ca, err := t.CA()
	if err != nil {
		return nil, err
	}
	src.Scope = src.Scope.Default(t.Datacenter())
	id := identity.Service{
		TrustDomain: identity.TrustDomain(ca.TrustDomain()), Partition: src.Partition, Namespace: src.Namespace, Datacenter: src.Datacenter, Service: src.Name,
	}
	meta, err := metaOf(t, src)
	if err != nil {
		return nil, err
	}
	walk, err := c.Walk(chain.Caller{Service: src, Identity: id.String(), Meta: meta}, req)
	if err != nil {
		return nil, err
	}
	out := &explanation{Protocol: c.Protocol, Routes: walk.Steps, Route: walk.Route, Answer: walk.Answer}
	if out.Transparent, err = h.transparent(t, src, dst); err != nil {
		return nil, err
	}
	if f := c.Fallback; f != nil && walk.Answer == "" {
		out.Fallback = fmt.Sprintf("status %d, by service-resolver/%s", f.Status, dst.Name)
	}
	req.Path = walk.Path
	for _, way := range walk.Ways {
		e, err := h.way(t, c, way, src, id, req)
		if err != nil {
			return nil, err
		}
		out.Ways = append(out.Ways, *e)
	}
	return out, nil
}

// transparent says how a caller whose proxy is transparent reaches a service; "" where it isn't.
func (h *handlers) transparent(t *catalog.Txn, src, dst catalog.Key) (string, error) {
	all, err := t.ConnectInstances(src)
	if err != nil || len(all) == 0 || all[0].Service.Proxy == nil {
		return "", err
	}
	proxy := all[0].Service.Proxy
	defaults, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, src)
	if err != nil {
		return "", err
	}
	global, err := catalog.EntryAs[*catalog.ProxyDefaults](t, catalog.KindProxyDefaults, globalName(src.Scope))
	if err != nil || catalog.Transparency(proxy, defaults, global) == nil {
		return "", err
	}
	o, err := xds.OutsideAs(t, dst)
	if err != nil {
		return "", err
	}
	if o != nil {
		if allowed, _ := o.Allows(src, h.c.DefaultAllow); !allowed {
			return o.String() + " is refused: it is outside the mesh, and no intention lets " + src.Name + " call it", nil
		}
		return o.String() + ", where it was going, in the clear", nil
	}
	at, err := t.VirtualIP(dst)
	if err != nil {
		return "", err
	}
	if at == nil {
		return dst.Name + " has no virtual address: it has no instance in the mesh", nil
	}
	reach, err := intention.ReachOf(t, src, h.c.DefaultAllow)
	if err != nil {
		return "", err
	}
	where := strings.Join(append([]string{at.Address()}, at.Manual...), ", ")
	dst.Scope = dst.Scope.Default(t.Datacenter())
	for _, u := range proxy.Upstreams {
		k := u.Key(src.Scope)
		if k.Scope = k.Scope.Default(t.Datacenter()); k.Fold() == dst.Fold() {
			return where + ", as it is an upstream", nil
		}
	}
	if !reach.To(dst.Name) {
		return where + " is refused: no intention lets " + src.Name + " call it, and it is no upstream", nil
	}
	return where + ", as intentions let " + src.Name + " call it", nil
}

// metaOf is that of the caller's sidecar, if all of its have the same.
func metaOf(t *catalog.Txn, src catalog.Key) (map[string]string, error) {
	all, err := t.ConnectInstances(src)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0].Service.Meta, nil
}

func explainInstances(t *catalog.Txn, service catalog.Key, chosen []*catalog.Instance) (all []explainedInstance, err error) {
	defaults, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, service)
	if err != nil {
		return nil, err
	}
	global, err := catalog.EntryAs[*catalog.ProxyDefaults](t, catalog.KindProxyDefaults, service.Scope.Global().Name(catalog.ProxyDefaultsName))
	if err != nil {
		return nil, err
	}
	for _, i := range chosen {
		host, port := i.Address()
		application := 0
		if i.Service.Proxy != nil {
			application = i.Service.Proxy.LocalServicePort
		}
		all = append(all, explainedInstance{
			i.Service.ID, i.Service.Node, net.JoinHostPort(host, strconv.Itoa(port)), i.Status(), catalog.MutualTLS(defaults, global, application),
		})
	}
	return all, nil
}

func (h *handlers) way(t *catalog.Txn, c *chain.Chain, way chain.Way, src catalog.Key, id identity.Service, req chain.Request) (*explainedWay, error) {
	target := c.Targets[way.Target]
	out := &explainedWay{Percent: way.Percent, Source: way.Source, Target: way.Target, Failover: way.Failover}
	all, err := t.ConnectInstances(target.Key())
	if err != nil {
		return nil, err
	}
	chosen, err := xds.Selected(target, all)
	if err != nil {
		return nil, refused(err)
	}
	here := target.Key()
	here.Datacenter = t.Datacenter() // entries are the same in every datacenter
	if out.Instances, err = explainInstances(t, here, chosen); err != nil {
		return nil, err
	}
	for _, id := range append([]string{way.Target}, way.Failover...) {
		warning, err := h.abroad(t, c.Targets[id])
		if err != nil {
			return nil, err
		}
		if warning != "" {
			out.Warnings = append(out.Warnings, warning)
		}
	}
	o, err := xds.OutsideAs(t, here)
	if err != nil {
		return nil, err
	}
	if o != nil {
		out.Outside = o.String()
		out.Allowed, out.Intention = o.Allows(src, h.c.DefaultAllow)
		return out, nil
	}
	var d intention.Decision
	if catalog.HTTPLike(c.Protocol) {
		d, err = intention.DecideRequest(t, id, here, intention.Request{Method: req.Method, Path: req.Path, Header: req.Header, Authority: req.Authority}, h.c.DefaultAllow)
	} else {
		d, err = intention.Decide(t, id, here, h.c.DefaultAllow)
	}
	if err != nil {
		return nil, err
	}
	out.Allowed, out.Intention = d.Allowed, d.Reason
	if d.Allowed {
		out.Authorizer, err = h.explainAuthorizer(t, here, c.Protocol, intention.Request{Method: req.Method, Path: req.Path, Header: req.Header, Authority: req.Authority})
		if err != nil {
			return nil, err
		}
	}
	if d.Rule != nil {
		out.Intention = d.Rule.Where() + ": " + d.Reason
		if d.Permission >= 0 {
			out.Intention = fmt.Sprintf("%s, permission %d: %s", d.Rule.Where(), d.Permission+1, d.Reason)
		}
	}
	return out, nil
}
