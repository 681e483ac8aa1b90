// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// Bounds of the handshakes that wait for a processor. What waits has sent a ClientHello and holds some 10 KB.
const (
	maxWaiting        = 2048
	maxWaitingOfOne   = 1024 // of one address
	waitForTurn       = 5 * time.Second
	saidOverflowEvery = time.Minute
)

var errQueue = errors.New("too many handshakes wait for a processor")

// turns shares the processors between handshakes and everything else. A handshake is a millisecond of work for whoever asks; without
// a bound a thousand of them stand before each request that is under way. So only some may calculate at once, and the others wait in
// a line for each address, taken from in turn, so that one address can't keep another waiting for more than one handshake. Those that
// have begun come first. A turn isn't held while a peer is waited for. Where somebody waits and a processor has nothing else to do, the next
// turn begins at once. It has no goroutine that stays.
type turns struct {
	log     *slog.Logger
	most    func() int        // that may calculate at once
	spare   func() bool       // whether a processor is left that they may not have
	between func(then func()) // runs what gives the next turn where none is, once others had theirs

	mu      sync.Mutex
	running int
	begun   []*waiter // have had a turn before
	lines   map[holder]*line
	order   []*line // with waiters; the first one's turn is next
	waiting int     // in lines
	said    time.Time
}

type line struct {
	of      holder
	waiters []*waiter
}

type waiter struct {
	turn chan struct{} // closed with the turn given
	line *line         // nil: it has begun
}

func newTurns(log *slog.Logger) *turns {
	return &turns{log: log, most: handshakers, spare: spare, between: new(Glance).Before, lines: map[holder]*line{}}
}

// handshakers is how many processors handshakes may have at once: all but a quarter, so that there is one for the rest, and at least one.
func handshakers() int {
	n := runtime.GOMAXPROCS(0)
	return max(1, n-max(1, n/4))
}

func spare() bool { return handshakers() < runtime.GOMAXPROCS(0) }

// take waits for a turn. begun is for a handshake that has had one, which is never refused for the length of a line.
func (t *turns) take(ctx context.Context, of holder, begun bool) error {
	t.mu.Lock()
	if t.running < t.most() && len(t.begun) == 0 && (begun || len(t.order) == 0) {
		t.running++
		t.mu.Unlock()
		return nil
	}
	w, err := t.joinLocked(of, begun)
	t.mu.Unlock()
	if err != nil {
		return err
	}
	late := time.NewTimer(waitForTurn)
	defer late.Stop()
	select {
	case <-w.turn:
		return nil
	case <-late.C:
		err = errQueue
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-w.turn: // it came at the same moment
		t.giveLocked()
	default:
		t.quitLocked(w)
	}
	return err
}

func (t *turns) joinLocked(of holder, begun bool) (*waiter, error) {
	w := &waiter{turn: make(chan struct{})}
	if begun {
		t.begun = append(t.begun, w)
		return w, nil
	}
	l := t.lines[of]
	if t.waiting >= maxWaiting || l != nil && len(l.waiters) >= maxWaitingOfOne {
		if now := time.Now(); now.Sub(t.said) >= saidOverflowEvery {
			t.said = now
			t.log.Warn("handshakes are refused: too many wait for a processor", slog.Int("waiting", t.waiting), slog.String("newest", of.name))
		}
		return nil, errQueue
	}
	if l == nil {
		l = &line{of: of}
		t.lines[of] = l
		t.order = append(t.order, l)
	}
	w.line = l
	l.waiters = append(l.waiters, w)
	t.waiting++
	return w, nil
}

// quitLocked takes out one that waits no longer.
func (t *turns) quitLocked(w *waiter) {
	from := &t.begun
	if w.line != nil {
		from = &w.line.waiters
		t.waiting--
	}
	for i, o := range *from {
		if o == w {
			*from = append((*from)[:i:i], (*from)[i+1:]...)
			break
		}
	}
	if l := w.line; l != nil && len(l.waiters) == 0 {
		t.dropLocked(l)
	}
}

func (t *turns) dropLocked(l *line) {
	delete(t.lines, l.of)
	for i, o := range t.order {
		if o == l {
			t.order = append(t.order[:i:i], t.order[i+1:]...)
			return
		}
	}
}

// leave gives a turn back. Where others wait, the next one has it once this process has looked at what has arrived meanwhile: a processor
// does so only when it has nothing to do, and would do one handshake after the other until then. Where handshakes have not all of the
// processors, another one looks.
func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.begun)+t.waiting == 0:
		t.running--
	case t.spare():
		t.giveLocked()
	default:
		t.between(func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.giveLocked()
		})
	}
}

// giveLocked passes a turn on, or gives it back.
func (t *turns) giveLocked() {
	t.running--
	for t.running < t.most() {
		w := t.nextLocked()
		if w == nil {
			return
		}
		t.running++
		close(w.turn)
	}
}

func (t *turns) nextLocked() *waiter {
	if len(t.begun) > 0 {
		w := t.begun[0]
		t.begun = t.begun[1:]
		return w
	}
	if len(t.order) == 0 {
		return nil
	}
	l := t.order[0]
	w := l.waiters[0]
	l.waiters = l.waiters[1:]
	t.waiting--
	t.order = t.order[1:]
	if len(l.waiters) > 0 {
		t.order = append(t.order, l)
	} else {
		delete(t.lines, l.of)
	}
	return w
}

// shaking is a connection's handshake: it has a turn except while it waits for the peer.
type shaking struct {
	turns       *turns
	ctx         context.Context //nolint:containedctx // the handshake's, whose state this is
	of          holder
	held, begun bool
}

func (s *shaking) pause() {
	if s.held {
		s.held = false
		s.turns.leave()
	}
}

func (s *shaking) resume() error {
	if err := s.turns.take(s.ctx, s.of, s.begun); err != nil {
		return err
	}
	s.held, s.begun = true, true
	return nil
}

// Read reads from the peer. During the handshake it gives the processor to others meanwhile.
//
// While a request is answered, net/http has a goroutine read a single byte, so as to learn that the caller went: a system call that finds nothing,
// a goroutine that waits for the network and is woken by a deadline that is over, all for nothing with a write, which is done in any case, and with
// a read that is about to be answered. It was a twentieth of a small write, and more than half of what a linearizable read of a key cost beyond a
// stale one, which doesn't wait, so that this goroutine comes too late to read. Where nobody has to learn it, the read comes back at once with
// nothing; no other read asks for one byte.
func (c *Conn) Read(p []byte) (int, error) {
	s := c.shaking
	if s == nil {
		if len(p) == 1 && c.unwatched.Load() {
			return 0, nil
		}
		return c.Conn.Read(p)
	}
	s.pause()
	n, err := c.Conn.Read(p)
	if n > 0 {
		if err := s.resume(); err != nil {
			return 0, err
		}
	}
	return n, err
}
