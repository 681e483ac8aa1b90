// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/server"
)

func operatorCommand(env Env) *ucli.Command {
	return group("operator", "look after the servers",
		group("raft", "which servers replicate, and who leads",
			&ucli.Command{Name: "list-peers", Usage: "list the servers of raft's configuration", Flags: clientFlags(formatFlag()), Action: func(c *ucli.Context) error { return listPeers(c, env) }},
			&ucli.Command{
				Name: "remove-peer", Usage: "take a server out of raft that won't come back",
				Flags:  clientFlags(&ucli.StringFlag{Name: "id", Usage: "the server's node ID"}, &ucli.StringFlag{Name: "address", Usage: "or its address, as 10.0.0.1:8300"}),
				Action: func(c *ucli.Context) error { return removePeer(c, env) },
			},
			&ucli.Command{
				Name: "transfer-leader", Usage: "have another server lead",
				Flags:  clientFlags(&ucli.StringFlag{Name: "id", Usage: "the node ID of the server that shall lead, by default any"}),
				Action: func(c *ucli.Context) error { return transferLeader(c, env) },
			},
			&ucli.Command{
				Name: "recover", Usage: "make a cluster of this one stopped server, where the majority is lost for good, and say what was lost",
				Flags: []ucli.Flag{
					&ucli.StringFlag{Name: "data-dir", Usage: "the server's data_dir", Required: true},
					&ucli.StringFlag{Name: "datacenter", Value: "dc1", Usage: "its datacenter"},
					&ucli.StringFlag{Name: "address", Usage: "where it is reached, as 10.0.0.1:8300, by default as before"},
				},
				Action: func(c *ucli.Context) error { return recoverRaft(c, env) },
			},
		),
		sealCommands(env),
		group("autopilot", "how servers are taken in and given up",
			&ucli.Command{Name: "get-config", Usage: "print the configuration", Flags: clientFlags(), Action: func(c *ucli.Context) error { return autopilotConfig(c, env) }},
			&ucli.Command{Name: "set-config", Usage: "change what the flags name", Flags: clientFlags(autopilotFlags()...), Action: func(c *ucli.Context) error { return setAutopilot(c, env) }},
			&ucli.Command{Name: "state", Usage: "print how the servers are", Flags: clientFlags(formatFlag()), Action: func(c *ucli.Context) error { return autopilotState(c, env) }},
		),
		group("usage", "how much there is", usageCommand(env)),
	)
}

func listPeers(c *ucli.Context, env Env) error {
	json, err := asJSON(c)
	if err != nil {
		return err
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var answer struct{ Servers []api.RaftServer }
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/operator/raft/configuration", nil, nil, &answer); err != nil {
		return fmt.Errorf("Error getting peers: %w", err) //nolint:staticcheck // Consul's text
	}
	if json {
		return printJSON(env.Stdout, answer.Servers)
	}
	leader := uint64(0)
	for _, s := range answer.Servers {
		if s.Leader {
			leader = s.LastIndex
		}
	}
	var rows [][]string
	for _, s := range answer.Servers {
		state, trails := "follower", "-"
		switch {
		case s.Leader:
			state = "leader"
		case leader > 0 && s.LastIndex > 0:
			trails = fmt.Sprintf("%d commits", max(leader, s.LastIndex)-s.LastIndex)
		}
		rows = append(rows, []string{
			s.Node, s.ID, s.Address, state, strconv.FormatBool(s.Voter), s.ProtocolVersion, strconv.FormatUint(s.LastIndex, 10), trails,
		})
	}
	return table(env.Stdout, []string{"Node", "ID", "Address", "State", "Voter", "RaftProtocol", "Commit Index", "Trails Leader By"}, rows)
}

func removePeer(c *ucli.Context, env Env) error {
	id, address := c.String("id"), c.String("address")
	if (id == "") == (address == "") {
		return usage("an address or id is required for the peer to remove: give one of -id and -address")
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	q, what := url.Values{"id": {id}}, "id"
	if address != "" {
		q, what = url.Values{"address": {address}}, "address"
	}
	if _, err := cl.Do(c.Context, http.MethodDelete, "/v1/operator/raft/peer", q, nil, nil); err != nil {
		return fmt.Errorf("Error removing peer: %w", err) //nolint:staticcheck // Consul's text
	}
	fmt.Fprintf(env.Stdout, "Removed peer with %s %q\n", what, id+address)
	return nil
}

func transferLeader(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	q := url.Values{}
	if id := c.String("id"); id != "" {
		q.Set("id", id)
	}
	if _, err := cl.Do(c.Context, http.MethodPost, "/v1/operator/raft/transfer-leader", q, nil, nil); err != nil {
		return fmt.Errorf("Error transfering leadership: %w", err) //nolint:staticcheck // Consul's text
	}
	fmt.Fprintln(env.Stdout, "Success")
	return nil
}

func recoverRaft(c *ucli.Context, env Env) error {
	dir := c.String("data-dir")
	id, err := os.ReadFile(filepath.Join(dir, "node-id"))
	if err != nil {
		return fmt.Errorf("this isn't an agent's data_dir: %w", err)
	}
	log, err := newLog(env.Stderr, "error", false)
	if err != nil {
		return err
	}
	r, err := server.Recover(server.Recovery{
		DataDir: dir, Datacenter: c.String("datacenter"), NodeID: strings.TrimSpace(string(id)), Address: c.String("address"), Log: log,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, "This server is a cluster of one now. The cluster had %d servers:\n", len(r.Before))
	for _, s := range r.Before {
		fmt.Fprintln(env.Stdout, "  "+s)
	}
	at := "at an unknown time"
	if !r.LastAt.IsZero() {
		at = "which the leader took in at " + r.LastAt.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(env.Stdout, "Lost: everything that was agreed on after entry %d, %s, and that only the others had.\n", r.LastIndex, at)
	fmt.Fprintf(env.Stdout, "Taken as agreed: this server's last %d entries, of which it doesn't know that all were.\n", r.Unsure)
	fmt.Fprintf(env.Stdout, "Left: %d nodes, %d services, %d config entries, %d keys.\n", r.Nodes, r.Services, r.Entries, r.Keys)
	fmt.Fprintln(env.Stdout, "Start it; then start new servers with empty data_dirs that join it. The others' old data must not come back.")
	return nil
}

type autopilotSettings struct {
	CleanupDeadServers      bool
	LastContactThreshold    string
	MaxTrailingLogs         uint64
	MinQuorum               uint64
	ServerStabilizationTime string
	RedundancyZoneTag       string
	DisableUpgradeMigration bool
	UpgradeVersionTag       string
	ModifyIndex             uint64 `json:",omitempty"`
}

const autopilotPath = "/v1/operator/autopilot/configuration"

func autopilotConfig(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var s autopilotSettings
	if _, err := cl.Do(c.Context, http.MethodGet, autopilotPath, nil, nil, &s); err != nil {
		return fmt.Errorf("Error querying Autopilot configuration: %w", err) //nolint:staticcheck // Consul's text
	}
	_, err = fmt.Fprintf(env.Stdout, `CleanupDeadServers = %v
LastContactThreshold = %v
MaxTrailingLogs = %v
MinQuorum = %v
ServerStabilizationTime = %v
RedundancyZoneTag = %q
DisableUpgradeMigration = %v
UpgradeVersionTag = %q
`, s.CleanupDeadServers, s.LastContactThreshold, s.MaxTrailingLogs, s.MinQuorum, s.ServerStabilizationTime, s.RedundancyZoneTag,
		s.DisableUpgradeMigration, s.UpgradeVersionTag)
	return err
}

func autopilotFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.BoolFlag{Name: "cleanup-dead-servers", Usage: "give failed servers up when another one comes (-cleanup-dead-servers=false: don't)"},
		&ucli.DurationFlag{Name: "last-contact-threshold", Usage: "how long a healthy server may hear nothing from the leader"},
		&ucli.Uint64Flag{Name: "max-trailing-logs", Usage: "how many entries a healthy server may lack"},
		&ucli.Uint64Flag{Name: "min-quorum", Usage: "below so many servers none is given up"},
		&ucli.DurationFlag{Name: "server-stabilization-time", Usage: "how long a new server has to be healthy before it votes"},
		&ucli.StringFlag{Name: "redundancy-zone-tag", Usage: "node_meta key of a server's zone: one of each zone votes"},
		&ucli.StringFlag{Name: "upgrade-version-tag", Usage: "node_meta key of a server's version: as many of a newer one take the place of those that vote"},
		&ucli.BoolFlag{Name: "disable-upgrade-migration", Usage: "don't have servers of a newer version take the place of older ones"},
	}
}

func setAutopilot(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var s autopilotSettings
	if _, err := cl.Do(c.Context, http.MethodGet, autopilotPath, nil, nil, &s); err != nil {
		return fmt.Errorf("Error querying Autopilot configuration: %w", err) //nolint:staticcheck // Consul's text
	}
	for name, set := range map[string]func(){
		"cleanup-dead-servers":      func() { s.CleanupDeadServers = c.Bool("cleanup-dead-servers") },
		"last-contact-threshold":    func() { s.LastContactThreshold = c.Duration("last-contact-threshold").String() },
		"max-trailing-logs":         func() { s.MaxTrailingLogs = c.Uint64("max-trailing-logs") },
		"min-quorum":                func() { s.MinQuorum = c.Uint64("min-quorum") },
		"server-stabilization-time": func() { s.ServerStabilizationTime = c.Duration("server-stabilization-time").String() },
		"redundancy-zone-tag":       func() { s.RedundancyZoneTag = c.String("redundancy-zone-tag") },
		"upgrade-version-tag":       func() { s.UpgradeVersionTag = c.String("upgrade-version-tag") },
		"disable-upgrade-migration": func() { s.DisableUpgradeMigration = c.Bool("disable-upgrade-migration") },
	} {
		if c.IsSet(name) {
			set()
		}
	}
	var ok bool
	q := url.Values{"cas": {strconv.FormatUint(s.ModifyIndex, 10)}}
	if _, err := cl.Do(c.Context, http.MethodPut, autopilotPath, q, s, &ok); err != nil {
		return fmt.Errorf("Error setting Autopilot configuration: %w", err) //nolint:staticcheck // Consul's text
	}
	if !ok {
		return usage("Configuration could not be atomically updated, please try again")
	}
	fmt.Fprintln(env.Stdout, "Configuration updated!")
	return nil
}

func autopilotState(c *ucli.Context, env Env) error {
	json, err := asJSON(c)
	if err != nil {
		return err
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var state struct {
		Healthy                                      bool
		FailureTolerance, OptimisticFailureTolerance int
		Leader                                       string
		Voters                                       []string
		Servers                                      map[string]struct {
			ID, Name, Address, NodeStatus, Version, LastContact string
			LastTerm, LastIndex                                 uint64
			Healthy                                             bool
			StableSince                                         time.Time
			Status, NodeType, RedundancyZone                    string
		}
	}
	var raw []byte
	into := any(&state)
	if json {
		into = &raw
	}
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/operator/autopilot/state", nil, nil, into); err != nil {
		return fmt.Errorf("Error querying Autopilot state: %w", err) //nolint:staticcheck // Consul's text
	}
	if json {
		return printRaw(env.Stdout, raw)
	}
	fmt.Fprintf(env.Stdout, "Healthy:                      %v\nFailure Tolerance:            %d\nOptimistic Failure Tolerance: %d\nLeader:                       %s\nVoters:\n",
		state.Healthy, state.FailureTolerance, state.OptimisticFailureTolerance, state.Leader)
	for _, id := range state.Voters {
		fmt.Fprintln(env.Stdout, "   "+id)
	}
	fmt.Fprintln(env.Stdout, "Servers:")
	ids := make([]string, 0, len(state.Servers))
	for id := range state.Servers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		s := state.Servers[id]
		fmt.Fprintf(env.Stdout, "   %s\n      Name:            %s\n      Address:         %s\n      Version:         %s\n      Status:          %s\n      Node Type:       %s\n",
			id, s.Name, s.Address, s.Version, s.Status, s.NodeType)
		if s.RedundancyZone != "" {
			fmt.Fprintf(env.Stdout, "      Zone:            %s\n", s.RedundancyZone)
		}
		fmt.Fprintf(env.Stdout, "      Node Status:     %s\n      Healthy:         %v\n      Last Contact:    %s\n      Last Term:       %d\n      Last Index:      %d\n",
			s.NodeStatus, s.Healthy, s.LastContact, s.LastTerm, s.LastIndex)
	}
	return nil
}
