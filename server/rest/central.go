// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/internal/api"
)

// centralParam asks that what config entries say of a proxy is shown as if its registration said it.
const centralParam = "merge-central-config"

func asksCentral(r *api.Request) bool { return r.URL.Query().Has(centralParam) }

// withCentral are instances whose proxies have what service-defaults and proxy-defaults say, in the names of a registration. What the
// registration says itself wins. The service-defaults of services that the caller may not read are left out.
func withCentral(t *catalog.Txn, r *api.Request, all []*catalog.Instance) ([]*catalog.Instance, error) {
	out := make([]*catalog.Instance, 0, len(all))
	for _, i := range all {
		s, err := centralService(t, r, i.Service)
		if err != nil {
			return nil, err
		}
		merged := *i
		merged.Service = s
		out = append(out, &merged)
	}
	return out, nil
}

func centralService(t *catalog.Txn, r *api.Request, s *catalog.Service) (*catalog.Service, error) {
	if s.Kind == "" {
		return s, nil
	}
	own := catalog.Proxy{}
	if s.Proxy != nil {
		own = *s.Proxy
	}
	d, err := shownDefaults(t, r, s.Scope.Name(cmp.Or(own.DestinationServiceName, s.Service)))
	if err != nil {
		return nil, err
	}
	global, err := catalog.EntryAs[*catalog.ProxyDefaults](t, catalog.KindProxyDefaults, globalName(s.Scope))
	if err != nil {
		return nil, err
	}
	merged := *s
	merged.Proxy = centralProxy(own, d, global)
	merged.Proxy.Upstreams = make([]catalog.Upstream, 0, len(own.Upstreams))
	for _, u := range own.Upstreams {
		if u.DestinationType == "" || u.DestinationType == "service" {
			if u, err = centralUpstream(t, r, s.Scope, u, &own, d, global); err != nil {
				return nil, err
			}
		}
		merged.Proxy.Upstreams = append(merged.Proxy.Upstreams, u)
	}
	return &merged, nil
}

// globalName is where proxy-defaults are.
func globalName(scope catalog.Scope) catalog.Key {
	scope.Peer = ""
	return scope.Global().Name(catalog.ProxyDefaultsName)
}

// shownDefaults are a service's defaults: empty ones if there are none, or if the caller may not read that service.
func shownDefaults(t *catalog.Txn, r *api.Request, service catalog.Key) (*catalog.ServiceDefaults, error) {
	d, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, service)
	if d == nil || !r.SeesIn(service.Namespace, "service", service.Name) {
		d = &catalog.ServiceDefaults{}
	}
	return d, err
}

// centralProxy is what holds for a proxy: the registration's word, else that of service-defaults, else that of proxy-defaults.
func centralProxy(own catalog.Proxy, d *catalog.ServiceDefaults, global *catalog.ProxyDefaults) *catalog.Proxy {
	if global == nil {
		global = &catalog.ProxyDefaults{}
	}
	config := catalog.Opaque{}
	maps.Copy(config, global.Config)
	putText(config, "protocol", d.Protocol)
	putText(config, "balance_inbound_connections", d.BalanceInboundConnections)
	putNumber(config, "max_inbound_connections", d.MaxInboundConnections)
	putNumber(config, "local_connect_timeout_ms", d.LocalConnectTimeoutMs)
	putNumber(config, "local_request_timeout_ms", d.LocalRequestTimeoutMs)
	maps.Copy(config, own.Config)
	own.Config = config
	own.TransparentProxy = own.TransparentProxy.Over(d.TransparentProxy).Over(global.TransparentProxy)
	own.EnvoyExtensions = slices.Concat(global.EnvoyExtensions, d.EnvoyExtensions, own.EnvoyExtensions)
	own.AccessLogs = cmp.Or(own.AccessLogs, global.AccessLogs)
	own.RateLimits = d.RateLimits
	own.Mode = cmp.Or(own.Mode, d.Mode, global.Mode)
	own.MeshGateway.Mode = cmp.Or(own.MeshGateway.Mode, d.MeshGateway.Mode, global.MeshGateway.Mode)
	own.Expose = own.Expose.Over(d.Expose).Over(global.Expose)
	return &own
}

func putText(o catalog.Opaque, key, value string) {
	if value != "" {
		o[key] = value
	}
}

func putNumber(o catalog.Opaque, key string, value int) {
	if value != 0 {
		o[key] = value
	}
}

// centralUpstream is what holds for an upstream: its own word, else the caller's service-defaults for it, else those for all; for the
// protocol at last what the upstream itself is said to speak. What the registration says of gateways for the whole proxy stands
// between what service-defaults say for all upstreams and for this one.
func centralUpstream(t *catalog.Txn, r *api.Request, scope catalog.Scope, u catalog.Upstream, own *catalog.Proxy, d *catalog.ServiceDefaults,
	global *catalog.ProxyDefaults) (catalog.Upstream, error) {
	key, config := u.Key(scope), catalog.Opaque{}
	if r.SeesIn(cmp.Or(key.Namespace, catalog.DefaultNamespace), "service", key.Name) {
		protocol, _, err := chain.Declared(t, key)
		if err != nil {
			return u, err
		}
		putText(config, "protocol", protocol)
	}
	modes := []string{d.MeshGateway.Mode} // the later wins
	if global != nil {
		modes = []string{global.MeshGateway.Mode, d.MeshGateway.Mode}
	}
	conf := d.UpstreamConfig
	if conf == nil {
		conf = &catalog.UpstreamDefaults{}
	}
	if conf.Defaults != nil {
		putUpstream(config, conf.Defaults)
		modes = append(modes, conf.Defaults.MeshGateway.Mode)
	}
	modes = append(modes, own.MeshGateway.Mode)
	for i := range conf.Overrides {
		if o := &conf.Overrides[i]; o.About(key, d.Namespace) {
			putUpstream(config, o)
			modes = append(modes, o.MeshGateway.Mode)
		}
	}
	maps.Copy(config, u.Config)
	u.Config = config
	slices.Reverse(modes)
	u.MeshGateway.Mode = cmp.Or(append([]string{u.MeshGateway.Mode}, modes...)...)
	return u, nil
}

// putUpstream puts what service-defaults say of an upstream into its configuration, under a registration's names.
func putUpstream(o catalog.Opaque, c *catalog.UpstreamConfig) {
	putText(o, "protocol", c.Protocol)
	putText(o, "balance_outbound_connections", c.BalanceOutboundConnections)
	putNumber(o, "connect_timeout_ms", c.ConnectTimeoutMs)
	if l := c.Limits; l != nil {
		o["limits"] = said(map[string]*int{
			"max_connections": l.MaxConnections, "max_pending_requests": l.MaxPendingRequests,
			"max_concurrent_requests": l.MaxConcurrentRequests, "max_requests_per_connection": l.MaxRequestsPerConnection,
		})
	}
	if p := c.PassiveHealthCheck; p != nil {
		check := said(map[string]*uint32{"enforcing_consecutive_5xx": p.EnforcingConsecutive5xx, "max_ejection_percent": p.MaxEjectionPercent})
		if p.Interval != 0 {
			check["interval"] = p.Interval.String()
		}
		if p.MaxFailures != 0 {
			check["max_failures"] = p.MaxFailures
		}
		if p.BaseEjectionTime != nil {
			check["base_ejection_time"] = p.BaseEjectionTime.String()
		}
		o["passive_health_check"] = check
	}
}

// said are the values that somebody gave.
func said[T any](values map[string]*T) map[string]any {
	out := map[string]any{}
	for key, v := range values {
		if v != nil {
			out[key] = *v
		}
	}
	return out
}
