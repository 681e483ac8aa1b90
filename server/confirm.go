// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/failpoint"
)

// How a leader confirms that it leads.
//
// A server that is in a term hasn't voted in a later one, since Raft stores the new term before the vote. So if a majority of the voters
// were in the leader's term or an earlier one at some time after a read began, no later leader had been elected when it began, and all
// that was agreed by then is known to this one, if it still leads. Who asks the leader says in which term it is, and is one of the
// majority by that: of three servers, a follower's reads cost one question and its answer.
//
// Raft's own VerifyLeader takes the answer to any heartbeat for a confirmation, also of one that was sent before it was asked: a leader
// that was paused and finds such an answer waiting would confirm reads that another leader's writes have overtaken.

// errBehind is a confirmation that came before this leader had applied what it is about.
var errBehind = errors.New("not caught up yet")

// readIndex confirms leadership and gives the index of the last command that was agreed on before, applied here. The witness, if there
// is one, was in the term at some time after the reads began.
func (s *Server) readIndex(ctx context.Context, witness string, term uint64) (uint64, error) {
	node, office := s.raft.Load(), s.office.Load()
	if node == nil || office == 0 {
		return 0, api.ErrNoLeader
	}
	if term > office {
		witness = ""
	}
	agreed := node.CommitIndex()
	if !failpoint.Bug(failpoint.Unchecked) {
		if err := s.confirm(ctx, node, office, witness); err != nil {
			return 0, err
		}
	}
	return s.catchUp(ctx, agreed)
}

// catchUp waits until all up to a place of the log is applied here, and gives the catalog's index.
func (s *Server) catchUp(ctx context.Context, agreed uint64) (uint64, error) {
	if s.applied.reached(agreed) {
		return s.store.Position().Index, nil
	}
	wctx, cancel := context.WithTimeout(ctx, confirmTimeout/4)
	defer cancel()
	if s.applied.wait(wctx, func() bool { return s.applied.reached(agreed) }) != nil {
		// The last entry may be one that no catalog gets to see: behind a barrier everything is applied.
		if err := s.barrier(); err != nil {
			return 0, errors.Join(api.ErrNoLeader, err)
		}
	}
	if !s.applied.reached(agreed) {
		return 0, errBehind
	}
	return s.store.Position().Index, nil
}

// decides says whether a read may begin at once: this server leads, has applied what was agreed, and no vote but its own counts. Where there
// were several when they were looked at last, a round looks again: to make a list of them for each read was a hundredth of its cost.
func (s *Server) decides(node *raftNode) bool {
	office := s.office.Load()
	if office == 0 || s.manyVote.Load() || !s.applied.reached(node.CommitIndex()) || !node.leadsIn(office) {
		return false
	}
	voters := node.voters()
	return len(voters) == 1 && voters[0].ID == node.id
}

// confirm returns nil once a majority of the voters, of which this server and the witness may be two, is known to have been in the term
// or an earlier one after the call, or after the witness said so.
func (s *Server) confirm(ctx context.Context, node *raftNode, term uint64, witness string) error {
	voters := node.voters()
	s.manyVote.Store(len(voters) > 1)
	have, need := 0, len(voters)/2+1
	others := voters[:0]
	for _, v := range voters {
		if v.ID == node.id || string(v.ID) == witness {
			have++
		} else {
			others = append(others, v)
		}
	}
	if have < need && !s.askFew(others, need-have, term) {
		if err := s.askOthers(ctx, node.id, others, need-have, term); err != nil {
			return err
		}
	}
	if !node.leadsIn(term) {
		return api.ErrNoLeader
	}
	return nil
}

// slowAnswer is how long no more servers are asked than have to answer.
const slowAnswer = 10 * time.Millisecond

// askFew asks as many of the others as have to answer, and says whether they did, soon, and are in no later term. It is done in the caller's
// goroutine: to begin one that asks, and to have it wake the caller, was as much as the question itself.
func (s *Server) askFew(others []raft.Server, need int, term uint64) bool {
	if need > len(others) {
		return false
	}
	s.answering.sort(others)
	var room [4]question // for nine servers
	asked := room[:0]
	for _, v := range others[:need] {
		q, ok := s.lines.begin(s.addressOf(string(v.ID), string(v.Address)), askTerm, 0)
		if !ok {
			break
		}
		asked = append(asked, q)
	}
	all := len(asked) == need
	for i := range asked {
		has, err := asked[i].soon(slowAnswer)
		s.answering.note(others[i].ID, err == nil)
		if errors.Is(err, errLater) {
			late := asked[i]
			s.asked.Go(func() { s.awaitLate(late) })
		}
		all = all && err == nil && has <= term
	}
	return all
}

// awaitLate waits for an answer that nobody waits for any more: the next question to that server comes after it.
func (s *Server) awaitLate(q question) {
	ctx, cancel := context.WithTimeout(context.Background(), confirmTimeout)
	defer cancel()
	_, _ = q.rest(ctx) // whatever it is
}

// askOthers returns nil once so many of the others have said that they are in no later term: those first who answered last, and the
// rest where that takes long. It ends with the reign of this server, whose ID is given.
func (s *Server) askOthers(ctx context.Context, self raft.ServerID, others []raft.Server, need int, term uint64) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	ctx, stop := s.reigns.during(ctx, string(self), false)
	defer stop()
	s.answering.sort(others)
	answers := make(chan error, len(others))
	asked := 0
	askUntil := func(n int) {
		for ; asked < min(n, len(others)); asked++ {
			v := others[asked]
			s.asked.Go(func() { answers <- s.ask(ctx, v, term) })
		}
	}
	askUntil(need)
	timer := time.NewTimer(slowAnswer)
	defer timer.Stop()
	var errs []error
	for have := 0; have+len(errs) < len(others); {
		select {
		case err := <-answers:
			if err != nil {
				errs = append(errs, err)
				askUntil(len(others))
			} else if have++; have == need {
				return nil
			}
		case <-timer.C:
			askUntil(len(others))
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", api.ErrNoLeader, context.Cause(ctx))
		}
	}
	return errors.Join(append(errs, api.ErrNoLeader)...)
}

// ask has another voter say that it is in no later term. Its answer may come after it is no longer waited for: the next question waits
// for that.
func (s *Server) ask(ctx context.Context, v raft.Server, term uint64) error {
	long, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmTimeout)
	defer cancel()
	has, err := s.lines.ask(long, ctx, s.addressOf(string(v.ID), string(v.Address)), askTerm, 0)
	if err == nil && has > term {
		err = fmt.Errorf("%s is in term %d, this server leads in %d", v.ID, has, term)
	}
	s.answering.note(v.ID, err == nil)
	return err
}

// answering is who answered last, and who didn't when it was asked last.
type answering struct {
	mu       sync.Mutex
	id, late raft.ServerID
}

func (a *answering) note(id raft.ServerID, well bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case well:
		a.id = id
		if a.late == id {
			a.late = ""
		}
	default:
		a.late = id
		if a.id == id {
			a.id = ""
		}
	}
}

// sort has the one who answered last asked first, and the one who didn't last.
func (a *answering) sort(others []raft.Server) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rank := func(v raft.Server) int {
		switch v.ID {
		case a.id:
			return 0
		case a.late:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(others, func(v, w raft.Server) int { return rank(v) - rank(w) })
}

// leadsIn says whether this server leads in a term.
func (n *raftNode) leadsIn(term uint64) bool {
	return n.CurrentTerm() == term && n.State() == raft.Leader && n.CurrentTerm() == term
}

// voters are those of Raft's latest configuration.
func (n *raftNode) voters() (out []raft.Server) {
	for _, p := range n.GetConfiguration().Configuration().Servers { // it never waits, and has no error
		if p.Suffrage == raft.Voter {
			out = append(out, p)
		}
	}
	return out
}
