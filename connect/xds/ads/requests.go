// SPDX-License-Identifier: Apache-2.0

package ads

import (
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
)

// takeDelta takes a delta request: subscriptions, then an answer if it holds one. It says whether it was the answer that was
// waited for.
func (e *engine) takeDelta(r *discoveryv3.DeltaDiscoveryRequest) (answered bool) {
	k, fresh := e.kind(r.GetTypeUrl())
	if fresh {
		for name, version := range r.GetInitialResourceVersions() {
			k.has[name] = xds.Resource{Name: name, Version: version}
		}
		k.wildcard = len(r.GetResourceNamesSubscribe()) == 0 // the older form of "*"
	}
	for _, name := range r.GetResourceNamesSubscribe() {
		if name == catalog.Wildcard {
			k.wildcard = true
			continue
		}
		k.names[name] = true
		delete(k.absent, name)
		if !fresh {
			k.force[name] = true // whoever asks again has forgotten
		}
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		if name == catalog.Wildcard {
			k.wildcard = false
			continue
		}
		delete(k.names, name)
		delete(k.absent, name)
		delete(k.force, name)
		delete(k.has, name) // and is sent again if "*" covers it
	}
	if !k.wildcard {
		for name := range k.has {
			if !k.names[name] {
				delete(k.has, name)
			}
		}
	}
	k.greet = k.greet || fresh && k.wildcard
	return r.GetResponseNonce() != "" && e.answer(k, r.GetResponseNonce(), refusal(r.GetErrorDetail()))
}

// takeState takes a state-of-the-world request, which always names everything that is wanted.
func (e *engine) takeState(r *discoveryv3.DiscoveryRequest) (answered bool) {
	k, fresh := e.kind(r.GetTypeUrl())
	if !fresh && r.GetResponseNonce() != k.last {
		return false // it was sent before the response that is on its way; its successor says all of it again
	}
	names := map[string]bool{}
	star := false
	for _, name := range r.GetResourceNames() {
		if name == catalog.Wildcard {
			star = true
			continue
		}
		names[name] = true
		if !fresh && !k.names[name] {
			k.force[name] = true
		}
	}
	k.wildcard = star || len(names) == 0 && (fresh || k.wildcard)
	k.names = names
	k.greet = k.greet || fresh && k.wildcard
	answered = !fresh && e.answer(k, r.GetResponseNonce(), refusal(r.GetErrorDetail()))
	if !k.wildcard {
		for name := range k.has {
			if !names[name] {
				delete(k.has, name)
			}
		}
	}
	return answered
}
