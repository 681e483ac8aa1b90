// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// flips denies and allows web → api in turn, and measures from the write's beginning until new calls see it.
func (m *mesh) flips(ctx context.Context, n int) error {
	var denied, allowed []time.Duration
	for i := range n {
		action, want := "deny", false
		if i%2 == 1 {
			action, want = "allow", true
		}
		begin := time.Now()
		if err := m.put(ctx, "/v1/connect/intentions/exact?source=web&destination=api", object{"Action": action}); err != nil {
			return err
		}
		if err := until(ctx, 5*time.Second, func() error {
			if got := m.call(ctx) == nil; got != want {
				return fmt.Errorf("%s isn't in force", action)
			}
			return nil
		}); err != nil {
			return err
		}
		if want {
			allowed = append(allowed, time.Since(begin))
		} else {
			denied = append(denied, time.Since(begin))
		}
	}
	summary(m.kind+" "+m.protocol+" deny → refused", denied)
	summary(m.kind+" "+m.protocol+" allow → served", allowed)
	return nil
}

// registrations measures from a registration's beginning until web's proxy was told and has taken it: its agent says that the
// hash of the newest rendering, another than before, is acknowledged.
func (m *mesh) registrations(ctx context.Context, n int) error {
	var took []time.Duration
	for i := range n {
		before, err := m.acked(ctx)
		if err != nil {
			return err
		}
		b := *m.backends[0]
		b.id = "api-r" + strconv.Itoa(i)
		begin := time.Now()
		if err := m.put(ctx, "/v1/agent/service/register", m.registration(&b)); err != nil {
			return err
		}
		if err := until(ctx, 10*time.Second, func() error {
			now, err := m.acked(ctx)
			if err == nil && now == before {
				err = errors.New("web's proxy hasn't got it")
			}
			return err
		}); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		if err := m.put(ctx, "/v1/agent/service/deregister/"+b.id, nil); err != nil {
			return err
		}
		if err := until(ctx, 10*time.Second, func() error {
			now, err := m.acked(ctx)
			if err == nil && now != before {
				err = errors.New("the removal hasn't arrived")
			}
			return err
		}); err != nil {
			return err
		}
	}
	summary(m.kind+" registration → endpoint list", took)
	return nil
}

// acked is the hash that web's proxy has, once it is that of the newest rendering.
func (m *mesh) acked(ctx context.Context) (string, error) {
	var all []struct{ ProxyID, RenderedHash, AckedHash string }
	if _, err := m.api.Do(ctx, http.MethodGet, "/v1/agent/connect/proxies", nil, nil, &all); err != nil {
		return "", err
	}
	for _, p := range all {
		if p.ProxyID == "web-sidecar-proxy" && p.AckedHash != "" && p.AckedHash == p.RenderedHash {
			return p.AckedHash, nil
		}
	}
	return "", errors.New("web's proxy isn't up to date")
}

// ready says whether a proxy has its newest configuration and listens.
func (m *mesh) ready(ctx context.Context, id string) error {
	var all []struct{ ProxyID, RenderedHash, AckedHash string }
	if _, err := m.api.Do(ctx, http.MethodGet, "/v1/agent/connect/proxies", nil, nil, &all); err != nil {
		return err
	}
	for _, p := range all {
		if p.ProxyID == id && p.AckedHash != "" && p.AckedHash == p.RenderedHash {
			var s struct{ Port int }
			if _, err := m.api.Do(ctx, http.MethodGet, "/v1/agent/service/"+id, nil, nil, &s); err != nil {
				return err
			}
			conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(s.Port), time.Second)
			if err != nil {
				return err
			}
			return conn.Close()
		}
	}
	return fmt.Errorf("%s isn't up to date", id)
}

// memory shows what the processes take, idle and with 64 busy connections.
func (m *mesh) memory(ctx context.Context) error {
	show := func(when string) error {
		procs := map[string]int{"agent": m.agent.Process.Pid}
		for id, c := range m.sidecars {
			procs["sidecar of "+id] = c.Process.Pid
		}
		if pid, err := m.hostProxy(); err == nil {
			procs["host proxy"] = pid
		}
		for name, pid := range procs {
			anonymous, pss, err := usage(pid)
			if err != nil {
				return err
			}
			fmt.Printf("%-8s %-20s %-8s anonymous %5.1f MB  PSS %5.1f MB\n", m.kind, name, when, anonymous, pss)
		}
		return nil
	}
	if err := wait(ctx, 5*time.Second); err != nil {
		return err
	}
	if err := show("idle"); err != nil {
		return err
	}
	lctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			for lctx.Err() == nil {
				if req, err := http.NewRequestWithContext(lctx, http.MethodGet, m.url(), nil); err == nil {
					if resp, err := client.Do(req); err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
				}
			}
		})
	}
	err := wait(ctx, 8*time.Second)
	if err == nil {
		err = show("busy 64")
	}
	stop()
	wg.Wait()
	if m.kind == "host" && err == nil {
		err = m.more(ctx)
	}
	return err
}

// more shows what further services cost the host proxy.
func (m *mesh) more(ctx context.Context) error {
	pid, err := m.hostProxy()
	if err != nil {
		return err
	}
	before, pssBefore, err := usage(pid)
	if err != nil {
		return err
	}
	const further = 50
	for i := range further {
		if err := m.put(ctx, "/v1/agent/service/register", object{
			"Name": "more-" + strconv.Itoa(i), "Port": 1, "Address": "127.0.0.1", "Connect": object{"SidecarService": object{}},
		}); err != nil {
			return err
		}
	}
	if err := wait(ctx, 10*time.Second); err != nil {
		return err
	}
	after, pss, err := usage(pid)
	fmt.Printf("%-8s each of %d further services: anonymous %.2f MB  PSS %.2f MB\n", m.kind, further, (after-before)/further, (pss-pssBefore)/further)
	return err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *mesh) hostProxy() (int, error) {
	matches, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range matches {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), "-shared\x00-socket\x00"+m.dir) {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, errors.New("no host proxy")
}

// usage reads a process's anonymous memory and its proportional share, in MB.
func usage(pid int) (anonymous, pss float64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "Anonymous:":
			anonymous = kb / 1000
		case "Pss:":
			pss = kb / 1000
		}
	}
	return anonymous, pss, nil
}

// disturbances are what happens during the soak, at the most.
type disturbances struct{ rotations, restarts, changes int }

// workers send the soak's requests, one at a time each.
const workers = 32

// soak sends n requests, each once, while the CA's root rotates (every leaf with it), the agent is killed and started again, and
// instances come and go; where these take longer it sends more. Then it compares what was answered with what the backends saw.
func (m *mesh) soak(ctx context.Context, n int, d disturbances) error {
	if err := m.addBackend(ctx, "api-2"); err != nil {
		return err
	}
	// Its registration has no check of the sidecar, so that endpoints change at once; the sidecar has to be there first.
	if err := until(ctx, 20*time.Second, func() error { return m.ready(ctx, "api-2-sidecar-proxy") }); err != nil {
		return err
	}
	var sent, failed atomic.Int64
	var failures sync.Map       // text → *failure
	calm := make(chan struct{}) // nothing is disturbed any more
	var wg sync.WaitGroup
	begin := time.Now()
	for w := range workers {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 30 * time.Second}
			for {
				i := sent.Add(1)
				if i > int64(n) {
					select {
					case <-calm:
						sent.Add(-1)
						return
					default:
					}
				}
				if err := once(ctx, client, m.url(), strconv.Itoa(w)+"-"+strconv.FormatInt(i, 10)); err != nil {
					failed.Add(1)
					f, _ := failures.LoadOrStore(err.Error(), &failure{})
					f.(*failure).note(time.Since(begin))
				}
			}
		})
	}
	counts, err := m.disturb(ctx, d)
	close(calm)
	wg.Wait()
	n = int(sent.Load())
	took := time.Since(begin)
	lost, doubled := 0, 0
	total := 0
	m.seen.Range(func(_, v any) bool {
		total++
		if v.(*atomic.Int32).Load() > 1 {
			doubled++
		}
		return true
	})
	lost = n - total
	fmt.Printf("%-8s soak: %d requests in %v (%.0f/s), %s: %d answered with an error, %d never reached a backend, %d reached it twice\n",
		m.kind, n, took.Round(time.Second), float64(n)/took.Seconds(), counts, failed.Load(), lost, doubled)
	failures.Range(func(text, f any) bool {
		sort := f.(*failure)
		fmt.Printf("  %d × %v, from %v to %v\n", sort.n, text, sort.first.Round(time.Millisecond), sort.last.Round(time.Millisecond))
		return true
	})
	return err
}

// failure is one sort of failed request.
type failure struct {
	mu          sync.Mutex
	n           int
	first, last time.Duration // since the beginning
}

func (f *failure) note(at time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n == 0 {
		f.first = at
	}
	f.n++
	f.last = at
}

func once(ctx context.Context, client *http.Client, url, id string) error {
	// A POST: neither the client nor a proxy may send it again.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(id))
	if err != nil {
		return err
	}
	req.Header.Set("x-bench-id", id)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s (%s)", resp.Status, resp.Header.Get("x-weft-reason"))
	}
	return nil
}

// disturb changes things in turn, as often as planned.
func (m *mesh) disturb(ctx context.Context, d disturbances) (string, error) {
	var rotated, restarted, changed int
	out := func() string {
		return fmt.Sprintf("%d rotations, %d agent restarts (kill -9), %d endpoint changes", rotated, restarted, changed)
	}
	registered := true
	for step := 1; rotated < d.rotations || restarted < d.restarts || changed < d.changes; step++ {
		if err := wait(ctx, 300*time.Millisecond); err != nil {
			return out(), err
		}
		if changed < d.changes {
			path, body := "/v1/agent/service/deregister/api-2", any(nil)
			if !registered {
				path, body = "/v1/agent/service/register", m.registration(m.backends[1])
			}
			if err := m.put(ctx, path, body); err != nil {
				return out(), fmt.Errorf("endpoint change %d: %w", changed, err)
			}
			registered = !registered
			changed++
		}
		if rotated < d.rotations {
			if err := m.put(ctx, "/v1/connect/ca/configuration", object{"Provider": "consul", "Config": object{"Rotate": true}}); err != nil {
				return out(), fmt.Errorf("rotation %d: %w", rotated, err)
			}
			rotated++
		}
		if step%5 == 0 && restarted < d.restarts {
			_ = m.agent.Process.Signal(syscall.SIGKILL)
			_ = m.agent.Wait() // killed
			if err := m.startAgent(ctx); err != nil {
				return out(), fmt.Errorf("restart %d: %w", restarted, err)
			}
			restarted++
		}
	}
	return out(), nil
}
