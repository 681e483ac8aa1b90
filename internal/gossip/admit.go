// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/weftmesh/weft/internal/guard"
)

// Why a node can't be in the pool together with this one.
var (
	ErrDatacenter = errors.New("it is of another datacenter")
	ErrSegment    = errors.New("it is of another network segment")
	ErrNotServer  = errors.New("it isn't a server")
	ErrForeign    = errors.New("it isn't an agent of this kind")
	ErrNameTaken  = errors.New("its name is another node's")
	ErrIDTaken    = errors.New("its ID is another node's")
)

// RefuseError says which node can't be in the pool, and why. It wraps one of the reasons above.
type RefuseError struct {
	Name, Address string
	Reason        error
	Detail        string // what to compare, and the remedy
}

func (e *RefuseError) Error() string {
	return fmt.Sprintf("member %s at %s is refused: %v: %s", e.Name, e.Address, e.Reason, e.Detail)
}

func (e *RefuseError) Unwrap() error { return e.Reason }

// known is what the last event said of a member.
type known struct {
	id      string
	address string // with port
	there   bool   // alive or leaving
	// let is the fingerprint of the address and the tags that admit let in last; 0: none since the last event.
	let uint64
}

// fingerprint is of all that admit looks at but the name. Nobody outside knows the seed, so that nobody finds two that are alike; it is never 0.
func (p *Pool) fingerprint(n *memberlist.Node) uint64 {
	var h maphash.Hash
	h.SetSeed(p.seed)
	_, _ = h.Write([]byte{byte(len(n.Addr)), byte(n.Port >> 8), byte(n.Port)}) // it never fails
	_, _ = h.Write(n.Addr)
	_, _ = h.Write(n.Meta)
	return max(1, h.Sum64())
}

// again says that a member that is there says what it said when it was let in. Gossip repeats everything a dozen times, and each time asks:
// to read the tags anew was half of what it cost to be told of a member.
func (p *Pool) again(n *memberlist.Node) bool {
	print := p.fingerprint(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.known[n.Name]
	_, claimed := p.claims[n.Name]
	return k.there && k.let == print && !claimed && p.names[k.id] == n.Name
}

// learn remembers what an event said, for admit.
func (p *Pool) learn(kind serf.EventType, m *serf.Member) {
	member := memberOf(m)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.claims, member.Name)
	old, was := p.known[member.Name]
	if was && p.names[old.id] == member.Name {
		delete(p.names, old.id)
	}
	k := known{id: member.ID, address: addressOf(m.Addr, m.Port)}
	level := p.log.Info
	switch kind {
	case serf.EventMemberJoin, serf.EventMemberUpdate:
		k.there = true
		p.names[k.id] = member.Name
		if r := p.refused[member.Name]; r != nil && r.Address == k.address { // and not another of that name, as this node itself may be
			delete(p.refused, member.Name)
		}
		if was && !old.there {
			p.backLocked(time.Now())
		}
		if kind == serf.EventMemberUpdate {
			level = p.log.Debug
		}
	case serf.EventMemberReap:
		delete(p.known, member.Name)
	case serf.EventMemberFailed:
		p.lostLocked(time.Now())
	case serf.EventMemberLeave, serf.EventUser, serf.EventQuery:
	}
	if kind != serf.EventMemberReap {
		p.known[member.Name] = k
	}
	p.metrics.events.WithLabelValues(kind.String()).Inc()
	if k.there && !old.there {
		p.metrics.members.Inc()
	} else if old.there && !k.there {
		p.metrics.members.Dec()
	}
	level(changeText(kind), "pool", p.kind(), "member", member.Name, "address", k.address, "id", member.ID)
}

func changeText(kind serf.EventType) string {
	switch kind {
	case serf.EventMemberJoin:
		return "member joined"
	case serf.EventMemberLeave:
		return "member left"
	case serf.EventMemberFailed:
		return "member failed"
	case serf.EventMemberReap:
		return "member forgotten"
	case serf.EventMemberUpdate, serf.EventUser, serf.EventQuery:
	}
	return "member changed"
}

func addressOf(ip net.IP, port uint16) string {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port).String()
}

// claim is a member that was let in, until serf's event tells of it: two that come at once could both have a name, or an ID, otherwise.
type claim struct {
	known
	until time.Time
}

const (
	claimFor  = 10 * time.Second // far longer than serf's events take
	maxClaims = 4096
)

// NotifyAlive is memberlist's question whether a node may be a member. It holds its lock meanwhile.
func (p *Pool) NotifyAlive(n *memberlist.Node) error {
	if p.again(n) {
		return nil // as nearly always
	}
	m, err := p.admit(n, true)
	if err == nil && m != nil {
		p.claim(m, addressOf(n.Addr, n.Port), p.fingerprint(n))
	}
	return p.refuse(err)
}

// claim keeps name and ID for a member that is let in, and notes what it said.
func (p *Pool) claim(m *Member, address string, print uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[m.Name]; k.there && k.id == m.ID && k.address == address {
		k.let = print
		p.known[m.Name] = k
		return
	}
	now := time.Now()
	if len(p.claims) >= maxClaims {
		maps.DeleteFunc(p.claims, func(_ string, c claim) bool { return now.After(c.until) })
	}
	if len(p.claims) < maxClaims {
		p.claims[m.Name] = claim{known{id: m.ID, address: address, there: true}, now.Add(claimFor)}
	}
}

// holderLocked is who has a name, by the last event or by a claim.
func (p *Pool) holderLocked(name string) known {
	if c, ok := p.claims[name]; ok && time.Now().Before(c.until) {
		return c.known
	}
	return p.known[name]
}

// holderOfLocked is the name of who has an ID.
func (p *Pool) holderOfLocked(id string) string {
	if name := p.names[id]; name != "" {
		return name
	}
	for name, c := range p.claims { // few, and for a moment
		if c.id == id && time.Now().Before(c.until) {
			return name
		}
	}
	return ""
}

// NotifyMerge is memberlist's question whether two pools may become one: this one and that of a node that joins, or that this
// one joins.
func (p *Pool) NotifyMerge(nodes []*memberlist.Node) error {
	for _, n := range nodes {
		if n.State == memberlist.StateLeft || n.State != memberlist.StateDead && p.again(n) {
			continue
		}
		if _, err := p.admit(n, n.State != memberlist.StateDead); err != nil {
			return p.refuse(err)
		}
	}
	return nil
}

// refuse remembers the refusal for who asked to join.
func (p *Pool) refuse(err error) error {
	var refused *RefuseError
	if errors.As(err, &refused) {
		p.mu.Lock()
		if len(p.refused) < maxRefused {
			p.refused[refused.Name] = refused
		}
		p.mu.Unlock()
		p.metrics.refused.WithLabelValues(reasonMember).Inc()
	}
	return err
}

// maxRefused bounds how many refusals are kept: their names are the sender's.
const maxRefused = 64

// admit decides whether a node may be in the pool. Of a dead one, name and ID may be those of another. It gives
// what a live one says of itself.
func (p *Pool) admit(n *memberlist.Node, alive bool) (*Member, error) {
	address := addressOf(n.Addr, n.Port)
	no := func(reason error, format string, args ...any) error {
		return &RefuseError{Name: printable(n.Name), Address: address, Reason: reason, Detail: fmt.Sprintf(format, args...)}
	}
	if guard.Off("C125") {
		return nil, nil
	}
	if len(n.Addr) != net.IPv4len && len(n.Addr) != net.IPv6len {
		return nil, no(ErrForeign, "its address has %d bytes", len(n.Addr))
	}
	if err := checkName(n.Name); err != nil {
		return nil, no(ErrForeign, "%v", err)
	}
	if len(n.Meta) > memberlist.MetaMaxSize {
		return nil, no(ErrForeign, "%d bytes of tags", len(n.Meta))
	}
	tags, err := decodeTags(n.Meta)
	if err != nil {
		return nil, no(ErrForeign, "its tags can't be read: %v", err)
	}
	m := Member{Name: n.Name}
	m.fromTags(tags)
	if err := p.belongs(&m, no); err != nil {
		return nil, err
	}
	if !alive {
		return nil, nil
	}
	return &m, p.unique(&m, address, no)
}

type refusal func(reason error, format string, args ...any) error

// belongs checks that a node is of the kind that this pool is for.
func (p *Pool) belongs(m *Member, no refusal) error {
	self := &p.c.Self
	if role := m.Tags[tagRole]; role != roleServer && role != roleClient {
		return no(ErrForeign, "its role is %q", printable(role))
	}
	if m.ID == "" || m.Datacenter == "" {
		return no(ErrForeign, "it tells no ID or no datacenter")
	}
	if p.c.WAN {
		if !m.Server {
			return no(ErrNotServer, "only servers are in the WAN pool; a client joins the servers of its own datacenter")
		}
		if !strings.HasSuffix(m.Name, "."+m.Datacenter) {
			return no(ErrForeign, "in the WAN a member's name ends with its datacenter, %q", printable(m.Datacenter))
		}
		return nil
	}
	if m.Datacenter != self.Datacenter {
		return no(ErrDatacenter, "%q, this node is of %q: servers of different datacenters join each other with retry_join_wan or join -wan",
			printable(m.Datacenter), self.Datacenter)
	}
	if m.Segment != self.Segment && (!m.Server || !self.Server) {
		return no(ErrSegment, "%q, this node is of %q", printable(m.Segment), self.Segment)
	}
	return nil
}

// unique checks that nobody else is there under a node's name or ID. An own address is the same machine, begun anew.
func (p *Pool) unique(m *Member, address string, no refusal) error {
	self := &p.c.Self
	p.mu.Lock()
	defer p.mu.Unlock()
	own := netip.AddrPortFrom(p.c.Advertise.Addr(), uint16(p.port)).String()
	if m.Name == self.memberName(p.c.WAN) {
		if m.ID != self.ID && address != own {
			return no(ErrNameTaken, "this node, at %s, is called so with ID %s, that one has %s: give one of them another name with node or -node",
				own, self.ID, printable(m.ID))
		}
		return nil
	}
	if m.ID == self.ID && address != own {
		return no(ErrIDTaken, "this node, %s at %s, has ID %s too: delete the file node-id in data_dir of one of them, or give it another node_id",
			self.Name, own, self.ID)
	}
	if k := p.holderLocked(m.Name); k.there && k.id != m.ID && k.address != address {
		return no(ErrNameTaken, "a node at %s is called so with ID %s, that one has %s: give one of them another name with node or -node",
			k.address, k.id, printable(m.ID))
	}
	if name := p.holderOfLocked(m.ID); name != "" && name != m.Name && p.holderLocked(name).address != address {
		return no(ErrIDTaken, "%s at %s has ID %s too: delete the file node-id in data_dir of one of them, or give it another node_id",
			printable(name), p.holderLocked(name).address, printable(m.ID))
	}
	return nil
}

// printable bounds what a stranger says of itself to what a log can hold.
func printable(s string) string {
	const most = 64
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
