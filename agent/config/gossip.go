// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/go-sockaddr/template"
)

// Gossip is how this node finds the others and stays in touch with them.
type Gossip struct {
	// AdvertiseAddrWAN is the address that servers of other datacenters reach this one by; "" is AdvertiseAddr.
	AdvertiseAddrWAN string
	// SerfLAN and SerfWAN are where gossip is bound; "" is BindAddr.
	SerfLAN, SerfWAN string
	// Networks, as 10.0.0.0/8, that members may be in; none is all.
	SerfLANAllowedCIDRs, SerfWANAllowedCIDRs []netip.Prefix

	// RetryJoin are addresses to join, tried every RetryInterval, RetryMax times (0: for ever); also "exec=command" and
	// "provider=aws …". StartJoin is an older name of it.
	RetryJoin, RetryJoinWAN         []string
	StartJoin, StartJoinWAN         []string
	RetryInterval, RetryIntervalWAN time.Duration
	RetryMax, RetryMaxWAN           int

	// RejoinAfterLeave joins what was known before also after this node had left.
	RejoinAfterLeave bool
	// LeaveOnTerminate leaves at SIGTERM, by default where there is no server; SkipLeaveOnInterrupt doesn't at SIGINT, by
	// default where there is one.
	LeaveOnTerminate, SkipLeaveOnInterrupt *bool

	// ReconnectTimeout and ReconnectTimeoutWAN are how long a failed member is remembered; AdvertiseReconnectTimeout is how
	// long this node, a client, asks others to remember it.
	ReconnectTimeout, ReconnectTimeoutWAN, AdvertiseReconnectTimeout time.Duration

	// Encrypt is the gossip key, in base64; without files in TLS it is also what nodes know each other by.
	Encrypt                                      string
	EncryptVerifyIncoming, EncryptVerifyOutgoing *bool
	// DisableKeyringFile keeps no keys on disk: they come from Encrypt alone.
	DisableKeyringFile bool

	GossipLAN, GossipWAN GossipTuning
	// DisableCoordinates keeps no network coordinates.
	DisableCoordinates bool
}

// GossipTuning is the protocol's timing; 0 is the default.
type GossipTuning struct {
	GossipInterval time.Duration
	GossipNodes    int
	ProbeInterval  time.Duration
	ProbeTimeout   time.Duration
	SuspicionMult  int
	RetransmitMult int
}

// Joins are all addresses to join in the LAN or the WAN.
func (g *Gossip) Joins(wan bool) []string {
	if wan {
		return append(append([]string(nil), g.StartJoinWAN...), g.RetryJoinWAN...)
	}
	return append(append([]string(nil), g.StartJoin...), g.RetryJoin...)
}

// LeaveOn says whether the agent leaves before it ends at SIGTERM, and at SIGINT.
func (c *Config) LeaveOn() (terminate, interrupt bool) {
	terminate, interrupt = !c.Server, !c.Server
	if c.LeaveOnTerminate != nil {
		terminate = *c.LeaveOnTerminate
	}
	if c.SkipLeaveOnInterrupt != nil {
		interrupt = !*c.SkipLeaveOnInterrupt
	}
	return terminate, interrupt
}

// Expects is how many servers found the cluster: bootstrap_expect. A server that is told neither that nor whom to join is a
// cluster of one; one that is told only whom to join, 0, waits to be taken in.
func (c *Config) Expects() int {
	switch {
	case c.BootstrapExpect > 0:
		return c.BootstrapExpect
	case c.Bootstrap, len(c.Joins(false)) == 0:
		return 1
	}
	return 0
}

// GossipKey is the cluster's secret, nil for none.
func (c *Config) GossipKey() ([]byte, error) {
	if c.Encrypt == "" {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(c.Encrypt)
	if err != nil {
		return nil, fmt.Errorf("encrypt: it isn't base64: %w; \"weft keygen\" makes a key", err)
	}
	switch len(key) {
	case 16, 24, 32:
		return key, nil
	}
	return nil, fmt.Errorf("encrypt: the key has %d bytes, want 16, 24 or 32; \"weft keygen\" makes one", len(key))
}

func (c *Config) validateGossip(fault func(format string, args ...any)) {
	if _, err := c.GossipKey(); err != nil {
		fault("%w", err)
	}
	for _, d := range []struct {
		key string
		d   time.Duration
	}{
		{"retry_interval", c.RetryInterval},
		{"retry_interval_wan", c.RetryIntervalWAN},
		{"reconnect_timeout", c.ReconnectTimeout},
		{"reconnect_timeout_wan", c.ReconnectTimeoutWAN},
		{"advertise_reconnect_timeout", c.AdvertiseReconnectTimeout},
		{"gossip_lan.gossip_interval", c.GossipLAN.GossipInterval},
		{"gossip_lan.probe_interval", c.GossipLAN.ProbeInterval},
		{"gossip_lan.probe_timeout", c.GossipLAN.ProbeTimeout},
		{"gossip_wan.gossip_interval", c.GossipWAN.GossipInterval},
		{"gossip_wan.probe_interval", c.GossipWAN.ProbeInterval},
		{"gossip_wan.probe_timeout", c.GossipWAN.ProbeTimeout},
	} {
		if d.d < 0 {
			fault("%s: %s: want more than nothing", d.key, d.d)
		}
	}
	for _, n := range []struct {
		key string
		n   int
	}{
		{"retry_max", c.RetryMax},
		{"retry_max_wan", c.RetryMaxWAN},
		{"gossip_lan.gossip_nodes", c.GossipLAN.GossipNodes},
		{"gossip_lan.suspicion_mult", c.GossipLAN.SuspicionMult},
		{"gossip_lan.retransmit_mult", c.GossipLAN.RetransmitMult},
		{"gossip_wan.gossip_nodes", c.GossipWAN.GossipNodes},
		{"gossip_wan.suspicion_mult", c.GossipWAN.SuspicionMult},
		{"gossip_wan.retransmit_mult", c.GossipWAN.RetransmitMult},
	} {
		if n.n < 0 {
			fault("%s: %d: want 0 or more", n.key, n.n)
		}
	}
	if c.Ports.SerfLAN < 1 {
		fault("ports.serf_lan: %d: nodes find each other by gossip, it can't be off", c.Ports.SerfLAN)
	}
	if c.AdvertiseReconnectTimeout > 0 && c.Server {
		fault("advertise_reconnect_timeout: it is for clients; of servers, reconnect_timeout holds")
	}
	if !c.Server && len(c.RetryJoinWAN)+len(c.StartJoinWAN) > 0 {
		fault("retry_join_wan: this agent isn't a server: only servers join those of other datacenters")
	}
	seen := map[string]bool{}
	for _, a := range c.Joins(false) {
		if strings.TrimSpace(a) == "" {
			fault("retry_join: an address is empty")
		}
		if seen[a] {
			fault("retry_join: %q stands there twice", a)
		}
		seen[a] = true
	}
}

// ExpandAddresses replaces the templates of addresses ("{{ GetPrivateIP }}", as go-sockaddr has them) by what they say here.
// Where one gives several addresses, the first is taken, but where a list can stand.
func (c *Config) ExpandAddresses() error {
	var faults []error
	expand := func(key string, to *string, many bool) {
		if !strings.Contains(*to, "{{") {
			return
		}
		out, err := template.Parse(*to)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %q: %w", key, *to, err))
			return
		}
		fields := strings.Fields(out)
		switch {
		case len(fields) == 0:
			faults = append(faults, fmt.Errorf("%s: %q gives no address on this machine", key, *to))
		case many:
			*to = strings.Join(fields, " ")
		default:
			*to = fields[0]
		}
	}
	for key, to := range map[string]*string{
		"bind_addr": &c.BindAddr, "advertise_addr": &c.AdvertiseAddr, "advertise_addr_wan": &c.AdvertiseAddrWAN,
		"serf_lan": &c.SerfLAN, "serf_wan": &c.SerfWAN,
	} {
		expand(key, to, false)
	}
	for key, to := range map[string]*string{
		"client_addr": &c.ClientAddr, "addresses.dns": &c.Addresses.DNS, "addresses.http": &c.Addresses.HTTP, "addresses.https": &c.Addresses.HTTPS,
		"addresses.grpc": &c.Addresses.GRPC, "addresses.grpc_tls": &c.Addresses.GRPCTLS,
	} {
		expand(key, to, true)
	}
	for key, list := range map[string]*[]string{
		"retry_join": &c.RetryJoin, "retry_join_wan": &c.RetryJoinWAN, "start_join": &c.StartJoin, "start_join_wan": &c.StartJoinWAN,
		"recursors": &c.Recursors,
	} {
		var out []string
		for _, a := range *list {
			templated := strings.Contains(a, "{{")
			expand(key, &a, true)
			if templated {
				out = append(out, strings.Fields(a)...)
				continue
			}
			out = append(out, a)
		}
		*list = out
	}
	return errors.Join(faults...)
}
