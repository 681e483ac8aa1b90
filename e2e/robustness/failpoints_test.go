// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/failpoint"
)

// starting are points that a server meets only when it starts, or is sent a snapshot.
var starting = []failpoint.Point{failpoint.SegmentBefore, failpoint.SegmentAfter, failpoint.RestoreBefore, failpoint.RestoreAfter}

// failAt starts a server that crashes at a point, soon after it leads or follows, waits for that, and starts it as it should be. Without
// the crash the row fails: the point wasn't reached.
func failAt(p failpoint.Point, what string, leader bool) func(*run) error {
	return func(r *run) error {
		l := r.c.aLeader()
		s := l
		if !leader || slices.Contains(starting, p) {
			s = r.c.followers(l)[rand.IntN(2)]
		}
		if p == failpoint.RestoreBefore || p == failpoint.RestoreAfter {
			if err := compacted(l); err != nil {
				return err
			}
		}
		s.kill()
		at := 1
		switch p {
		case failpoint.Propose, failpoint.Answer, failpoint.AppendBefore, failpoint.AppendAfter, failpoint.WriteHalf, failpoint.SyncBefore,
			failpoint.SyncAfter, failpoint.ApplyBefore, failpoint.ApplyAfter:
			at = 1 + rand.IntN(120)
		case failpoint.AppendHalf:
			at = 1 + rand.IntN(10)
		}
		env := s.env
		s.env = append(slices.Clone(env), fmt.Sprintf("WEFT_FAIL=%s=%s@%d", p, what, at))
		if slices.Contains(starting, p) { // nothing of it is left: the leader sends a snapshot
			if err := os.RemoveAll(s.data() + "/server"); err != nil {
				return err
			}
		}
		s.start()
		s.env = env
		if p == failpoint.TransferPending || leader && !slices.Contains(starting, p) {
			_ = until(10*time.Second, s.ready) // it may have failed already
			if err := r.lead(s); err != nil {
				return err
			}
		}
		if p == failpoint.TransferPending {
			s.signal(15)
		}
		if err := s.ends(30 * time.Second); err != nil {
			return fmt.Errorf("failpoint %s wasn't reached: %w", p, err)
		}
		r.kills++
		if log := tail(s.log(), 400); !strings.Contains(log, fmt.Sprintf("failpoint %s: %s", p, what)) {
			return fmt.Errorf("%s ended for another reason than failpoint %s: %s", s.name(), p, tail(s.log(), 5))
		}
		if err := r.nextWrite(r.c.followers(s)[0]); err != nil {
			return err
		}
		if err := r.c.back(s); err != nil {
			return err
		}
		if r.c.aLeader() == l {
			r.c.transfer()
		}
		return nil
	}
}

// compacted waits until the first file of a server's log is gone, so that who has nothing is sent a snapshot: of the file that is written
// to, a server goes on giving away what was cut off, until it starts anew.
func compacted(s *server) error {
	return until(30*time.Second, func() error {
		first, err := filepath.Glob(s.data() + "/server/log/00000000000000000001-*.wal")
		if err == nil && len(first) > 0 {
			err = fmt.Errorf("%s still has %s", s.name(), first[0])
		}
		return err
	})
}

// lead has a server lead, or end in the attempt.
func (r *run) lead(s *server) error {
	return until(30*time.Second, func() error {
		l := r.c.leader()
		if l == s || !s.runs() {
			return nil
		}
		if l == nil {
			return fmt.Errorf("nobody leads")
		}
		id, err := os.ReadFile(s.data() + "/node-id")
		if err != nil {
			return err
		}
		_, _, _, _ = l.do(r.ctx, "POST", "/v1/operator/raft/transfer-leader?id="+strings.TrimSpace(string(id)), "") // asked again if it wasn't done
		return fmt.Errorf("%s leads", l.name())
	})
}

// failpointRows crash a server at each write point: as the leader, and for what a follower does as well, as a follower.
func failpointRows() []row {
	var out []row
	for _, p := range failpoint.Points() {
		out = append(out, row{name: "crash-" + string(p), faults: "F3 F4", long: 2, binary: withFailpoints, env: []string{"WEFT_FAIL_POWER=1"}, fault: failAt(p, "crash", true)})
		switch p {
		case failpoint.AppendBefore, failpoint.WriteHalf, failpoint.SyncBefore, failpoint.SyncAfter, failpoint.ApplyBefore, failpoint.CompactBefore, failpoint.SnapshotRename:
			out = append(out, row{name: "follower-" + string(p), faults: "F3 F4", long: 2, binary: withFailpoints, env: []string{"WEFT_FAIL_POWER=1"}, fault: failAt(p, "crash", false)})
		}
	}
	for _, p := range []failpoint.Point{failpoint.AppendBefore, failpoint.WriteHalf, failpoint.SyncBefore, failpoint.SyncAfter} {
		out = append(out, row{name: "error-" + string(p), faults: "F5", long: 2, binary: withFailpoints, fault: failAt(p, "error", true)})
	}
	return out
}

// TestFailpoints plays all points on one cluster: a history for each.
func TestFailpoints(t *testing.T) {
	enabled(t)
	binary := withFailpoints(t)
	rep := newReport(t)
	all := failpointRows()
	if !long() {
		all = pick(all, 2)
	}
	for _, env := range [][]string{{"WEFT_FAIL_POWER=1"}, nil} {
		var faults []func(*run) error
		var names []string
		for _, w := range all {
			if (w.env == nil) == (env == nil) {
				for range times(w.long) {
					faults, names = append(faults, w.fault), append(names, w.name)
				}
			}
		}
		if len(faults) == 0 {
			continue
		}
		name := map[bool]string{true: "failpoints-power", false: "failpoints-errors"}[env != nil]
		t.Run(name, func(t *testing.T) {
			i := -1
			w := row{name: name, faults: map[bool]string{true: "F3 F4", false: "F5"}[env != nil], env: env, fault: func(r *run) error {
				i++
				if err := faults[i](r); err != nil {
					return fmt.Errorf("%s: %w", names[i], err)
				}
				t.Logf("%s: reached", names[i])
				return nil
			}}
			rep.add(play(t, w, binary, len(faults)))
		})
	}
}

// pick takes some at random.
func pick(all []row, n int) []row {
	out := slices.Clone(all)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(n, len(out))]
}
