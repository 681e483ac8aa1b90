// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/agent/join"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/internal/seal"
)

// gossiping is this node's part in gossip.
type gossiping struct {
	lan, wan *gossip.Pool // wan is nil where this node isn't in it
	joins    []*join.Joiner
	log      *slog.Logger
}

// gossipConfig is what newGossip needs besides the settings.
type gossipConfig struct {
	settings config.Config // with node name and ID
	address  string        // that others reach this node by
	door     *listen.Door
	metrics  prometheus.Registerer
	outer    *seal.Outer // seals the keyrings; nil: they are in clear
	onEvent  func(gossip.UserEvent)
	log      *slog.Logger
}

// newGossip makes the pools of this node and what joins them. It reads the keyrings.
func newGossip(c gossipConfig) (*gossiping, error) {
	g := &gossiping{log: c.log}
	s := &c.settings
	self := gossip.Self{
		Name: s.NodeName, ID: s.NodeID, Datacenter: s.Datacenter, Build: Version, Server: s.Server, GRPCPort: max(s.Ports.GRPC, 0),
		ReconnectTimeout: s.AdvertiseReconnectTimeout,
	}
	if s.Server {
		self.ReadReplica = s.NeverVotes()
		self.ServerPort, self.Expect, self.Bootstrap = s.Ports.Server, s.Expects(), s.Bootstrap || s.Dev
		self.WANPort = max(s.Ports.SerfWAN, 0)
	}
	lan := side{
		bind: s.SerfLAN, port: s.Ports.SerfLAN, advertise: c.address, allowed: s.SerfLANAllowedCIDRs, file: "local", tuning: s.GossipLAN,
		reconnect: s.ReconnectTimeout,
	}
	var err error
	if g.lan, err = newPool(&c, self, lan, false); err != nil {
		return nil, err
	}
	if s.Server && s.Ports.SerfWAN > 0 {
		wan := side{
			bind: s.SerfWAN, port: s.Ports.SerfWAN, advertise: s.AdvertiseAddrWAN, allowed: s.SerfWANAllowedCIDRs, file: "remote",
			tuning: s.GossipWAN, reconnect: s.ReconnectTimeoutWAN,
		}
		if wan.advertise == "" {
			wan.advertise = c.address
		}
		if g.wan, err = newPool(&c, self, wan, true); err != nil {
			return nil, err
		}
	}
	for _, j := range []join.Config{
		{Pool: "lan", Addresses: s.Joins(false), Interval: s.RetryInterval, Max: s.RetryMax, Join: g.lan.Join},
		{Pool: "wan", Addresses: s.Joins(true), Interval: s.RetryIntervalWAN, Max: s.RetryMaxWAN},
	} {
		if len(j.Addresses) == 0 {
			continue
		}
		if j.Join == nil {
			if g.wan == nil {
				return nil, errors.New("retry_join_wan: this server isn't in the WAN: set ports.serf_wan")
			}
			j.Join = g.wan.Join
		}
		j.Log, j.Getenv = c.log.With("part", "join"), os.Getenv
		joiner, err := join.New(j)
		if err != nil {
			return nil, err
		}
		g.joins = append(g.joins, joiner)
	}
	return g, nil
}

// side is what differs between the settings of the LAN and those of the WAN.
type side struct {
	bind, advertise string
	port            int
	allowed         []netip.Prefix
	file            string // of keyring and snapshot
	tuning          config.GossipTuning
	reconnect       time.Duration
}

func newPool(c *gossipConfig, self gossip.Self, side side, wan bool) (*gossip.Pool, error) {
	s := &c.settings
	if side.bind == "" {
		side.bind = s.BindAddr
	}
	bind, err := netip.ParseAddr(side.bind)
	if err != nil {
		return nil, err
	}
	advertise, err := netip.ParseAddr(side.advertise)
	if err != nil {
		return nil, err
	}
	p := gossip.Config{
		WAN: wan, Self: self, Bind: netip.AddrPortFrom(bind, uint16(side.port)), Advertise: netip.AddrPortFrom(advertise, uint16(side.port)),
		AnyPort: bind.IsLoopback(), Allowed: side.allowed, Network: gossip.Sockets(c.door),
		AcceptPlain: s.EncryptVerifyIncoming != nil && !*s.EncryptVerifyIncoming,
		SendPlain:   s.EncryptVerifyOutgoing != nil && !*s.EncryptVerifyOutgoing,
		Tuning:      gossip.Tuning(side.tuning), ReconnectTimeout: side.reconnect, DisableCoordinates: s.DisableCoordinates,
		RejoinAfterLeave: s.RejoinAfterLeave, Metrics: c.metrics, Log: c.log.With("part", "gossip"),
	}
	if !wan {
		p.OnEvent = c.onEvent
	}
	if s.DataDir != "" {
		p.SnapshotFile = filepath.Join(s.DataDir, "serf", side.file+".snapshot")
		p.KeyringFile, p.Seal = keyringFile(s, side.file), c.outer
	}
	if p.Keys, err = gossipKeys(s, p.KeyringFile, c.outer, c.log); err != nil {
		return nil, err
	}
	return gossip.New(p)
}

// keyringFile is where the keys of a pool are kept, "" for nowhere.
func keyringFile(s *config.Config, name string) string {
	if s.DataDir == "" || s.DisableKeyringFile {
		return ""
	}
	return filepath.Join(s.DataDir, "serf", name+".keyring")
}

// gossipKeys are the keyring's, where there is one: keys were changed over the cluster since the configuration was written.
// Else it is the configuration's key, and the keyring begins with that.
func gossipKeys(s *config.Config, file string, outer *seal.Outer, log *slog.Logger) ([][]byte, error) {
	own, err := s.GossipKey()
	if err != nil {
		return nil, err
	}
	if file != "" {
		keys, err := gossip.ReadKeyring(file, outer)
		if err != nil {
			return nil, err
		}
		if len(keys) > 0 {
			if own != nil && !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, own) }) {
				log.Warn("encrypt isn't in the keyring, whose keys hold: change the configuration, or remove the keyring", "keyring", file)
			}
			return keys, nil
		}
	}
	if own == nil {
		return nil, nil
	}
	if file != "" {
		if err := gossip.WriteKeyring(file, [][]byte{own}, outer); err != nil {
			return nil, err
		}
	}
	return [][]byte{own}, nil
}

// run starts the pools, and then what joins them.
func (g *gossiping) run(group *run.Group) {
	group.GoOrdered("gossip (lan)", g.lan.Run)
	if g.wan != nil {
		group.GoOrdered("gossip (wan)", g.wan.Run)
	}
	begun := func(f func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			for _, p := range g.pools() {
				select {
				case <-p.Ready():
				case <-ctx.Done():
					return nil
				}
			}
			return f(ctx)
		}
	}
	for _, j := range g.joins {
		group.Go("join", begun(j.Run))
	}
	if g.wan != nil {
		group.Go("flood", begun(func(ctx context.Context) error { return gossip.Flood(ctx, g.lan, g.wan) }))
	}
}

func (g *gossiping) pools() []*gossip.Pool {
	if g.wan == nil {
		return []*gossip.Pool{g.lan}
	}
	return []*gossip.Pool{g.lan, g.wan}
}

// leaveTimeout bounds a leave; after it the agent ends all the same.
const leaveTimeout = 15 * time.Second

// leave tells both pools that this node goes.
func (g *gossiping) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	group := run.New(ctx)
	for _, p := range g.pools() {
		group.Go("leave", func(ctx context.Context) error {
			if err := p.Leave(ctx); err != nil && !errors.Is(err, gossip.ErrNotRunning) {
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}
