// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The table of what servers and agents cost: each row on real processes, processor time from /proc, beside Consul where a binary
// is there (-consul), else beside what was measured of Consul 1.21.4 on two processors.

// clusterConfig says what is measured, and how much of it.
type clusterConfig struct {
	weft, consul string
	only         string // rows, by number, separated by commas; "" all
	seconds      time.Duration
	subscribers  int
	gossip       int    // nodes; 0: not measured
	profile      string // the folder for profiles of servers; "": none
}

// place is one agent that runs, a server or not.
type place struct {
	name, ip, dir string
	binary        string
	args          []string
	cmd           *exec.Cmd
	http          *http.Client
}

// ward is the processes of one measurement, on loopback addresses of their own.
type ward struct {
	binary, dir, net, key string
	used                  int
	places                []*place
}

func newWard(binary string) (*ward, error) {
	dir, err := os.MkdirTemp("", "weft-figures-")
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return &ward{binary: binary, dir: dir, key: base64.StdEncoding.EncodeToString(key), net: fmt.Sprintf("127.%d.%d.", 64+mathrand.IntN(128), mathrand.IntN(256))}, nil
}

func (w *ward) close() {
	for _, p := range w.places {
		p.kill()
	}
	if os.Getenv("BENCH_KEEP") == "" {
		_ = os.RemoveAll(w.dir) // a temporary folder
	}
}

// agent starts an agent that joins the first one, and waits until it takes writes.
func (w *ward) agent(ctx context.Context, name string, more ...string) (*place, error) {
	w.used++
	p := &place{}
	w.places = append(w.places, p)
	return p, w.begin(ctx, p, name, w.used, more...)
}

// member starts one of several servers.
func (w *ward) member(ctx context.Context, p *place, number, size int) error {
	return w.begin(ctx, p, fmt.Sprint("s", number), number, "-server", "-bootstrap-expect", strconv.Itoa(size))
}

func (w *ward) begin(ctx context.Context, p *place, name string, number int, more ...string) error {
	p.name, p.ip, p.binary = name, fmt.Sprint(w.net, number), w.binary
	p.dir = filepath.Join(w.dir, p.ip)
	p.args = append([]string{
		"agent", "-node", name, "-bind", p.ip, "-advertise", p.ip, "-client", p.ip, "-data-dir", p.dir, "-encrypt", w.key, "-log-level", "warn",
		"-retry-join", w.net + "1", "-retry-interval", "1s", "-hcl", "limits { http_max_conns_per_client = 8000 }", "-hcl", "enable_debug = true",
	}, more...)
	p.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8000, DisableCompression: true}, Timeout: 2 * time.Minute}
	return p.start(ctx)
}

func (p *place) start(ctx context.Context) error {
	log, err := os.OpenFile(p.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.binary, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	return until(ctx, time.Minute, func() error {
		_, err := p.ask(ctx, http.MethodPut, "/v1/kv/ready", "x")
		return err
	})
}

func (p *place) kill() {
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

func (p *place) cpu() time.Duration { return cpuOf([]int{p.cmd.Process.Pid}) }

func (p *place) pss() float64 {
	_, pss, err := usage(p.cmd.Process.Pid)
	if err != nil {
		return 0
	}
	return pss
}

var errStatus = errors.New("not 200")

func (p *place) ask(ctx context.Context, method, path, body string) (http.Header, error) {
	h, _, err := p.read(ctx, method, path, body)
	return h, err
}

func (p *place) read(ctx context.Context, method, path, body string) (http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.ip+":8500"+path, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %w: %d %s", method, path, errStatus, resp.StatusCode, bytes.TrimSpace(data))
	}
	return resp.Header, data, err
}

// profiled has an agent's processor profile written into the folder for them, if there is one, and then its memory profile; the answer says
// whether that is over, so that the rounds of a measurement go on until then.
func (c *clusterConfig) profiled(ctx context.Context, p *place, name string) (over func() bool) {
	if c.profile == "" {
		return func() bool { return true }
	}
	var done atomic.Bool
	go func() {
		defer done.Store(true)
		for what, path := range []string{fmt.Sprintf("profile?seconds=%.0f", max(1, c.seconds.Seconds())), "allocs"} {
			_, data, err := p.read(ctx, http.MethodGet, "/debug/pprof/"+path, "")
			if err == nil {
				err = os.WriteFile(filepath.Join(c.profile, name+[2]string{".pprof", ".allocs.pprof"}[what]), data, 0o600)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "no profile:", err)
			}
		}
	}()
	return done.Load
}

// cost is what an operation took of the servers' processors, and how many were done in a second.
type cost struct {
	cpu  time.Duration
	rate float64
}

// loop has clients do an operation for a time. The operation gets a number that nobody else gets.
func loop(ctx context.Context, clients int, d time.Duration, of []*place, do func(ctx context.Context, i int) error) (cost, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var n atomic.Int64
	var work sync.WaitGroup
	before, begin := cpuOfAll(of), time.Now()
	for range clients {
		work.Go(func() {
			for ctx.Err() == nil && time.Since(begin) < d {
				if err := do(ctx, int(n.Add(1))); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	work.Wait()
	took := time.Since(begin)
	if err := context.Cause(ctx); err != nil {
		return cost{}, err
	}
	count := max(1, n.Load())
	return cost{(cpuOfAll(of) - before) / time.Duration(count), float64(count) / took.Seconds()}, nil
}

func cpuOfAll(of []*place) (sum time.Duration) {
	for _, p := range of {
		sum += p.cpu()
	}
	return sum
}

// sockets raises this process's limit of open files to what it may be.
func sockets() (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	l.Cur = l.Max
	return l.Cur, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

var nodeDialer = &net.Dialer{Timeout: 30 * time.Second}
