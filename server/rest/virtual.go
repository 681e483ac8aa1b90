// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// assignVirtualIPs gives a service further virtual addresses, and says which others lost them.
func (h *handlers) assignVirtualIPs(w http.ResponseWriter, r *api.Request) error {
	var b struct {
		Service    string
		ManualVIPs []string
	}
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if b.Service == "" {
		return badRequest("Missing service name")
	}
	result, err := h.c.Cluster.Propose(r.Context(), catalog.AssignVirtualIPs{Service: r.Options.Scope.Name(b.Service), Manual: b.ManualVIPs})
	if err != nil {
		return err
	}
	type serviceName struct {
		ServiceName struct{ Name, Namespace, Partition string }
		Peer        string
	}
	done := result.Value.(catalog.VirtualIPsResult)
	out := struct {
		Found          bool
		UnassignedFrom []serviceName
	}{done.Found, []serviceName{}}
	for _, k := range done.From {
		n := serviceName{Peer: k.Peer}
		n.ServiceName.Name, n.ServiceName.Namespace, n.ServiceName.Partition = k.Name, k.Namespace, k.Partition
		out.UnassignedFrom = append(out.UnassignedFrom, n)
	}
	return api.WriteJSON(w, out)
}
