// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
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
// Of a thousand it took 87 s: a member is taken back once it has heard that it is taken for dead, and said no; and that it is was one of some
// thousand messages that each node sends on sixteen times, a hundred a second. So a node that heals asks one of those that it takes for failed each
// second, too: that one is told by the exchange itself, and what it says goes round with the others. 150 take 4.75 s so in place of 7.25, but 700 still 56 s.
const (
	// reconnectEvery is how often a failed member is tried, by all of the pool together: serf spreads it over those that are there.
	reconnectEvery = 2 * time.Second
	// healReturns are how many must return for it to be a partition, and not one member that comes and goes.
	healReturns = 2
	// healQuiet is how long nobody may return until the next that do are another partition's.
	healQuiet = 20 * time.Second
	// healEvery is the time between exchanges, more or less, and healRounds the number of them: each costs a whole state both ways.
	healEvery  = time.Second
	healRounds = 8
	// healShare is the time between two exchanges of all of the pool together, while a member is failed, and healLeast that between two of a node.
	// From healLarge members on a node would do it less often than memberlist does by itself, every 30 s.
	healShare = 100 * time.Millisecond
	healLeast = time.Second
	healLarge = 300
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
		select {
		case r.more <- struct{}{}:
		default:
		}
	}
}

// heal exchanges states with others after partitions, and from time to time, until ctx ends.
func (p *Pool) heal(ctx context.Context) error {
	g := run.New(ctx)
	var telling atomic.Bool
	for ctx.Err() == nil {
		rounds := p.healing(ctx)
		for round := range rounds {
			if round > 0 && !pause(ctx, healEvery) {
				break
			}
			there, failed := p.partners()
			if there == "" {
				break
			}
			if rounds > 1 && telling.CompareAndSwap(false, true) { // it may be dead in truth, and let one wait
				g.Go("tell", func(context.Context) error {
					defer telling.Store(false)
					p.exchange(failed)
					return nil
				})
			}
			p.exchange(there)
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

// healing waits until something is to be healed, or may be, and says with how many exchanges.
func (p *Pool) healing(ctx context.Context) (rounds int) {
	wait := time.NewTimer(spread(max(healLeast, time.Duration(p.members())*healShare)))
	defer wait.Stop()
	select {
	case <-p.returns.more:
		return healRounds
	case <-wait.C:
		if p.members() < healLarge {
			return 1
		}
	case <-ctx.Done():
	}
	return 0
}

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
