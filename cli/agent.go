// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/internal/decode"
	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/uuid"
	"github.com/weftmesh/weft/server"
	"github.com/weftmesh/weft/server/verify"
)

func agentCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "agent", Usage: "run the agent of this host", Flags: agentFlags(),
		Action: func(c *ucli.Context) error {
			settings, warnings, err := settingsOf(c)
			if err != nil {
				return err
			}
			return runAgent(c.Context, env, settings, warnings, func() (config.Config, []string, error) { return settingsOf(c) },
				c.StringSlice("config-file"))
		},
	}
}

func validateCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "validate", Usage: "check configuration files and folders", ArgsUsage: "FILE|FOLDER …",
		Flags: []ucli.Flag{
			&ucli.BoolFlag{Name: "quiet", Usage: "print nothing when all is well"},
			&ucli.StringFlag{Name: "config-format", Usage: "hcl, json or yaml, whatever the files' names end in"},
		},
		Action: func(c *ucli.Context) error {
			if !c.Args().Present() {
				return usage("name at least one file or folder")
			}
			settings := config.Default()
			warnings, err := settings.LoadAs(c.String("config-format"), c.Args().Slice()...)
			if err == nil {
				err = settings.ExpandAddresses()
			}
			if err == nil {
				err = settings.Validate()
			}
			if err != nil {
				return fmt.Errorf("Config validation failed: %w", err) //nolint:staticcheck // Consul's text
			}
			for _, w := range warnings {
				fmt.Fprintln(env.Stderr, "Warning: "+w)
			}
			if !c.Bool("quiet") {
				fmt.Fprintln(env.Stdout, "Configuration is valid!")
			}
			return nil
		},
	}
}

// newServer makes the server of this node. One that runs with -dev is alone.
func (n *node) newServer() (*server.Server, error) {
	s, log := n.s, n.log
	entries, err := bootstrapEntries(s)
	if err != nil {
		return nil, err
	}
	authority, err := s.Connect.Authority()
	if err != nil {
		return nil, err
	}
	if authority.LeafCertTTL < time.Hour {
		log.Warn("configuration", "warning", "connect.ca_config.leaf_cert_ttl is below an hour: fine to watch renewals, not to run a mesh on")
	}
	c := server.Config{
		LAN: n.gossip.lan, WAN: n.gossip.wan, DataDir: s.DataDir, Datacenter: s.Datacenter, NodeName: s.NodeName, NodeID: s.NodeID,
		Address: n.serverAddress(), Version: Version, FromServer: n.fromServer, Meta: s.NodeMeta,
		CA: authority,
		Closure: func(t *catalog.Txn, p *catalog.Service) error {
			_, err := xds.Gather(t, p, s.IntentionsAllow())
			return err
		},
		Render:       renderForVerify,
		DefaultAllow: s.IntentionsAllow(), Entries: entries, Rand: rand.Reader, Pretty: s.Dev,
		ACL: server.ACLConfig{
			Enabled: s.ACL.Enabled, Allow: s.ACL.DefaultPolicy != "deny", KeyList: s.ACL.EnableKeyListPolicy, DownPolicy: s.ACL.DownPolicy,
			InitialManagement: s.ACL.Tokens.Initial(),
		},
		MaxValue: int64(s.Limits.KVMaxValueSize), MaxTransaction: int64(s.Limits.TxnMaxReqLen), SessionTTLMin: s.SessionTTLMin,
		DefaultWait: s.DefaultQueryTime, MaxWait: s.MaxQueryTime,
		Log: log,
	}
	c.DialWAN = func(ctx context.Context, address, datacenter, protocol string) (net.Conn, error) {
		return n.plane.Dial(ctx, address, datacenter, protocol)
	}
	c.Primary = s.Primary()
	c.Replication = func() string { return n.tokens.Own(tokens.Replication) }
	if c.Join, err = n.joinConfig(); err != nil {
		return nil, err
	}
	c.NoPeering = s.Peering.Enabled != nil && !*s.Peering.Enabled
	c.Audit, c.Requests, c.SealedBy = n.audit, &n.requests, n.outer
	c.Tuning = server.Tuning{
		Multiplier: s.Performance.RaftMultiplier, SnapshotThreshold: uint64(s.RaftSnapshotThreshold), SnapshotInterval: s.RaftSnapshotInterval,
		TrailingLogs: uint64(s.RaftTrailingLogs), NoPreVote: s.RaftPrevoteDisabled,
		SegmentSize: s.RaftLogstore.WAL.SegmentSizeMB << 20,
	}
	c.Hold, c.Autopilot = s.Performance.RPCHoldTimeout, initialAutopilot(s.Autopilot)
	c.Snapshots = server.Snapshots{Interval: s.Snapshots.Interval, Retain: cmp.Or(s.Snapshots.Retain, keptSnapshots), Dir: s.Snapshots.Path}
	if c.Snapshots.Dir == "" {
		c.Snapshots.Dir = filepath.Join(s.DataDir, "snapshots")
	}
	c.Members, c.Alone = lanMembers{n.gossip.lan}, s.Dev
	if !s.Dev {
		c.Expect, c.Streams = s.Expects(), n.demux.Listener(plane.Raft)
		c.Reads = n.demux.Listener(plane.Reads)
		c.Dial = func(ctx context.Context, address, protocol string) (net.Conn, error) {
			return n.plane.Dial(ctx, address, "", protocol)
		}
	}
	return server.New(c)
}

// keptSnapshots is how many snapshots are kept where nothing is said.
const keptSnapshots = 30

// initialAutopilot is the configuration's autopilot over the defaults.
func initialAutopilot(a config.Autopilot) catalog.AutopilotConfig {
	c := catalog.DefaultAutopilot()
	if a.CleanupDeadServers != nil {
		c.CleanupDeadServers = *a.CleanupDeadServers
	}
	c.LastContactThreshold = cmp.Or(a.LastContactThreshold, c.LastContactThreshold)
	c.MaxTrailingLogs = cmp.Or(uint64(a.MaxTrailingLogs), c.MaxTrailingLogs)
	c.MinQuorum = uint64(a.MinQuorum)
	c.ServerStabilizationTime = cmp.Or(a.ServerStabilizationTime, c.ServerStabilizationTime)
	c.RedundancyZoneTag, c.UpgradeVersionTag, c.DisableUpgradeMigration = a.RedundancyZoneTag, a.UpgradeVersionTag, a.DisableUpgradeMigration
	return c
}

// renderForVerify says what a proxy should have, but for its certificate.
func renderForVerify(t *catalog.Txn, p *catalog.Service, about verify.About) (verify.Rendering, error) {
	out, err := xds.Render(xds.Input{
		Txn: t, Proxy: p, Leafless: true, NodeAddress: about.NodeAddress, DefaultAllow: about.DefaultAllow, Now: about.Now,
		Abilities: xds.Abilities{Weft: about.Weft, Version: about.Version},
	})
	if err != nil {
		return verify.Rendering{}, err
	}
	return verify.Rendering{ConfigHash: out.ConfigHash, TypeHashes: out.TypeHashes}, nil
}

// bootstrapEntries are the config entries of the configuration.
func bootstrapEntries(s config.Config) ([]catalog.Entry, error) {
	var out []catalog.Entry
	for i, raw := range s.ConfigEntries.Bootstrap {
		at := fmt.Sprintf("config_entries.bootstrap[%d]", i)
		kind, _ := raw["kind"].(string)
		if kind == "" {
			kind, _ = raw["Kind"].(string)
		}
		e, err := catalog.NewEntry(kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		doc := &decode.Document{File: at, Root: decode.FromAny(raw)}
		doc.Root.Remove("kind")
		if err := doc.Into(e); err != nil {
			return nil, err
		}
		e.Head().Scope = e.Head().Scope.Default(s.Datacenter)
		e.Normalize()
		if err := e.Validate(); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// nodeID is this node's UUID: given, or made once and kept in data_dir.
func nodeID(s *config.Config) (string, error) {
	if s.NodeID != "" {
		return s.NodeID, nil
	}
	path := filepath.Join(s.DataDir, "node-id")
	if s.DataDir != "" {
		if data, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(data)), nil
		}
	}
	id, err := uuid.New(rand.Reader)
	if err != nil {
		return "", err
	}
	if s.DataDir == "" {
		return id, nil
	}
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return "", err
	}
	return id, os.WriteFile(path, []byte(id+"\n"), 0o600)
}

// privateAddress is this machine's one private address; where there are several, it has to be said which.
func privateAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	var found []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsPrivate() {
			found = append(found, n.IP.String())
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "127.0.0.1", nil
	}
	return "", fmt.Errorf("this machine has several private addresses (%s): say which others reach it by, with advertise_addr or -advertise",
		strings.Join(found, ", "))
}

// startHostProxy starts a host proxy from the agent's own binary, in a session of its own, so that it outlives the agent.
func startHostProxy(s config.Config) func(context.Context, string) error {
	return func(_ context.Context, socket string) error {
		binary := s.Proxy.Binary
		if binary == "" {
			var err error
			if binary, err = os.Executable(); err != nil {
				return err
			}
		}
		logPath := strings.TrimSuffix(socket, ".sock") + ".log"
		log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer log.Close()
		cmd := exec.Command(binary, "connect", "proxy", "-shared", "-socket", socket)
		cmd.Stdout, cmd.Stderr = log, log
		// To the service manager it would be the agent.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "NOTIFY_SOCKET=") })
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start the host proxy: %w", err)
		}
		go func() { _ = cmd.Wait() }() // reaps it, should it end before the agent
		return nil
	}
}

func newLog(w io.Writer, level string, json bool) (*slog.Logger, error) {
	l, err := logs.ParseLevel(level)
	if err != nil {
		return nil, err
	}
	return logs.New(logs.Config{Writer: w, Level: l, JSON: json})
}
