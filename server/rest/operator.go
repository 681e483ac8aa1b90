// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/server/consul"
)

// Operator is what operators do with the servers themselves.
type Operator interface {
	// RaftServers are the servers of Raft's configuration, and its index.
	RaftServers() ([]api.RaftServer, uint64, error)
	// RemovePeer takes a server out of Raft, by ID or address.
	RemovePeer(id, address string) error
	// TransferLeader has another server lead; "" for any.
	TransferLeader(id string) error
	AutopilotSettings() catalog.AutopilotConfig
	// ClusterHealth is what autopilot knows; nil where it doesn't work.
	ClusterHealth() *api.ClusterHealth
	// OpenSnapshot takes a snapshot; write writes its archive.
	OpenSnapshot() (index uint64, write func(io.Writer) error, err error)
	RestoreSnapshot(ctx context.Context, r io.Reader, discardSealed bool) (*consul.Report, error)
}

// operator are the handlers of operators' routes.
func (h *handlers) operator() map[string]api.Handler {
	return map[string]api.Handler{
		"GET /v1/operator/raft/configuration":      h.raftConfiguration,
		"DELETE /v1/operator/raft/peer":            h.removePeer,
		"POST /v1/operator/raft/transfer-leader":   h.transferLeader,
		"GET /v1/operator/autopilot/configuration": h.autopilotConfig,
		"PUT /v1/operator/autopilot/configuration": h.setAutopilot,
		"GET /v1/operator/autopilot/health":        h.autopilotHealth,
		"GET /v1/operator/autopilot/state":         h.autopilotState,
		"GET /v1/snapshot":                         h.saveSnapshot,
		"PUT /v1/snapshot":                         h.restoreSnapshot,
	}
}

func (h *handlers) raftConfiguration(w http.ResponseWriter, _ *api.Request) error {
	servers, index, err := h.c.Operator.RaftServers()
	if err != nil {
		return err
	}
	return api.WriteJSON(w, map[string]any{"Servers": servers, "Index": index})
}

func (h *handlers) removePeer(_ http.ResponseWriter, r *api.Request) error {
	id, address := r.URL.Query().Get("id"), r.URL.Query().Get("address")
	switch {
	case id == "" && address == "":
		return badRequest("Must specify either ?id with the server's ID or ?address with IP:port of peer to remove")
	case id != "" && address != "":
		return badRequest("Must specify only one of ?id or ?address")
	}
	return h.c.Operator.RemovePeer(id, address)
}

func (h *handlers) transferLeader(w http.ResponseWriter, r *api.Request) error {
	if err := h.c.Operator.TransferLeader(r.URL.Query().Get("id")); err != nil {
		return &api.StatusError{Code: http.StatusNotFound, Text: err.Error(), Err: err}
	}
	return api.WriteJSON(w, map[string]bool{"Success": true})
}

// autopilotView is the configuration in the API's form.
type autopilotView struct {
	CleanupDeadServers      bool
	LastContactThreshold    string
	MaxTrailingLogs         uint64
	MinQuorum               uint64
	ServerStabilizationTime string
	RedundancyZoneTag       string
	DisableUpgradeMigration bool
	UpgradeVersionTag       string
	CreateIndex             uint64
	ModifyIndex             uint64
}

func viewAutopilot(c catalog.AutopilotConfig) autopilotView {
	return autopilotView{
		c.CleanupDeadServers, c.LastContactThreshold.String(), c.MaxTrailingLogs, c.MinQuorum, c.ServerStabilizationTime.String(),
		c.RedundancyZoneTag, c.DisableUpgradeMigration, c.UpgradeVersionTag, c.CreateIndex, c.ModifyIndex,
	}
}

func (h *handlers) autopilotConfig(w http.ResponseWriter, _ *api.Request) error {
	return api.WriteJSON(w, viewAutopilot(h.c.Operator.AutopilotSettings()))
}

// autopilotBody is what can be set; what isn't said is the default, as in Consul.
type autopilotBody struct {
	CleanupDeadServers      bool
	LastContactThreshold    time.Duration
	MaxTrailingLogs         uint64
	MinQuorum               uint64
	ServerStabilizationTime time.Duration
	RedundancyZoneTag       string
	DisableUpgradeMigration bool
	UpgradeVersionTag       string
	CreateIndex             uint64
	ModifyIndex             uint64
}

func (h *handlers) setAutopilot(w http.ResponseWriter, r *api.Request) error {
	d := catalog.DefaultAutopilot()
	b := autopilotBody{
		CleanupDeadServers: d.CleanupDeadServers, LastContactThreshold: d.LastContactThreshold, MaxTrailingLogs: d.MaxTrailingLogs,
		ServerStabilizationTime: d.ServerStabilizationTime,
	}
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	cmd := catalog.SetAutopilot{Config: catalog.AutopilotConfig{
		CleanupDeadServers: b.CleanupDeadServers, LastContactThreshold: b.LastContactThreshold, MaxTrailingLogs: b.MaxTrailingLogs,
		MinQuorum: b.MinQuorum, ServerStabilizationTime: b.ServerStabilizationTime, RedundancyZoneTag: b.RedundancyZoneTag,
		DisableUpgradeMigration: b.DisableUpgradeMigration, UpgradeVersionTag: b.UpgradeVersionTag,
	}}
	if s := r.URL.Query().Get("cas"); s != "" {
		cas, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return badRequest("Error parsing cas value: %q", s)
		}
		cmd.CAS = &cas
	}
	result, err := h.c.Cluster.Propose(r.Context(), cmd)
	if err != nil {
		return err
	}
	return api.WriteJSON(w, result.Value)
}

// errNoAutopilot is the answer of a server that has just begun to lead.
var errNoAutopilot = errors.New("autopilot doesn't know the servers yet: this one has just begun to lead")

func (h *handlers) autopilotHealth(w http.ResponseWriter, _ *api.Request) error {
	type serverHealth struct {
		ID, Name, Address, SerfStatus, Version string
		Leader                                 bool
		LastContact                            string
		LastTerm, LastIndex                    uint64
		Healthy, Voter                         bool
		StableSince                            time.Time
	}
	state := h.c.Operator.ClusterHealth()
	if state == nil {
		return errNoAutopilot
	}
	servers := []serverHealth{}
	for _, s := range state.Servers {
		servers = append(servers, serverHealth{
			s.ID, s.Name, s.Address, s.NodeStatus, s.Version, s.Status == "leader", s.LastContact.String(), s.LastTerm, s.LastIndex, s.Healthy,
			s.Status == "leader" || s.Status == "voter", s.StableSince,
		})
	}
	w.Header().Set("Content-Type", "application/json")
	if !state.Healthy {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	return api.WriteJSON(w, map[string]any{"Healthy": state.Healthy, "FailureTolerance": state.FailureTolerance, "Servers": servers})
}

func (h *handlers) autopilotState(w http.ResponseWriter, _ *api.Request) error {
	type server struct {
		ID, Name, Address, NodeStatus, Version string
		LastContact                            string
		LastTerm, LastIndex                    uint64
		Healthy                                bool
		StableSince                            time.Time
		ReadReplica                            bool
		Status                                 string
		Meta                                   map[string]string
		NodeType                               string
		RedundancyZone                         string `json:",omitempty"`
	}
	type zone struct {
		Servers          []string
		Voters           []string
		FailureTolerance int
	}
	state := h.c.Operator.ClusterHealth()
	if state == nil {
		return errNoAutopilot
	}
	servers, zones, spare := map[string]server{}, map[string]*zone{}, 0
	for _, s := range state.Servers {
		kind := "voter"
		switch {
		case s.NonVoter:
			kind = "read-replica"
		case s.Zone != "" && s.Status == "non-voter":
			kind = "zone-standby"
		}
		servers[s.ID] = server{
			s.ID, s.Name, s.Address, s.NodeStatus, s.Version, s.LastContact.String(), s.LastTerm, s.LastIndex, s.Healthy, s.StableSince,
			s.NonVoter, s.Status, s.Meta, kind, s.Zone,
		}
		if s.Zone == "" {
			continue
		}
		if zones[s.Zone] == nil {
			zones[s.Zone] = &zone{Servers: []string{}, Voters: []string{}, FailureTolerance: -1}
		}
		z := zones[s.Zone]
		z.Servers = append(z.Servers, s.ID)
		if s.Status != "non-voter" {
			z.Voters = append(z.Voters, s.ID)
		}
		if s.Healthy {
			z.FailureTolerance++
		}
	}
	for _, z := range zones {
		z.FailureTolerance = max(0, z.FailureTolerance)
		spare += z.FailureTolerance
	}
	out := map[string]any{
		"Healthy": state.Healthy, "FailureTolerance": state.FailureTolerance, "OptimisticFailureTolerance": state.FailureTolerance + spare,
		"Leader": state.Leader, "Voters": state.Voters, "Servers": servers,
	}
	if len(zones) > 0 {
		out["RedundancyZones"] = zones
	}
	return api.WriteJSON(w, out)
}

func (h *handlers) saveSnapshot(w http.ResponseWriter, r *api.Request) error {
	index, write, err := h.c.Operator.OpenSnapshot()
	if err != nil {
		return err
	}
	api.Meta{Index: index, KnownLeader: true}.Write(w.Header(), r.Options)
	w.Header().Set("Content-Type", "application/x-gzip")
	return write(w) // an error cuts the archive, which so is found damaged
}

// restoreSnapshot restores; of Consul's archives it tells what was taken.
func (h *handlers) restoreSnapshot(w http.ResponseWriter, r *api.Request) error {
	report, err := h.c.Operator.RestoreSnapshot(r.Context(), r.Body, r.URL.Query().Has("discard-sealed"))
	if err != nil || report == nil {
		return err
	}
	return api.WriteJSON(w, report)
}
