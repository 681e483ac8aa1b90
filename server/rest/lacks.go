// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// lacks says what an entry asks for that Envoy doesn't have and does less well; nothing that protects is among it.
func lacks(entry catalog.Entry) []string {
	var out []string
	switch e := entry.(type) {
	case *catalog.ServiceResolver:
		if e.LoadBalancer != nil && e.LoadBalancer.Policy == "peak_ewma" {
			out = append(out, "LoadBalancer.Policy peak_ewma: Envoy doesn't have it and takes least_request")
		}
		if e.PassiveHealthCheck != nil && e.PassiveHealthCheck.Probation {
			out = append(out, "PassiveHealthCheck.Probation: Envoy doesn't have it: who comes back gets its whole share at once")
		}
	case *catalog.ServiceRouter:
		for i, r := range e.Routes {
			if d := r.Destination; d != nil && d.Fault != nil && d.Fault.Abort != nil && d.Fault.Abort.Reset {
				out = append(out, fmt.Sprintf("Routes[%d].Destination.Fault.Abort.Reset: Envoy can't reset a caller and answers 503", i))
			}
		}
	}
	return out
}

// warnLacks warns of what connected Envoys won't do.
func (h *handlers) warnLacks(entry catalog.Entry) []string {
	missing := lacks(entry)
	if len(missing) == 0 || h.c.Proxies == nil {
		return nil
	}
	envoys := h.c.Proxies.Envoys()
	if len(envoys) == 0 {
		return nil
	}
	who := strings.Join(envoys[:min(len(envoys), 3)], ", ")
	if len(envoys) > 3 {
		who += fmt.Sprintf(" and %d more", len(envoys)-3)
	}
	for i := range missing {
		missing[i] += "; connected Envoys: " + who
	}
	return missing
}
