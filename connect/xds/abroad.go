// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"maps"
	"slices"
)

// warnGateways says where somebody wants gateways between datacenters: proxies call each other directly yet.
func (r *renderer) warnGateways(u *Upstream) {
	var dc string
	for _, id := range slices.Sorted(maps.Keys(u.Chain.Targets)) {
		if t := u.Chain.Targets[id]; t.Peer == "" && t.Datacenter != r.in.Txn.Datacenter() {
			dc = t.Datacenter
			break
		}
	}
	if dc == "" {
		return
	}
	if mode := r.gatewayMode(u); mode != "" && mode != "none" {
		r.warn("upstream %s: mesh gateways (mode %q) aren't there yet: proxies of datacenter %s are called directly", u.Key, mode, dc)
	}
}

// gatewayMode is the mode of what says it most closely: the upstream's registration, the caller's service-defaults for that upstream,
// its registration, its service-defaults, proxy-defaults.
func (r *renderer) gatewayMode(u *Upstream) string {
	d := r.defaults()
	var override, all string
	if c := d.UpstreamConfig; c != nil {
		if c.Defaults != nil {
			all = c.Defaults.MeshGateway.Mode
		}
		for i := range c.Overrides {
			if o := &c.Overrides[i]; o.About(u.Key, d.Namespace) {
				override = cmp.Or(o.MeshGateway.Mode, override)
			}
		}
	}
	global := ""
	if r.g.Global != nil {
		global = r.g.Global.MeshGateway.Mode
	}
	return cmp.Or(u.Definition.MeshGateway.Mode, override, r.in.Proxy.Proxy.MeshGateway.Mode, all, d.MeshGateway.Mode, global)
}
