// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/serf/serf"
)

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func (p *Pool) defaultPort() int {
	if p.c.DefaultPort > 0 {
		return p.c.DefaultPort
	}
	return int(p.c.Bind.Port())
}

// Join joins the pool of the nodes at these addresses: an IP address or a name, with or without a port; of a name, all its
// addresses. This node's own address is left out: it is often in a list that all nodes share. Join gives how many were
// reached. The error says why others weren't; where nobody was reached, it is never nil.
func (p *Pool) Join(ctx context.Context, addresses []string) (int, error) {
	s, err := p.running()
	if err != nil {
		return 0, err
	}
	p.mu.Lock()
	self := netip.AddrPortFrom(p.c.Advertise.Addr(), uint16(p.port))
	p.mu.Unlock()
	reached := 0
	var faults []error
	for _, a := range addresses {
		targets, err := p.resolve(ctx, a)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for _, to := range targets {
			if to == self {
				continue
			}
			if err := p.join(ctx, s, to); err != nil {
				faults = append(faults, err)
				continue
			}
			reached++
		}
	}
	if reached == 0 && len(faults) == 0 {
		return 0, ErrAlone
	}
	return reached, errors.Join(faults...)
}

// ErrAlone is the error of a join whose addresses are this node's own, or none.
var ErrAlone = errors.New("there is no address to join but this node's own")

// join joins one node. Serf can't be told to stop: where ctx ends, it goes on in the background until its own time is over.
func (p *Pool) join(ctx context.Context, s *serf.Serf, to netip.AddrPort) error {
	p.mu.Lock()
	clear(p.refused)
	p.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := s.Join([]string{to.String()}, true)
		done <- err
	}()
	select {
	case <-ctx.Done():
		return fmt.Errorf("join %s: %w", to, context.Cause(ctx))
	case err := <-done:
		if err == nil {
			return nil
		}
		if refused := p.refusal(); refused != nil {
			return fmt.Errorf("join %s: %w", to, refused)
		}
		return fmt.Errorf("join %s: %w", to, err)
	}
}

// refusal is why nodes were turned away since the last join began.
func (p *Pool) refusal() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []error
	for _, r := range p.refused {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(all...)
}

// resolve finds the addresses behind one of Join's.
func (p *Pool) resolve(ctx context.Context, address string) ([]netip.AddrPort, error) {
	host, port := address, p.defaultPort()
	if addr, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), uint16(port))}, nil
	}
	if h, text, err := net.SplitHostPort(address); err == nil {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("join %q: the port isn't 1 to 65535", address)
		}
		host, port = h, int(n)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), uint16(port))}, nil
	}
	if host == "" {
		return nil, fmt.Errorf("join %q: neither an address nor a name", address)
	}
	addrs, err := p.c.Lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("join %q: %w", address, err)
	}
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	return out, nil
}

// Leave tells the others that this node goes, and stays until they had time to hear it: some seconds. After that, end Run. A
// second call waits for nothing.
func (p *Pool) Leave(ctx context.Context) error {
	s, err := p.running()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.Leave() }() // serf bounds it
	select {
	case err := <-done:
		p.notify()
		return err
	case <-ctx.Done():
		return fmt.Errorf("leave: %w", context.Cause(ctx))
	}
}

// ErrNoSuchMember is the error of a call that names a member that isn't there.
var ErrNoSuchMember = errors.New("no member of that name")

// ForceLeave makes a failed member one that left; prune forgets it altogether, also one that has left. A member that is alive
// refutes it.
func (p *Pool) ForceLeave(name string, prune bool) error {
	s, err := p.running()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.Members(), func(m serf.Member) bool { return m.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: %q", ErrNoSuchMember, name)
	}
	if prune {
		err = s.RemoveFailedNodePrune(name)
	} else {
		err = s.RemoveFailedNode(name)
	}
	p.notify()
	return err
}

// UserEvent is an event that a member fired.
type UserEvent struct {
	Name    string
	Payload []byte
	LTime   uint64 // orders events of all members
}

// MaxEvent bounds a user event's name and payload together, encoded.
const MaxEvent = 512

// Fire sends a user event to all members, this one too.
func (p *Pool) Fire(name string, payload []byte) error {
	s, err := p.running()
	if err != nil {
		return err
	}
	if err := s.UserEvent(name, payload, false); err != nil {
		return fmt.Errorf("fire the event %q: %w", name, err)
	}
	return nil
}

// Stats are figures for people.
func (p *Pool) Stats() map[string]string {
	s, err := p.running()
	if err != nil {
		return map[string]string{}
	}
	return s.Stats()
}

// Coordinate is where a node is in the network, as Vivaldi reckons it. Lengths are seconds.
type Coordinate struct {
	Vec        []float64
	Error      float64
	Adjustment float64
	Height     float64
}

// Coordinate is this node's own, and whether there is one.
func (p *Pool) Coordinate() (Coordinate, bool) {
	s, err := p.running()
	if err != nil || p.c.DisableCoordinates {
		return Coordinate{}, false
	}
	c, err := s.GetCoordinate()
	if err != nil {
		return Coordinate{}, false
	}
	return Coordinate{Vec: slices.Clone(c.Vec), Error: c.Error, Adjustment: c.Adjustment, Height: c.Height}, true
}

// CoordinateOf is a member's as it last told this node, and whether it has.
func (p *Pool) CoordinateOf(name string) (Coordinate, bool) {
	s, err := p.running()
	if err != nil || p.c.DisableCoordinates {
		return Coordinate{}, false
	}
	c, ok := s.GetCachedCoordinate(name)
	if !ok || c == nil {
		return Coordinate{}, false
	}
	return Coordinate{Vec: slices.Clone(c.Vec), Error: c.Error, Adjustment: c.Adjustment, Height: c.Height}, true
}

// WaitFor blocks until what says so of the members, or ctx ends.
func (p *Pool) WaitFor(ctx context.Context, what func([]Member) bool) error {
	for {
		_, changed := p.Changes()
		if what(p.Members()) {
			return nil
		}
		timer := time.NewTimer(time.Second) // a member that begins to leave makes no change
		select {
		case <-changed:
			timer.Stop()
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
