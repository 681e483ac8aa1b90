// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/serf/serf"
)

// Self is what a node tells of itself. It travels as tags, with Consul's names, so that lists of members look alike.
type Self struct {
	Name       string // the node's name
	ID         string // its UUID
	Datacenter string
	Segment    string // "" is the default segment
	Build      string // the program's version

	Server      bool
	ServerPort  int  // of a server: Raft, gRPC and forwarded HTTP
	GRPCPort    int  // xDS, 0 for none
	GRPCTLSPort int  // the same with TLS, 0 for none
	WANPort     int  // of a server: the port of its WAN gossip, 0 for none
	Bootstrap   bool // of a server: it may begin a cluster alone
	Expect      int  // of a server: with how many a cluster begins
	ReadReplica bool // of a server: it has no vote

	// ReconnectTimeout is how long others shall remember this node once it failed, instead of as long as they would; 0 is no say.
	ReconnectTimeout time.Duration
	// Tags are further ones. They can't replace those above.
	Tags map[string]string
}

// The names of tags.
const (
	tagRole        = "role"
	tagDatacenter  = "dc"
	tagSegment     = "segment"
	tagID          = "id"
	tagVersion     = "vsn"
	tagVersionMin  = "vsn_min"
	tagVersionMax  = "vsn_max"
	tagBuild       = "build"
	tagPort        = "port"
	tagGRPC        = "grpc_port"
	tagGRPCTLS     = "grpc_tls_port"
	tagWANPort     = "wan_join_port"
	tagBootstrap   = "bootstrap"
	tagExpect      = "expect"
	tagReadReplica = "read_replica"
	tagRaft        = "raft_vsn"
	tagReconnect   = "rc_tm"

	roleServer = "consul"
	roleClient = "node"
)

func (s *Self) validate(wan bool) error {
	if err := checkName(s.Name); err != nil {
		return fmt.Errorf("gossip: this node's name: %w", err)
	}
	if s.ID == "" || s.Datacenter == "" {
		return fmt.Errorf("gossip: node %s needs an ID and a datacenter", s.Name)
	}
	if wan && !s.Server {
		return fmt.Errorf("gossip: node %s isn't a server: only servers are in the WAN pool", s.Name)
	}
	if s.Server && s.ServerPort == 0 {
		return fmt.Errorf("gossip: server %s needs the port that it serves at", s.Name)
	}
	return nil
}

// maxName is the longest name of a member, with its datacenter's in the WAN.
const maxName = 255

func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%q: want 1 to %d characters", name, maxName)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("%q: spaces, / and control characters can't be in a node's name", name)
	}
	return nil
}

// memberName is what the pool calls the node.
func (s *Self) memberName(wan bool) string {
	if wan {
		return s.Name + "." + s.Datacenter
	}
	return s.Name
}

func (s *Self) tags(wan bool) map[string]string {
	t := maps.Clone(s.Tags)
	if t == nil {
		t = map[string]string{}
	}
	t[tagRole], t[tagDatacenter], t[tagID], t[tagBuild] = roleClient, s.Datacenter, s.ID, s.Build
	t[tagVersion], t[tagVersionMin], t[tagVersionMax] = "2", "2", "3"
	if !wan {
		t[tagSegment] = s.Segment
	}
	number := func(tag string, n int) {
		if n > 0 {
			t[tag] = strconv.Itoa(n)
		}
	}
	number(tagGRPC, s.GRPCPort)
	number(tagGRPCTLS, s.GRPCTLSPort)
	if s.ReconnectTimeout > 0 {
		t[tagReconnect] = s.ReconnectTimeout.String()
	}
	if !s.Server {
		return t
	}
	t[tagRole], t[tagRaft] = roleServer, "3"
	number(tagPort, s.ServerPort)
	number(tagWANPort, s.WANPort)
	number(tagExpect, s.Expect)
	if s.Bootstrap {
		t[tagBootstrap] = "1"
	}
	if s.ReadReplica {
		t[tagReadReplica] = "1"
	}
	return t
}

// Status is how a member is. The numbers are those of Consul's API.
type Status int

// The statuses of members.
const (
	StatusNone    Status = iota
	StatusAlive          // it answers
	StatusLeaving        // it said that it goes
	StatusLeft           // it went, by itself or by force-leave
	StatusFailed         // it went without a word
)

// String gives the word that lists of members show.
func (s Status) String() string {
	switch s {
	case StatusNone:
	case StatusAlive:
		return "alive"
	case StatusLeaving:
		return "leaving"
	case StatusLeft:
		return "left"
	case StatusFailed:
		return "failed"
	}
	return "none"
}

// Member is a node of the pool, as far as this node knows.
type Member struct {
	Name       string // what the pool calls it: in the WAN node.datacenter
	Node       string // the node's own name
	ID         string
	Datacenter string
	Segment    string
	Build      string
	Address    string // IP address
	Port       int    // of its gossip
	Status     Status
	Tags       map[string]string

	Server      bool
	ServerPort  int
	GRPCPort    int
	GRPCTLSPort int
	WANPort     int
	Bootstrap   bool
	Expect      int
	ReadReplica bool

	ProtocolMin, ProtocolMax, ProtocolCur uint8 // of memberlist
	DelegateMin, DelegateMax, DelegateCur uint8 // of serf
}

// ServerAddress is where a server serves Raft, gRPC and forwarded HTTP; "" for a client.
func (m *Member) ServerAddress() string {
	if !m.Server || m.ServerPort == 0 {
		return ""
	}
	addr, err := netip.ParseAddr(m.Address)
	if err != nil {
		return ""
	}
	return netip.AddrPortFrom(addr, uint16(m.ServerPort)).String()
}

// fromTags fills in what the tags say. What can't be read is zero, as if it hadn't been said.
func (m *Member) fromTags(tags map[string]string) {
	number := func(tag string) int {
		n, err := strconv.ParseUint(tags[tag], 10, 16)
		if err != nil {
			return 0
		}
		return int(n)
	}
	m.Tags = tags
	m.ID, m.Datacenter, m.Segment, m.Build = tags[tagID], tags[tagDatacenter], tags[tagSegment], tags[tagBuild]
	m.Node = strings.TrimSuffix(m.Name, "."+m.Datacenter)
	if _, lan := tags[tagSegment]; lan {
		m.Node = m.Name
	}
	m.GRPCPort, m.GRPCTLSPort = number(tagGRPC), number(tagGRPCTLS)
	if m.Server = tags[tagRole] == roleServer; m.Server {
		m.ServerPort, m.WANPort, m.Expect = number(tagPort), number(tagWANPort), number(tagExpect)
		m.Bootstrap, m.ReadReplica = tags[tagBootstrap] == "1", tags[tagReadReplica] == "1"
	}
}

func memberOf(s *serf.Member) Member {
	m := Member{
		Name: s.Name, Port: int(s.Port), Status: Status(s.Status),
		ProtocolMin: s.ProtocolMin, ProtocolMax: s.ProtocolMax, ProtocolCur: s.ProtocolCur,
		DelegateMin: s.DelegateMin, DelegateMax: s.DelegateMax, DelegateCur: s.DelegateCur,
	}
	if addr, ok := netip.AddrFromSlice(s.Addr); ok {
		m.Address = addr.Unmap().String()
	}
	m.fromTags(s.Tags)
	return m
}

// Members are all members that this node remembers, by name; those that left or failed too, until they are reaped.
func (p *Pool) Members() []Member {
	s, err := p.running()
	if err != nil {
		return nil
	}
	list := s.Members()
	out := make([]Member, 0, len(list))
	for i := range list {
		out = append(out, memberOf(&list[i]))
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Local is this node as the pool knows it; before the pool runs, as it will.
func (p *Pool) Local() Member {
	if s, err := p.running(); err == nil {
		local := s.LocalMember()
		return memberOf(&local)
	}
	m := Member{Name: p.c.Self.memberName(p.c.WAN), Address: p.c.Advertise.Addr().String(), Port: int(p.c.Advertise.Port())}
	m.fromTags(p.c.Self.tags(p.c.WAN))
	return m
}

// reconnectTimeouts lets a member say how long it wants to be remembered.
type reconnectTimeouts struct{}

func (reconnectTimeouts) ReconnectTimeout(m *serf.Member, timeout time.Duration) time.Duration {
	if own, err := time.ParseDuration(m.Tags[tagReconnect]); err == nil && own > 0 {
		return own
	}
	return timeout
}
