// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cluster is some servers and agents of real processes, each on a loopback address of its own.
type cluster struct {
	t       *testing.T
	dir     string
	net     string // the first three parts of addresses
	key     string
	servers int
	nodes   map[string]*process // running, by name: s1, a1, …
}

// newCluster starts one; more are flags of every node.
func newCluster(t *testing.T, servers, agents int, more ...string) *cluster {
	t.Helper()
	enabled(t)
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	c := &cluster{
		t: t, dir: t.TempDir(), net: fmt.Sprintf("127.%d.%d.", 1+mrand.IntN(250), mrand.IntN(250)), key: base64.StdEncoding.EncodeToString(key),
		servers: servers, nodes: map[string]*process{},
	}
	t.Cleanup(func() {
		for _, p := range c.nodes {
			p.kill()
		}
	})
	for i := range servers {
		c.start(fmt.Sprintf("s%d", i+1), more...)
	}
	for i := range agents {
		c.start(fmt.Sprintf("a%d", i+1), more...)
	}
	for name := range c.nodes {
		until(t, 30*time.Second, func() error { return c.ready(name) })
	}
	return c
}

// address is a node's: servers are .1 and on, agents .101 and on.
func (c *cluster) address(name string) string {
	n, _ := strconv.Atoi(name[1:])
	if name[0] == 'a' {
		n += 100
	}
	return c.net + strconv.Itoa(n)
}

func (c *cluster) start(name string, more ...string) {
	c.t.Helper()
	at := c.address(name)
	args := []string{
		"agent", "-node", name, "-data-dir", filepath.Join(c.dir, name), "-bind", at, "-advertise", at, "-client", at, "-encrypt", c.key,
		"-retry-interval", "1s",
	}
	for i := range c.servers {
		args = append(args, "-retry-join", c.net+strconv.Itoa(i+1))
	}
	if name[0] == 's' {
		args = append(args, "-server", "-bootstrap-expect", strconv.Itoa(c.servers))
	}
	p, err := start(name, filepath.Join(c.dir, name+".log"), binary(), append(args, more...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[name] = p
}

func (c *cluster) kill(name string) {
	c.nodes[name].kill()
	delete(c.nodes, name)
}

// do asks a node, and gives status and body.
func (c *cluster) do(method, name, path, body string) (int, string, error) {
	req, err := http.NewRequest(method, "http://"+c.address(name)+":8500"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	client := http.Client{Timeout: 15 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// want is nil if a node answers with 200 and a part.
func (c *cluster) want(method, name, path, body, part string) error {
	code, text, err := c.do(method, name, path, body)
	if err == nil && (code != http.StatusOK || !strings.Contains(text, part)) {
		err = fmt.Errorf("%s at %s %s: %d %s, want %q", method, name, path, code, text, part)
	}
	return err
}

// ready is nil if a node reads what all have agreed on.
func (c *cluster) ready(name string) error {
	if c.nodes[name] == nil {
		return fmt.Errorf("%s doesn't run", name)
	}
	return c.want("GET", name, "/v1/catalog/nodes", "", `"Node":"`+name+`"`)
}

// leader is the name of the leader, as the first server that runs says.
func (c *cluster) leader() (string, error) {
	for i := range c.servers {
		name := fmt.Sprintf("s%d", i+1)
		if c.nodes[name] == nil {
			continue
		}
		_, text, err := c.do("GET", name, "/v1/status/leader", "")
		var address string
		if err == nil {
			err = json.Unmarshal([]byte(text), &address)
		}
		if err != nil {
			return "", err
		}
		for j := range c.servers {
			if s := fmt.Sprintf("s%d", j+1); address == c.address(s)+":8300" && c.nodes[s] != nil {
				return s, nil
			}
		}
	}
	return "", fmt.Errorf("nobody leads")
}

// writers put rising numbers at keys of their own, by a node each, until stop is called. What was acknowledged last is told then,
// with the failures.
func (c *cluster) writers(names ...string) (stop func() (acked map[string]int, failed int64)) {
	end := make(chan struct{})
	var work sync.WaitGroup
	var mu sync.Mutex
	var failed atomic.Int64
	acked := map[string]int{}
	for i := range 8 {
		work.Go(func() {
			key := fmt.Sprintf("/v1/kv/writer%d", i)
			for n := 1; ; n++ {
				select {
				case <-end:
					return
				default:
				}
				if err := c.want("PUT", names[i%len(names)], key, strconv.Itoa(n), "true"); err != nil {
					failed.Add(1)
					c.t.Logf("a write failed: %v", err)
					continue
				}
				mu.Lock()
				acked[key] = n
				mu.Unlock()
			}
		})
	}
	return func() (map[string]int, int64) {
		close(end)
		work.Wait()
		return acked, failed.Load()
	}
}

// kept fails the test for every write that was acknowledged and isn't there.
func (c *cluster) kept(acked map[string]int, name string) {
	c.t.Helper()
	for key, n := range acked {
		_, text, err := c.do("GET", name, key+"?raw&consistent", "")
		if got, _ := strconv.Atoi(text); err != nil || got < n {
			c.t.Errorf("%s: %q at %s, %d was acknowledged (%v)", key, text, name, n, err)
		}
	}
}

// Registered on one agent, seen on all.
func TestClusterSeesOne(t *testing.T) {
	c := newCluster(t, 3, 3)
	began := time.Now()
	if err := c.want("PUT", "a1", "/v1/agent/service/register", `{"Name":"web","Port":80}`, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"s1", "s2", "s3", "a1", "a2", "a3"} {
		until(t, 5*time.Second, func() error {
			return c.want("GET", name, "/v1/health/service/web", "", `"Name":"Serf Health Status","Status":"passing"`)
		})
		if err := c.want("GET", name, "/v1/catalog/service/consul", "", `"Node":"s3"`); err != nil {
			t.Error(err)
		}
	}
	t.Logf("on all six after %v", time.Since(began))
	c.kill("a1")
	took := until(t, 60*time.Second, func() error {
		return c.want("GET", "a2", "/v1/health/service/web", "", `"Status":"critical","Notes":"","Output":"Agent not live or unreachable"`)
	})
	t.Logf("a killed agent's services are critical after %v", took)
}

// What was acknowledged outlives kill -9 of leaders.
func TestLeaderKills(t *testing.T) {
	c := newCluster(t, 3, 1)
	kills := 8
	if n, err := strconv.Atoi(os.Getenv("WEFT_E2E_KILLS")); err == nil {
		kills = n
	}
	stop := c.writers("a1")
	var times []time.Duration
	for range kills {
		var leader string
		until(t, 20*time.Second, func() (err error) { leader, err = c.leader(); return err })
		c.kill(leader)
		other := fmt.Sprintf("s%c", '1'+(leader[1]-'1'+1)%3)
		times = append(times, until(t, 10*time.Second, func() error { return c.want("PUT", other, "/v1/kv/after", "x", "true") }))
		c.start(leader)
		until(t, 30*time.Second, func() error { return c.ready(leader) })
	}
	acked, failed := stop()
	for _, name := range []string{"s1", "s2", "s3", "a1"} {
		c.kept(acked, name)
	}
	slices.Sort(times)
	t.Logf("%d leaders killed: the next write after %v (half), %v (worst); %d writes failed on their way", kills, times[len(times)/2], times[len(times)-1], failed)
}

// A rolling restart: whoever writes through an agent notices nothing.
func TestRollingRestart(t *testing.T) {
	c := newCluster(t, 3, 1)
	stop := c.writers("a1")
	for _, name := range []string{"s1", "s2", "s3"} {
		if err := c.nodes[name].stop(20 * time.Second); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		delete(c.nodes, name)
		c.start(name)
		until(t, 30*time.Second, func() error { return c.ready(name) })
	}
	acked, failed := stop()
	c.kept(acked, "s1")
	total := 0
	for _, n := range acked {
		total += n
	}
	t.Logf("%d writes, %d failed", total, failed)
	if failed > int64(total)/1000 { // an answer may be lost with its connection
		t.Errorf("%d of %d writes failed", failed, total)
	}
}

// Two of three are gone for good: one command, a start, two new servers.
func TestQuorumIsLost(t *testing.T) {
	c := newCluster(t, 3, 0)
	if err := c.want("PUT", "s1", "/v1/kv/kept", "value", "true"); err != nil {
		t.Fatal(err)
	}
	until(t, 5*time.Second, func() error { return c.want("GET", "s1", "/v1/kv/kept?raw&stale", "", "value") })
	for _, name := range []string{"s1", "s2", "s3"} {
		c.kill(name)
	}
	for _, name := range []string{"s2", "s3"} {
		if err := os.RemoveAll(filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(binary(), "operator", "raft", "recover", "-data-dir", filepath.Join(c.dir, "s1")).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("The cluster had 3 servers")) || !bytes.Contains(out, []byte("1 keys")) {
		t.Fatalf("%v: %s", err, out)
	}
	c.start("s1")
	until(t, 30*time.Second, func() error { return c.want("GET", "s1", "/v1/kv/kept?raw", "", "value") })
	c.start("s2")
	c.start("s3")
	for _, name := range []string{"s2", "s3"} {
		until(t, 60*time.Second, func() error { return c.want("GET", name, "/v1/kv/kept?raw", "", "value") })
	}
	until(t, 60*time.Second, func() error {
		code, text, err := c.do("GET", "s1", "/v1/operator/raft/configuration", "")
		if n := strings.Count(text, `"Voter":true`); err != nil || n != 3 {
			return fmt.Errorf("%d voters: %d %s %v", n, code, text, err)
		}
		return nil
	})
}
