// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The rows. Each history of a row does its fault once; the leader changes in each.
func rows() []row {
	return []row{
		{name: "follower-killed", faults: "F2", long: 6, fault: killFollower},
		{name: "all-killed", faults: "F18", long: 10, fault: killAll, quick: true},
		{name: "power-lost", faults: "F4", long: 10, fault: killAll, binary: withFailpoints, env: []string{"WEFT_FAIL_POWER=1"}},
		{name: "leader-paused", faults: "F14", long: 12, fault: pauseLeader, quick: true},
		{name: "holders-paused", faults: "F39 F14", long: 6, fault: pauseHolders},
		{name: "damaged", faults: "F7", long: 6, fault: damage},
		{name: "leader-cut-off", faults: "F9", long: 8, fault: cutLeader(true, true)},
		{name: "leader-hears-nothing", faults: "F10", long: 6, fault: cutLeader(true, false)},
		{name: "leader-unheard", faults: "F10", long: 6, fault: cutLeader(false, true)},
		{name: "one-link-cut", faults: "F10", long: 6, fault: cutOneLink},
		{name: "flapping", faults: "F11", long: 4, fault: flap},
		{name: "bad-links", faults: "F12", long: 6, fault: badLinks},
		{name: "slow-link", faults: "F13", long: 4, fault: slowLink},
		{name: "transferred", faults: "", long: 8, fault: transfers},
		{name: "rolling-restart", faults: "F21", long: 5, fault: restartEach},
		{name: "member-replaced", faults: "F24", long: 3, fault: replaceMember, ports: 4},
		{name: "leader-killed", faults: "F1 F20", long: 170, fault: killLeaders, quick: true},
		{name: "fsync-fails", faults: "F5", long: 50, fault: failFsyncs, quick: true},
		{name: "disk-full", faults: "F6", long: 4, fault: fillDisks, before: smallDisk, quick: true},
		{name: "slow-disk", faults: "F8", long: 4, fault: slowDisk},
		{name: "restored", faults: "F19", long: 6, fault: restore, restores: true},
	}
}

// TestRows plays the rows, and writes the report.
func TestRows(t *testing.T) {
	enabled(t)
	rep := newReport(t)
	for _, w := range rows() {
		if !w.quick && !long() {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			binary := weft(t)
			if w.binary != nil {
				binary = w.binary(t)
			}
			rep.add(play(t, w, binary, times(w.long)))
		})
	}
}

// nextWrite has a server write until it succeeds, and gives how long that took.
func (r *run) nextWrite(s *server) error {
	began := time.Now()
	err := until(20*time.Second, func() error {
		return s.want("PUT", "/v1/kv/next/write", fmt.Sprint(began.UnixNano()), "true")
	})
	if err == nil {
		r.took = append(r.took, time.Since(began))
	}
	return err
}

// back starts a server again, and waits until it votes: one that was away for long was taken out as dead, and votes only when it has been
// in sync for a second. To stop another one sooner would leave two of three that vote without a majority.
func (c *cluster) back(s *server) error {
	s.start()
	return until(30*time.Second, func() error {
		if err := s.ready(); err != nil {
			return err
		}
		return s.votes()
	})
}

// votes is nil if the server, by its own configuration of Raft, has a vote.
func (s *server) votes() error {
	code, text, _, err := s.do(context.Background(), "GET", "/v1/operator/raft/configuration", "")
	if err != nil {
		return err
	}
	var conf struct {
		Servers []struct {
			Node  string
			Voter bool
		}
	}
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		return fmt.Errorf("%s: %d %s: %w", s.name(), code, text, err)
	}
	for _, peer := range conf.Servers {
		if peer.Node == s.name() && peer.Voter {
			return nil
		}
	}
	return fmt.Errorf("%s has no vote: %s", s.name(), text)
}

// killLeaders kills the leader six times.
func killLeaders(r *run) error {
	for range 6 {
		l := r.c.aLeader()
		other := r.c.followers(l)[rand.IntN(2)]
		l.kill()
		r.kills++
		if err := r.nextWrite(other); err != nil {
			return fmt.Errorf("after %s was killed: %w", l.name(), err)
		}
		if err := r.c.back(l); err != nil {
			return err
		}
	}
	return nil
}

// killFollower kills a follower in the middle of everything, twice, and has the leader change in between.
func killFollower(r *run) error {
	for range 2 {
		f := r.c.followers(r.c.aLeader())[rand.IntN(2)]
		f.kill()
		pause(r.ctx, 300*time.Millisecond)
		if err := r.c.back(f); err != nil {
			return err
		}
		r.c.transfer()
	}
	return nil
}

// killAll kills all at once, three times.
func killAll(r *run) error {
	for range 3 {
		if err := killAllOnce(r); err != nil {
			return err
		}
		r.reach(r.progress() + 200)
	}
	return nil
}

// killAllOnce kills all, and starts them in another order.
func killAllOnce(r *run) error {
	l := r.c.aLeader()
	for _, s := range r.c.servers[:r.c.expect] {
		s.signal(syscall.SIGKILL)
	}
	for _, s := range r.c.servers[:r.c.expect] {
		s.gone()
	}
	r.kills++
	others := r.c.followers(l)
	for _, s := range others {
		s.start()
	}
	if err := r.nextWrite(others[0]); err != nil {
		return err
	}
	if err := r.c.back(l); err != nil {
		return err
	}
	if r.c.aLeader() == l {
		r.c.transfer()
	}
	return nil
}

// pauseLeader stops the leader for longer than its lease, again and again. What it answers when it goes on must not be stale.
func pauseLeader(r *run) error {
	for range 6 {
		if err := pauseOnce(r); err != nil {
			return err
		}
	}
	return nil
}

func pauseOnce(r *run) error {
	l := r.c.aLeader()
	l.signal(syscall.SIGSTOP)
	err := r.nextWrite(r.c.followers(l)[rand.IntN(2)])
	pause(r.ctx, time.Duration(rand.IntN(600))*time.Millisecond)
	l.signal(syscall.SIGCONT)
	if err != nil {
		return fmt.Errorf("after %s was paused: %w", l.name(), err)
	}
	return until(30*time.Second, l.ready)
}

// cutLeader cuts what the leader hears, what it says, or both.
func cutLeader(in, out bool) func(*run) error {
	return func(r *run) error {
		l := r.c.aLeader()
		r.c.net.around(l.n, link{cut: in}, link{cut: out})
		err := r.nextWrite(r.c.followers(l)[rand.IntN(2)])
		pause(r.ctx, time.Second)
		r.c.net.heal()
		if err != nil {
			return fmt.Errorf("after %s was cut off: %w", l.name(), err)
		}
		return until(30*time.Second, l.ready)
	}
}

// cutOneLink cuts the leader from one follower, which the third still reaches: nobody needs to change the leader for it, and if
// somebody does, it may do so once.
func cutOneLink(r *run) error {
	l := r.c.aLeader()
	f := r.c.followers(l)[rand.IntN(2)]
	r.c.net.set(l.n, f.n, link{cut: true})
	r.c.net.set(f.n, l.n, link{cut: true})
	pause(r.ctx, 2*time.Second)
	r.c.net.heal()
	if err := until(30*time.Second, f.ready); err != nil {
		return err
	}
	r.c.transfer()
	return nil
}

// flap cuts a follower off and lets it back, and then the leader.
func flap(r *run) error {
	l := r.c.aLeader()
	for _, s := range []*server{r.c.followers(l)[0], l} {
		for range 3 {
			r.c.net.around(s.n, link{cut: true}, link{cut: true})
			pause(r.ctx, 700*time.Millisecond)
			r.c.net.heal()
			pause(r.ctx, 700*time.Millisecond)
		}
	}
	if r.c.aLeader() == l {
		r.c.transfer()
	}
	return r.allBack()
}

func (r *run) allBack() error {
	for _, s := range r.c.servers[:r.c.expect] {
		if err := until(40*time.Second, s.ready); err != nil {
			return err
		}
	}
	return nil
}

// badLinks delay by up to 60 ms, lose 3 % of the packets, send 2 % twice and change their order.
func badLinks(r *run) error {
	for from := 1; from <= r.c.expect; from++ {
		for to := 1; to <= r.c.expect; to++ {
			if from != to {
				r.c.net.set(from, to, link{delay: 10 * time.Millisecond, jitter: 50 * time.Millisecond, loss: 0.03, twice: 0.02})
			}
		}
	}
	r.reach(r.progress() + 300)
	r.c.transfer()
	r.reach(r.progress() + 200)
	r.c.net.heal()
	return r.allBack()
}

// slowLink has a follower catch up over 64 KB a second, from behind what the leader's log still has.
func slowLink(r *run) error {
	f := r.c.followers(r.c.aLeader())[0]
	f.kill()
	r.reach(r.progress() + 900)
	for n := 1; n <= r.c.expect; n++ {
		if n != f.n {
			r.c.net.set(n, f.n, link{rate: 64 << 10})
		}
	}
	f.start()
	r.c.transfer()
	r.reach(r.progress() + 200)
	r.c.net.heal()
	return r.allBack()
}

func transfers(r *run) error {
	for range 8 {
		r.c.transfer()
	}
	return nil
}

// restartEach stops each server in turn, as systemd would, and starts it again.
func restartEach(r *run) error {
	for _, s := range r.c.servers[:r.c.expect] {
		s.signal(syscall.SIGTERM)
		if err := s.ends(20 * time.Second); err != nil {
			return err
		}
		if err := r.c.back(s); err != nil {
			return err
		}
	}
	return nil
}

// replaceMember takes a fourth server in, takes it out again, and does so once more with a leader killed meanwhile.
func replaceMember(r *run) error {
	s := r.c.servers[3]
	for i := range 2 {
		s.start()
		if err := until(30*time.Second, s.ready); err != nil {
			return err
		}
		if err := until(40*time.Second, func() error { return r.voters(4) }); err != nil {
			return err
		}
		if i == 0 {
			r.c.transfer()
		} else {
			l := r.c.aLeader()
			if l == s {
				r.c.transfer()
				l = r.c.aLeader()
			}
			l.kill()
			r.kills++
			if err := r.c.back(l); err != nil {
				return err
			}
		}
		s.signal(syscall.SIGTERM)
		if err := s.ends(20 * time.Second); err != nil {
			return err
		}
		if err := r.takeOut(s); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) voters(n int) error {
	code, text, _, err := r.c.aLeader().do(r.ctx, "GET", "/v1/operator/raft/configuration", "")
	if err != nil {
		return err
	}
	if got := strings.Count(text, `"Voter":true`); code != 200 || got != n {
		return fmt.Errorf("%d voters, want %d: %d %s", got, n, code, text)
	}
	return nil
}

// takeOut takes a stopped server out of Raft, if its leave hasn't.
func (r *run) takeOut(s *server) error {
	return until(40*time.Second, func() error {
		if r.voters(3) == nil {
			return nil
		}
		code, text, _, err := r.c.aLeader().do(r.ctx, "DELETE", "/v1/operator/raft/peer?address="+address(s.n).String()+":8300", "")
		return errors.Join(err, fmt.Errorf("%s is still there: %d %s", s.name(), code, text))
	})
}

// restore saves a snapshot, and restores it while the clients work: every unit goes back to what it was.
func restore(r *run) error {
	r.c.transfer()
	return r.c.restoreUnder(r)
}

// restoreUnder saves the state while nobody writes, and restores it under load.
func (c *cluster) restoreUnder(r *run) error {
	var values map[int]string
	var archive string
	err := until(20*time.Second, func() (err error) {
		r.gate.Lock()
		defer r.gate.Unlock()
		s := c.aLeader()
		if values, err = r.values(s); err != nil {
			return err
		}
		code, text, _, err := s.do(r.ctx, "GET", "/v1/snapshot", "")
		if err != nil || code != 200 {
			return fmt.Errorf("save: %d %w", code, err)
		}
		archive = text
		after, err := r.values(s)
		if err == nil && !maps.Equal(values, after) {
			err = errors.New("a write came late")
		}
		return err
	})
	if err != nil {
		return err
	}
	r.reach(r.progress() + 300)
	call := r.now()
	code, text, _, err := c.aLeader().do(r.ctx, "PUT", "/v1/snapshot", archive)
	if err != nil || code != 200 {
		return fmt.Errorf("restore: %d %s %w", code, text, err)
	}
	for u := range units {
		r.add(0, input{unit: u, verb: restored, value: values[u]}, call, output{known: true})
	}
	r.reach(r.progress() + 300)
	return nil
}

// values are what units hold, without those that are absent.
func (r *run) values(s *server) (map[int]string, error) {
	values := map[int]string{}
	for u := range units {
		code, text, _, err := s.do(r.ctx, "GET", "/v1/kv/"+r.path(u, "a")+"?raw", "")
		if err != nil || code != 200 && code != 404 {
			return nil, fmt.Errorf("unit %d: %d %s %w", u, code, text, err)
		}
		if code == 200 {
			values[u] = text
		}
	}
	return values, nil
}
