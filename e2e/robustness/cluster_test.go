// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cluster is servers of real processes, numbered from 1, each in its namespace. Their HTTP is on Unix sockets, which no cut of the
// network reaches: a client can always ask.
type cluster struct {
	t       *testing.T
	dir     string
	binary  string
	key     string
	net     *network
	expect  int
	servers []*server
	seen    *indexes

	restores bool
}

type server struct {
	c      *cluster
	n      int
	socket string
	client *http.Client

	mu    sync.Mutex
	p     *process // nil: it doesn't run
	env   []string // of the next start
	args  []string
	under []string // a program that starts it
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// settings make servers snapshot and compact often, so that every row meets that too.
const settings = `raft_snapshot_threshold = 400 raft_snapshot_interval = "2s" raft_trailing_logs = 200 raft_logstore { wal { segment_size_mb = 1 } } ` +
	`autopilot { server_stabilization_time = "1s" }`

// newCluster starts three servers of a network with room for more. before, unless it is nil, prepares a server.
func newCluster(t *testing.T, binary string, ports int, before func(*server) error, env ...string) *cluster {
	t.Helper()
	enabled(t)
	seed := mrand.Uint64()
	t.Logf("the network's seed is %d", seed)
	w, err := newNetwork(ports, seed)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "weft-robust-") // short: the paths of sockets have 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	c := &cluster{t: t, dir: dir, binary: binary, key: base64.StdEncoding.EncodeToString(key), net: w, expect: 3, seen: newIndexes()}
	for n := 1; n <= ports; n++ {
		s := &server{c: c, n: n, socket: filepath.Join(dir, fmt.Sprintf("s%d.sock", n)), env: env}
		s.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", s.socket)
		}}}
		c.servers = append(c.servers, s)
	}
	t.Cleanup(func() {
		for _, s := range c.servers {
			s.kill()
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the servers' logs and data are in %s", dir)
			return
		}
		_ = os.RemoveAll(dir) // it is below the system's temporary folder
	})
	for _, s := range c.servers {
		if before != nil {
			if err := before(s); err != nil {
				t.Fatal(err)
			}
		}
		if s.n <= c.expect {
			s.start()
		}
	}
	c.allReady()
	if t.Failed() {
		t.FailNow()
	}
	return c
}

func (s *server) name() string { return fmt.Sprintf("s%d", s.n) }
func (s *server) data() string { return filepath.Join(s.c.dir, s.name()) }
func (s *server) log() string  { return filepath.Join(s.c.dir, s.name()+".log") }

func (s *server) start(more ...string) {
	s.c.t.Helper()
	at := address(s.n).String()
	args := append([]string{}, s.under...)
	args = append(args, s.c.binary, "agent", "-server", "-node", s.name(), "-data-dir", s.data(), "-bind", at, "-advertise", at,
		"-encrypt", s.c.key, "-retry-interval", "1s", "-hcl", settings+fmt.Sprintf(` addresses { http = "unix://%s" }`, s.socket))
	if s.n <= s.c.expect {
		args = append(args, "-bootstrap-expect", fmt.Sprint(s.c.expect))
	}
	for n := 1; n <= s.c.expect; n++ {
		args = append(args, "-retry-join", address(n).String())
	}
	args = append(append(args, s.args...), more...)
	f, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.c.t.Fatal(err)
	}
	p := &process{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = f, f, append(os.Environ(), s.env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := s.c.net.ports[s.n-1].ns.do(p.cmd.Start); err != nil {
		s.c.t.Fatal(err)
	}
	go func() { // ends with the process
		_ = p.cmd.Wait() // killed, as a rule
		_ = f.Close()
		close(p.done)
	}()
	s.mu.Lock()
	s.p = p
	s.mu.Unlock()
}

func (s *server) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p
}

// runs says whether there is a process that hasn't ended by itself.
func (s *server) runs() bool {
	p := s.process()
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (s *server) signal(sig syscall.Signal) {
	if p := s.process(); p != nil {
		_ = syscall.Kill(-p.cmd.Process.Pid, sig) // it may have ended
	}
}

// kill is kill -9, of what started the server as well.
func (s *server) kill() {
	s.signal(syscall.SIGKILL)
	s.gone()
}

// gone waits until the process has ended.
func (s *server) gone() {
	if p := s.process(); p != nil {
		<-p.done
	}
	s.mu.Lock()
	s.p = nil
	s.mu.Unlock()
}

// ends waits until the process has ended by itself.
func (s *server) ends(d time.Duration) error {
	p := s.process()
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
	case <-time.After(d):
		return fmt.Errorf("%s still runs after %s", s.name(), d)
	}
	s.gone()
	return nil
}

// do asks the server, and gives status, body and header.
func (s *server) do(ctx context.Context, method, path, body string) (int, string, http.Header, error) {
	return ask(ctx, s.client, method, path, body)
}

func ask(ctx context.Context, client *http.Client, method, path, body string) (int, string, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), resp.Header, err
}

// want is nil if the server answers with 200 and a part.
func (s *server) want(method, path, body, part string) error {
	code, text, _, err := s.do(context.Background(), method, path, body)
	if err == nil && (code != http.StatusOK || !strings.Contains(text, part)) {
		err = fmt.Errorf("%s at %s %s: %d %.300s, want %q", method, s.name(), path, code, text, part)
	}
	return err
}

// ready is nil if the server reads what all have agreed on.
func (s *server) ready() error {
	if !s.runs() {
		return fmt.Errorf("%s doesn't run: %s", s.name(), tail(s.log(), 3))
	}
	return s.want("GET", "/v1/catalog/services", "", "")
}

func (c *cluster) allReady() {
	c.t.Helper()
	for _, s := range c.servers {
		if s.process() != nil {
			c.ready(s)
		}
	}
}

func (c *cluster) ready(s *server) {
	c.t.Helper()
	if err := until(60*time.Second, s.ready); err != nil {
		c.t.Error(err)
	}
}

// leader is the server that a majority takes for the leader.
func (c *cluster) leader() *server {
	votes := map[string]int{}
	for _, s := range c.servers[:c.expect] {
		if !s.runs() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		_, text, _, err := s.do(ctx, "GET", "/v1/status/leader", "")
		cancel()
		var at string
		if err == nil && json.Unmarshal([]byte(text), &at) == nil && at != "" {
			votes[at]++
		}
	}
	for at, n := range votes {
		for _, s := range c.servers {
			if n >= c.expect/2+1 && at == address(s.n).String()+":8300" {
				return s
			}
		}
	}
	return nil
}

// aLeader waits for one that runs.
func (c *cluster) aLeader() *server {
	var l *server
	err := until(30*time.Second, func() error {
		if l = c.leader(); l == nil || !l.runs() {
			return errors.New("nobody leads")
		}
		return nil
	})
	if err != nil {
		c.t.Error(err)
		return c.servers[0]
	}
	return l
}

// followers are the founders that don't lead.
func (c *cluster) followers(leader *server) []*server {
	var out []*server
	for _, s := range c.servers[:c.expect] {
		if s != leader {
			out = append(out, s)
		}
	}
	return out
}

// transfer has another server lead: it asks again where that isn't done, as on a busy machine.
func (c *cluster) transfer() {
	from := c.aLeader()
	err := until(30*time.Second, func() error {
		if l := c.leader(); l != nil && l != from {
			return nil
		}
		_, _, _, _ = from.do(context.Background(), "POST", "/v1/operator/raft/transfer-leader", "") // the answer may be lost with the leadership
		return until(time.Second, func() error {
			if l := c.leader(); l == nil || l == from {
				return errors.New("the same leads")
			}
			return nil
		})
	})
	if err != nil {
		c.t.Logf("%s doesn't hand over: %v", from.name(), err)
	}
}

// until tries f again and again, for d at most.
func until(d time.Duration, f func() error) error {
	begin := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || time.Since(begin) > d {
			if err != nil {
				err = fmt.Errorf("not within %s: %w", d, err)
			}
			return err
		}
		<-tick.C
	}
}

// tail is the end of a log.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
