// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// damage flips a byte of a stopped follower's newest snapshot, and then of its log. It must notice: it doesn't start and says so, or has
// what is damaged sent again. Emptied, it joins anew and gets everything.
func damage(r *run) error {
	for i, flip := range []func(*run, *server) (string, error){flipSnapshot, flipLog} {
		s := r.c.followers(r.c.aLeader())[rand.IntN(2)]
		r.reach(r.progress() + 500) // so that there is a snapshot, and something behind it
		if err := until(30*time.Second, func() error { _, err := newest(s, "snapshots/*/state.bin"); return err }); err != nil {
			return err
		}
		s.kill()
		where, err := flip(r, s)
		if err != nil {
			return err
		}
		s.start()
		began := time.Now()
		if err := until(20*time.Second, func() error {
			if !s.runs() {
				return nil
			}
			return s.ready()
		}); err != nil {
			return fmt.Errorf("%s neither starts nor ends with a damaged %s: %w", s.name(), where, err)
		}
		if !s.runs() {
			log := tail(s.log(), 20)
			r.c.t.Logf("%s: %s: refused: %s", r.name, where, tail(s.log(), 1))
			if !strings.Contains(log, "damaged") && !strings.Contains(log, "checksum") && !strings.Contains(log, "can't be") {
				return fmt.Errorf("%s ended with a damaged %s and doesn't say why: %s", s.name(), where, log)
			}
			s.gone()
			if err := os.RemoveAll(s.data()); err != nil {
				return err
			}
			if err := r.c.back(s); err != nil {
				return err
			}
			if err := until(60*time.Second, func() error { return r.voters(3) }); err != nil {
				return err
			}
		} else {
			r.c.t.Logf("%s: %s: it started, with what the others sent", r.name, where)
		}
		r.took = append(r.took, time.Since(began))
		if i == 0 {
			r.c.transfer()
		}
	}
	return nil
}

var errNone = errors.New("there is no such file")

// newest is the one of a server's files that was changed last.
func newest(s *server, pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(s.data(), "server", pattern))
	found = slices.DeleteFunc(found, func(path string) bool { return strings.Contains(path, ".tmp/") }) // not finished
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("%s of %s: %w", pattern, s.name(), errors.Join(err, errNone))
	}
	changed := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.ModTime().UnixNano()
	}
	return slices.MaxFunc(found, func(a, b string) int { return int(changed(a) - changed(b)) }), nil
}

func flipSnapshot(_ *run, s *server) (string, error) {
	path, err := newest(s, "snapshots/*/state.bin")
	if err != nil {
		return "", err
	}
	return path, flipIn(path, func(data []byte) int { return rand.IntN(len(data)) })
}

// flipLog damages an entry that this history wrote, not long ago.
func flipLog(r *run, s *server) (string, error) {
	path, err := newest(s, "log/*.wal")
	if err != nil {
		return "", err
	}
	return path, flipIn(path, func(data []byte) int {
		at := len(data)
		for range 1 + rand.IntN(10) {
			if next := bytes.LastIndex(data[:at], []byte(r.name+"/")); next >= 0 {
				at = next
			}
		}
		return min(at, len(data)-1)
	})
}

func flipIn(path string, where func([]byte) int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[where(data)] ^= 1 << rand.IntN(8)
	return os.WriteFile(path, data, 0o600)
}
