// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// trace has strace change what a running server's system calls do. It returns once that is in force.
func (s *server) trace(inject string) (stop func(), err error) {
	calls, _, _ := strings.Cut(inject, ":")
	out := filepath.Join(s.c.dir, s.name()+".strace")
	cmd := exec.Command("strace", "-f", "-q", "-p", strconv.Itoa(s.process().cmd.Process.Pid), "-o", out, "-e", "trace="+calls, "-e", "inject="+inject)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("strace: %w", err)
	}
	done := make(chan struct{})
	go func() { // ends with strace, which ends with what it traces, or by stop
		_ = cmd.Wait() // the program that it traces fails, as a rule
		close(done)
	}()
	status := fmt.Sprintf("/proc/%d/status", s.process().cmd.Process.Pid)
	err = until(10*time.Second, func() error {
		data, err := os.ReadFile(status)
		if err != nil {
			return nil // it has ended already
		}
		if strings.Contains(string(data), "TracerPid:\t0\n") {
			select {
			case <-done:
				return nil
			default:
				return errors.New("strace isn't attached: " + said.String())
			}
		}
		return nil
	})
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it lets go of the server
		<-done
	}, err
}

// failFsyncs has fsync fail on the leader or a follower, four times. The server stops within a second of its next write, and has lost
// nothing when it starts again.
func failFsyncs(r *run) error {
	for i := range 4 {
		l := r.c.aLeader()
		s := l
		if i%2 == 1 {
			s = r.c.followers(l)[rand.IntN(2)]
		}
		inject := "fsync,fdatasync:error=EIO"
		if rand.IntN(2) == 0 {
			inject += fmt.Sprintf(":when=%d+", 1+rand.IntN(3)) // of each thread
		}
		stop, err := s.trace(inject)
		if err != nil {
			return err
		}
		err = s.ends(30 * time.Second)
		stop()
		if err != nil {
			return fmt.Errorf("fsync of %s failed (%s), and %w: %s", s.name(), inject, err, tail(filepath.Join(s.c.dir, s.name()+".strace"), 5))
		}
		r.fsyncs++
		if log := tail(s.log(), 60); !strings.Contains(log, "input/output error") {
			return fmt.Errorf("%s ended and doesn't say why: %s", s.name(), log)
		}
		if err := r.nextWrite(r.c.followers(s)[rand.IntN(2)]); err != nil {
			return err
		}
		if err := r.c.back(s); err != nil {
			return err
		}
	}
	return nil
}

// slowDisk delays each fsync of the leader by a third of a second, and then has another lead.
func slowDisk(r *run) error {
	l := r.c.aLeader()
	stop, err := l.trace("fsync,fdatasync:delay_enter=300000")
	if err != nil {
		return err
	}
	r.reach(r.progress() + 100)
	if r.c.aLeader() == l {
		r.c.transfer()
	}
	r.reach(r.progress() + 300)
	stop()
	return r.allBack()
}

// smallDisk mounts a file system of its own at a server's data directory.
func smallDisk(s *server) error {
	return s.inside(func() error {
		if err := os.MkdirAll(s.data(), 0o755); err != nil {
			return err
		}
		return unix.Mount("tmpfs", s.data(), "tmpfs", 0, "size=260m")
	})
}

// inside does something where the server's own mounts are seen.
func (s *server) inside(f func() error) error { return s.c.net.ports[s.n-1].ns.do(f) }

// fill takes all room on a server's disk but left bytes.
func (s *server) fill() error {
	return s.inside(func() error {
		f, err := os.Create(filepath.Join(s.data(), "ballast"))
		if err != nil {
			return err
		}
		block := make([]byte, 1<<20)
		for err == nil {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return errors.Join(err, f.Close())
		}
		return f.Close()
	})
}

func (s *server) empty() error {
	return s.inside(func() error { return os.Remove(filepath.Join(s.data(), "ballast")) })
}

// fillDisks fills the leader's disk, then everybody's: writes go on elsewhere, then are refused and say why, while reads go on; with room
// they go on by themselves, and nothing is damaged.
func fillDisks(r *run) error {
	l := r.c.aLeader()
	defer func() {
		for _, s := range r.c.servers[:r.c.expect] {
			_ = s.empty() // it is, as a rule
		}
	}()
	if err := l.fill(); err != nil {
		return err
	}
	big := strings.Repeat("x", 500<<10)
	began := time.Now()
	err := until(30*time.Second, func() error {
		return r.c.followers(l)[0].want("PUT", "/v1/kv/big", big, "true")
	})
	if err != nil {
		return fmt.Errorf("the leader's disk is full, and the others' aren't: %w", err)
	}
	r.took = append(r.took, time.Since(began))
	for _, s := range r.c.followers(l) {
		if err := s.fill(); err != nil {
			return err
		}
	}
	for range 40 { // enough for what is left of a file of the log, were they written
		for _, s := range r.c.servers[:r.c.expect] {
			if !s.runs() {
				return fmt.Errorf("%s ended on a full disk: %s", s.name(), tail(s.log(), 3))
			}
			if err := s.want("GET", "/v1/catalog/services?stale", "", ""); err != nil {
				return fmt.Errorf("a stale read on a full disk: %w", err)
			}
		}
		// One whose disk was full before the others' can't have what was written since.
		if err := until(10*time.Second, func() error { return r.c.aLeader().want("GET", "/v1/kv/big", "", "") }); err != nil {
			return fmt.Errorf("a read on a full disk: %w", err)
		}
		code, text, _, err := r.c.servers[rand.IntN(3)].do(r.ctx, "PUT", "/v1/kv/big", big)
		if err == nil && code == 200 {
			pause(r.ctx, 20*time.Millisecond) // room is looked for ten times a second
			continue
		}
		if err == nil && code != 507 && !strings.Contains(text, "leader") {
			return fmt.Errorf("a write on a full disk: %d %s", code, text)
		}
	}
	code, text, _, err := r.c.aLeader().do(r.ctx, "PUT", "/v1/kv/big", big)
	if err != nil || code != 507 || !strings.Contains(text, "the disk is full") {
		return fmt.Errorf("a write on a full disk: %d %s %w", code, text, err)
	}
	for _, s := range r.c.servers[:r.c.expect] {
		if err := s.empty(); err != nil {
			return err
		}
	}
	if err := r.nextWrite(r.c.servers[0]); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if r.c.aLeader() == l {
		r.c.transfer()
	}
	return r.allBack()
}
