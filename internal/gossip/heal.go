// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"math/bits"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/weftmesh/weft/internal/run"
)

// What makes one view of two after a partition. Serf tries failed members anew, and the first that answers brings all of its side;
// then every member's return is gossiped, and that is where it stuck: a broadcast is sent on only so often, and those who missed some
// of a hundred at once learned of them from the exchange of whole states that comes every 30 s, or from trying the few that they still
// took for failed, which serf has them do seldom. So a node that sees several return, and still misses some, exchanges states
// with members that are there, now and not in half a minute. Measured in virtual time with a tenth of the packets lost, a cut in
// two of 20 s to 5 min, until all saw all: 9 to 21 s with serf's interval of 30 s (20 nodes); with one of 2 s up to 16 s (20), 20 s (60)
// and 29 s (120); with the exchange too mostly up to 5.5 s (20) and 4 s (60).
//
// Whoever missed that one member returned sees nobody return, and was the one that took 28 s: with a member failed, a node of a small pool
// exchanges states with another from time to time anyhow. Who is dead in truth costs each node some KB a second so.
//
// Of a thousand it took 87 s so, of 700 56: a member that is held for dead is taken back only by a later word of its own, and it said that when it had heard
// what it is taken for, as one of a thousand messages that each node sends on sixteen times, a hundred a second. So a node that sees many fail says
// anew that it is there (raise), while it is still cut off: those of its side know the later word when the cut heals, and one exchange of states with the
// other side brings it across for all of them, and nobody is accused first. 700 take 3 s so. Exchanges don't wait for each other,
// as those with members that are cut off end by their time alone (dialTimeout).
//
// A thousand were one after 1.5 s so, but for members that a node still suspected then, from the time of the cut: their time was up a second later, when all had
// returned and nobody exchanged anything any more, and what they had to say against it was one of thousands of messages. So who sees a member fail soon
// after others returned begins again.
//
// An exchange is 370 bytes for each member, both ways together: of 2,000, 0.75 MB, and a node has two to four in a second, for eleven seconds; from there on they come less
// often, so that it isn't more in a second. Where many died in truth, that was for nothing, once. After that, what changed is still gossiped, as anything:
// in packets of 1.4 KB, fifteen a second.
const (
	// reconnectEvery is how often a failed member is tried, by all of the pool together: serf spreads it over those that are there.
	reconnectEvery = 2 * time.Second
	// healReturns are how many must return for it to be a partition, and not one member that comes and goes.
	healReturns = 2
	// healQuiet is how long nobody may return until the next that do are another partition's.
	healQuiet = 20 * time.Second
	// healEvery is the time between exchanges, more or less, but healEach for each member if that is more, and healRounds the number of them, and one
	// more for each doubling from healLarge on: each costs a whole state both ways.
	healEvery  = time.Second
	healEach   = 500 * time.Microsecond
	healRounds = 8
	// healShare is the time between two exchanges of all of the pool together, while a member is failed, and healLeast that between two of a node.
	// From healLarge members on a node would do it less often than memberlist does by itself, every 30 s.
	healShare = 100 * time.Millisecond
	healLeast = time.Second
	healLarge = 300
	// healAtOnce bounds a node's exchanges at a time, those with members that failed and those with others apart: with members that are cut off they end
	// by their time alone, and would leave no place.
	healAtOnce = 16
	// lostShare is which share of the members must fail soon after each other for it to be a partition, and raiseEvery the time until a node says
	// again that it is there.
	lostShare  = 32
	raiseEvery = 10 * time.Second
)

// returns counts the members that came back from failed.
type returns struct {
	count int
	last  time.Time
	more  chan struct{} // has room for one
}

// backLocked notes that a failed member is there again. The caller holds the lock.
func (p *Pool) backLocked(now time.Time) {
	r := &p.returns
	if now.Sub(r.last) > healQuiet {
		r.count = 0
	}
	r.count++
	r.last = now
	if r.count >= healReturns {
		p.wake()
	}
}

// wake has states exchanged for some rounds.
func (p *Pool) wake() {
	select {
	case p.returns.more <- struct{}{}:
	default:
	}
}

// losses counts the members that failed one soon after the other.
type losses struct {
	count  int
	last   time.Time
	raised time.Time     // when this node last said anew that it is there
	more   chan struct{} // has room for one
}

// lostLocked notes that a member failed. The caller holds the lock.
func (p *Pool) lostLocked(now time.Time) {
	l := &p.losses
	if now.Sub(l.last) > healQuiet {
		l.count = 0
	}
	l.count++
	l.last = now
	if r := &p.returns; r.count >= healReturns && now.Sub(r.last) <= healQuiet {
		p.wake()
	}
	if l.count < max(healReturns, len(p.known)/lostShare) || now.Sub(l.raised) < raiseEvery {
		return
	}
	l.count, l.raised = 0, now
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// heal exchanges states with others in partitions and after them, and from time to time, until ctx ends.
func (p *Pool) heal(ctx context.Context) error {
	g := run.New(ctx)
	there, failed := make(chan struct{}, healAtOnce), make(chan struct{}, healAtOnce)
	meet := func(with string, places chan struct{}) {
		select {
		case places <- struct{}{}:
		default:
			return
		}
		g.Go("exchange", func(context.Context) error {
			defer func() { <-places }()
			p.exchange(with)
			return nil
		})
	}
	g.Go("raise", p.raising)
	for ctx.Err() == nil {
		rounds := p.healing(ctx)
		for round := range rounds {
			if round > 0 && !pause(ctx, max(healEvery, time.Duration(p.members())*healEach)) {
				break
			}
			a, b := p.partners()
			if a == "" {
				break
			}
			if rounds > 1 {
				meet(b, failed)
			}
			meet(a, there)
		}
	}
	return g.Stop()
}

// exchange gives a member all that this node knows, and takes what that one does. Its error doesn't matter: another one answers in the next round.
func (p *Pool) exchange(with string) {
	if s, err := p.running(); err == nil {
		_, _ = s.Memberlist().Join([]string{with})
	}
}

// raising has this node say anew that it is there when others are cut off, or it is, and has that handed on.
func (p *Pool) raising(ctx context.Context) error {
	for {
		select {
		case <-p.losses.more:
			p.raise()
			p.wake()
		case <-ctx.Done():
			return nil
		}
	}
}

// raise says anew that this node is there: what it says later beats what others were told before.
func (p *Pool) raise() {
	if s, err := p.running(); err == nil {
		_ = s.Memberlist().UpdateNode(time.Nanosecond) // its error is that nobody has been told yet
	}
}

// healing waits until something is to be healed, or may be, and says with how many exchanges.
func (p *Pool) healing(ctx context.Context) (rounds int) {
	wait := time.NewTimer(spread(max(healLeast, time.Duration(p.members())*healShare)))
	defer wait.Stop()
	select {
	case <-p.returns.more:
		return p.rounds()
	case <-wait.C:
		if p.members() < healLarge {
			return 1
		}
	case <-ctx.Done():
	}
	return 0
}

// rounds are enough for what one knows to come to all: those who know it become more than twice as many in each.
func (p *Pool) rounds() int { return healRounds + bits.Len(uint(p.members()/healLarge)) }

// pause waits for about d; false is ctx's end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(spread(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// members is how many members there are, dead ones with them.
func (p *Pool) members() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.known)
}

// allThere says that no member is known that has left or failed.
func (p *Pool) allThere() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.known {
		if !k.there {
			return false
		}
	}
	return true
}

// spread is about d, for each another.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// partners are two to exchange states with: a member that is there, to hear of those that this node takes for failed, and one of these, which has to
// be told what it is taken for before it can say otherwise. Both are "" where there are no two such.
func (p *Pool) partners() (there, failed string) {
	if p.allThere() {
		return "", "" // as nearly always: the list is made for nothing
	}
	self := p.c.Self.memberName(p.c.WAN)
	var alive, dead []string
	members := p.Members()
	for i := range members {
		m := &members[i]
		address := m.Name + "/" + net.JoinHostPort(m.Address, strconv.Itoa(m.Port))
		switch {
		case m.Status == StatusFailed:
			dead = append(dead, address)
		case m.Status == StatusAlive && m.Name != self:
			alive = append(alive, address)
		}
	}
	if len(dead) == 0 || len(alive) == 0 {
		return "", ""
	}
	return alive[rand.IntN(len(alive))], dead[rand.IntN(len(dead))]
}
