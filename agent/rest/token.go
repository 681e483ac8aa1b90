// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"

	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/internal/api"
)

// tokenKinds are the names that Consul's clients have for the agent's own tokens, with the older ones.
var tokenKinds = map[string]tokens.Kind{
	"default": tokens.Default, "acl_token": tokens.Default, "agent": tokens.Agent, "acl_agent_token": tokens.Agent,
	"agent_recovery": tokens.Recovery, "agent_master": tokens.Recovery, "acl_agent_master_token": tokens.Recovery,
	"replication": tokens.Replication, "acl_replication_token": tokens.Replication, "dns": tokens.DNS,
	"config_file_service_registration": tokens.ConfigFile,
}

// setToken changes one of the agent's own tokens.
func (h *handlers) setToken(w http.ResponseWriter, r *api.Request) error {
	if err := r.Authorize(h.c.Node); err != nil {
		return err
	}
	kind, ok := tokenKinds[r.PathValue("name")]
	if !ok {
		return &api.StatusError{Code: http.StatusNotFound, Text: "Token \"" + r.PathValue("name") + "\" is unknown"}
	}
	var body struct{ Token string }
	if err := api.ReadJSON(r, &body); err != nil {
		return err
	}
	return h.c.SetToken(kind, body.Token)
}
