// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// town is agents on addresses of their own on loopback, with the usual ports.
type town struct {
	t    *testing.T
	net  string // 127.x.y.
	dir  string
	key  string
	used int
	http *http.Client
}

type resident struct {
	*process
	name, ip string
	town     *town
}

func newTown(t *testing.T) *town {
	t.Helper()
	key, errs, err := weft(nil, "", "keygen")
	if err != nil {
		t.Fatal(errs)
	}
	return &town{
		t: t, net: fmt.Sprintf("127.%d.%d.", 64+rand.IntN(128), rand.IntN(256)), dir: t.TempDir(), key: strings.TrimSpace(key),
		http: &http.Client{Timeout: 30 * time.Second},
	}
}

// agent starts an agent that joins the first one.
func (w *town) agent(name string, more ...string) *resident {
	w.t.Helper()
	w.used++
	ip := fmt.Sprint(w.net, w.used)
	args := append([]string{
		"agent", "-node", name, "-bind", ip, "-advertise", ip, "-client", ip, "-data-dir", filepath.Join(w.dir, ip), "-encrypt", w.key,
		"-retry-join", w.net + "1", "-retry-interval", "1s", "-retry-interval-wan", "1s",
	}, more...)
	p, err := start(name, filepath.Join(w.dir, ip+".log"), binary(), args...)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &resident{p, name, ip, w}
	w.t.Cleanup(func() {
		p.kill()
		if w.t.Failed() {
			w.t.Logf("%s ended with:\n%s", name, tail(p.log, 15))
		}
	})
	return r
}

func (r *resident) weft(args ...string) (string, error) {
	out, errs, err := weft(nil, "", append(args[:1:1], append([]string{"-http-addr", r.ip + ":8500"}, args[1:]...)...)...)
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, errs)
	}
	return out, nil
}

// sees waits until weft members shows a node so.
func (r *resident) sees(name, status string, within time.Duration) time.Duration {
	r.town.t.Helper()
	return until(r.town.t, within, func() error {
		out, err := r.weft("members")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 3 && f[0] == name && f[2] == status {
				return nil
			}
		}
		return fmt.Errorf("%s doesn't see %s as %s:\n%s", r.name, name, status, out)
	})
}

func (r *resident) do(method, path, body string) (string, error) {
	req, err := http.NewRequestWithContext(r.town.t.Context(), method, "http://"+r.ip+":8500"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := r.town.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, data)
	}
	return string(data), err
}

// ready waits until an agent's writes are taken.
func (r *resident) ready() {
	r.town.t.Helper()
	until(r.town.t, 30*time.Second, func() error {
		_, err := r.do("PUT", "/v1/kv/ready", r.name)
		return err
	})
}

// ends waits until the process has ended, and gives its exit code.
func (r *resident) ends(within time.Duration) int {
	r.town.t.Helper()
	select {
	case <-r.done:
	case <-time.After(within):
		r.town.t.Fatalf("%s still runs after %s", r.name, within)
	}
	var exit *exec.ExitError
	if errors.As(r.err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// TestMembers: agents join, one is killed and has failed, one is told to end and has left; who can't be a member ends with the
// reason; keys change under way.
func TestMembers(t *testing.T) {
	enabled(t)
	w := newTown(t)
	s := w.agent("s1", "-server", "-bootstrap-expect", "1")
	c1, c2 := w.agent("c1"), w.agent("c2")
	for _, r := range []*resident{s, c1, c2} {
		r.ready()
		for _, name := range []string{"s1", "c1", "c2"} {
			r.sees(name, "alive", 20*time.Second)
		}
	}
	for name, bad := range map[string][]string{
		"another datacenter": {"x1", "-datacenter", "dc2"},
		"its name":           {"c1"},
	} {
		x := w.agent(bad[0], append(bad[1:], "-retry-max", "1")...)
		if code := x.ends(20 * time.Second); code != 1 || !strings.Contains(tail(x.log, 3), name) {
			t.Errorf("%s: exit code %d\n%s", name, code, tail(x.log, 3))
		}
	}
	for _, args := range [][]string{{"keyring", "-install"}, {"keyring", "-use"}} {
		if args[1] == "-install" {
			w.key, _, _ = weft(nil, "", "keygen")
			w.key = strings.TrimSpace(w.key)
		}
		if _, err := c1.weft(append(args, w.key)...); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.weft("keyring", "-list-primary"); err != nil || !strings.Contains(out, w.key+" [3/3]") {
		t.Errorf("%s %v", out, err)
	}
	c3 := w.agent("c3") // with the new key
	s.sees("c3", "alive", 20*time.Second)
	c2.kill()
	t.Logf("killed: failed after %s", s.sees("c2", "failed", 30*time.Second))
	if err := c1.stop(20 * time.Second); err != nil {
		t.Error(err)
	}
	if code := c1.ends(time.Second); code != 0 {
		t.Errorf("the agent that left ended with %d", code)
	}
	s.sees("c1", "left", 5*time.Second)
	if _, err := c3.weft("force-leave", "-prune", "c2"); err != nil {
		t.Error(err)
	}
	if out, err := c3.weft("leave"); err != nil || !strings.Contains(out, "Graceful leave complete") {
		t.Error(out, err)
	}
	if code := c3.ends(20 * time.Second); code != 0 {
		t.Errorf("the agent that was told to leave ended with %d", code)
	}
}

// TestClientAgent: an agent without a server registers, reads and waits through servers, and goes on when the one that it asks is
// killed; a second datacenter is asked through the first.
func TestClientAgent(t *testing.T) {
	enabled(t)
	w := newTown(t)
	var servers []*resident
	for i := range 3 {
		servers = append(servers, w.agent(fmt.Sprint("s", i+1), "-server", "-bootstrap-expect", "3"))
	}
	c := w.agent("c1")
	far := w.agent("far", "-server", "-bootstrap-expect", "1", "-datacenter", "dc2", "-retry-join", w.net+"5", "-retry-join-wan", w.net+"1",
		"-retry-max", "0")
	c.ready()
	if _, err := c.do("PUT", "/v1/agent/service/register", `{"Name":"web","Port":80}`); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		until(t, 20*time.Second, func() error {
			out, err := s.do("GET", "/v1/health/service/web", "")
			if err == nil && !strings.Contains(out, `"Node":"c1"`) {
				err = errors.New("not there")
			}
			return err
		})
	}
	if _, err := c.do("PUT", "/v1/kv/watched", "before"); err != nil {
		t.Fatal(err)
	}
	var entry []struct{ ModifyIndex uint64 }
	out, err := c.do("GET", "/v1/kv/watched", "")
	if err != nil || json.Unmarshal([]byte(out), &entry) != nil {
		t.Fatal(out, err)
	}
	watched := make(chan string, 1)
	go func() { // ends with its answer, or the client's time
		out, err := c.do("GET", fmt.Sprintf("/v1/kv/watched?raw&wait=25s&index=%d", entry[0].ModifyIndex), "")
		watched <- fmt.Sprint(out, err)
	}()
	leader, err := c.do("GET", "/v1/status/leader", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if strings.Contains(leader, s.ip+":") {
			s.kill()
		}
	}
	begin := time.Now()
	until(t, 20*time.Second, func() error { _, err := c.do("PUT", "/v1/kv/watched", "after"); return err })
	t.Logf("leader killed: the next write through the agent after %s", time.Since(begin))
	select {
	case got := <-watched:
		if got != "after<nil>" {
			t.Errorf("who waited got %q", got)
		}
	case <-time.After(30 * time.Second):
		t.Error("who waited got nothing")
	}
	far.ready()
	until(t, 30*time.Second, func() error {
		_, err := c.do("PUT", "/v1/kv/there?dc=dc2", "x")
		return err
	})
	if out, err := far.do("GET", "/v1/kv/there?raw", ""); out != "x" || err != nil {
		t.Error(out, err)
	}
}
