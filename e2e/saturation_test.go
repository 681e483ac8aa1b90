// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSaturation has three servers with default timers do as much as they can: clients that each ask again as soon as they were answered write keys,
// read them, register services, and wait for changes. Nobody is elected meanwhile, every request is answered well, and what was acknowledged is
// there. A follower that was stopped itself may ask in vain for votes (pre-votes), which is told. `make saturation` runs it; how much of the
// machine's processors all of it may take is up to who starts it.
func TestSaturation(t *testing.T) {
	enabled(t)
	d, err := time.ParseDuration(os.Getenv("WEFT_SATURATION"))
	if err != nil {
		t.Skip("as long as WEFT_SATURATION says: run `make saturation`")
	}
	s := &saturation{cluster: newCluster(t, 3, 0, "-log-level", "info"), done: map[string]*atomic.Int64{}, longest: map[string]time.Duration{}, wrong: map[string]int{}}
	for _, what := range []string{"write", "read", "register", "health", "wake"} {
		s.done[what] = &atomic.Int64{}
	}
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: saturators}}
	s.run(d)
}

// saturators is how many clients there are: a half of them has keys, a quarter each registers services and waits.
const saturators = 96

type saturation struct {
	*cluster
	client *http.Client
	done   map[string]*atomic.Int64 // what was answered, by what it is
	behind atomic.Int64             // the longest that a server hadn't heard of its leader, in milliseconds, as an answer said

	mu      sync.Mutex               // guards the rest
	longest map[string]time.Duration // of an answer
	wrong   map[string]int           // what went wrong, by what it is
	quiet   time.Duration            // the longest in which no write was acknowledged
	last    time.Time                // a write was acknowledged
}

// reign is who leads, in which term, and what servers have said of elections.
type reign struct {
	leader string
	terms  map[string]uint64 // by server
	stood  map[string]int    // what the logs have of elections, by the words for it
}

// stirs are the words with which Raft asks for pre-votes, for votes, or ends a reign. Each is said at the time of founding as well.
var stirs = []string{"heartbeat timeout reached", "entering candidate state", "entering leader state", "failed to contact quorum", "failed to contact"}

func (s *saturation) reign() (r reign, err error) {
	if r.leader, err = s.leader(); err != nil {
		return r, err
	}
	code, text, err := s.do("GET", r.leader, "/v1/operator/autopilot/health", "")
	var health struct {
		Servers []struct {
			Name     string
			LastTerm uint64
		}
	}
	if err == nil && code != http.StatusOK || err == nil && json.Unmarshal([]byte(text), &health) != nil {
		err = fmt.Errorf("autopilot's health: %d %s", code, text)
	}
	r.terms, r.stood = map[string]uint64{}, map[string]int{}
	for _, v := range health.Servers {
		r.terms[v.Name] = v.LastTerm
	}
	if err == nil && (len(r.terms) != s.servers || r.terms["s1"] != r.terms["s2"] || r.terms["s1"] != r.terms["s3"]) {
		err = fmt.Errorf("not all are in one term: %v", r.terms)
	}
	for _, p := range s.nodes {
		log, readErr := os.ReadFile(p.log)
		err = errors.Join(err, readErr)
		for _, words := range stirs {
			r.stood[words] += strings.Count(string(log), words)
		}
	}
	return r, err
}

func (s *saturation) run(d time.Duration) {
	t := s.t
	var before, after reign
	until(t, time.Minute, func() (err error) { before, err = s.reign(); return err })
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	began := time.Now()
	s.last = began
	cpu := map[string]time.Duration{}
	for name, p := range s.nodes {
		cpu[name] = worked(t, p.cmd.Process.Pid)
	}
	acked := make([]map[string]int, saturators/2)
	var work sync.WaitGroup
	for i := range saturators {
		c := &saturator{s: s, n: i, at: fmt.Sprintf("s%d", 1+i%s.servers), rand: rand.New(rand.NewPCG(1, uint64(i))), acked: map[string]int{}}
		do := c.keys
		switch {
		case i >= saturators*3/4:
			do = c.waits
		case i >= saturators/2:
			do = c.registers
		default:
			acked[i] = c.acked
		}
		work.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				do(ctx, n)
			}
		})
	}
	work.Go(func() { s.watch(ctx, before, began) })
	work.Wait()
	took := time.Since(began)
	until(t, time.Minute, func() (err error) { after, err = s.reign(); return err })
	for name, p := range s.nodes {
		t.Logf("%s: %.1f %% of a processor", name, 100*float64(worked(t, p.cmd.Process.Pid)-cpu[name])/float64(took))
	}
	s.verdict(took, before, after)
	for _, keys := range acked {
		s.kept(keys, []string{"s1", "s2", "s3"}[rand.IntN(3)])
	}
}

// watch says each minute how it goes, and looks each second whether the leader is the same.
func (s *saturation) watch(ctx context.Context, before reign, began time.Time) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	leader := before.leader
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := s.leader()
		if err == nil && now != leader {
			s.t.Errorf("after %v %s leads instead of %s", time.Since(began).Round(time.Second), now, leader)
			leader = now
		}
		if i%60 == 0 {
			s.t.Logf("%v: %s", time.Since(began).Round(time.Second), s.sums(time.Since(began)))
		}
	}
}

func (s *saturation) sums(took time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, what := range []string{"write", "read", "register", "health", "wake"} {
		n := s.done[what].Load()
		fmt.Fprintf(&b, "%d of %s (%.0f/s, longest %v), ", n, what, float64(n)/took.Seconds(), s.longest[what].Round(time.Millisecond))
	}
	fmt.Fprintf(&b, "no write acknowledged for %v at most, a follower without word of the leader for %d ms at most, wrong: %v", s.quiet.Round(time.Millisecond), s.behind.Load(), s.wrong)
	return b.String()
}

func (s *saturation) verdict(took time.Duration, before, after reign) {
	t := s.t
	t.Logf("in %v: %s", took.Round(time.Second), s.sums(took))
	t.Logf("before: %s leads in term %d; after: %s in term %d", before.leader, before.terms["s1"], after.leader, after.terms["s1"])
	for _, words := range stirs {
		t.Logf("%q: %d times", words, after.stood[words]-before.stood[words])
	}
	if before.leader != after.leader || before.terms["s1"] != after.terms["s1"] {
		t.Errorf("an election under load: %d terms later, %s leads instead of %s", after.terms["s1"]-before.terms["s1"], after.leader, before.leader)
	}
	for what, n := range s.wrong {
		t.Errorf("%d times: %s", n, what)
	}
}

// saturator is a client.
type saturator struct {
	s     *saturation
	n     int
	at    string // the server that it asks
	rand  *rand.Rand
	index string         // of the last blocking query
	acked map[string]int // what its keys hold at least
}

// ask does one request of a kind and notes how long it took. An answer that isn't 200 is wrong.
func (c *saturator) ask(ctx context.Context, what, method, path, body string) (string, http.Header, bool) {
	s := c.s
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.address(c.at)+":8500"+path, strings.NewReader(body))
	if err != nil {
		s.fault("a request that can't be made", err.Error())
		return "", nil, false
	}
	began := time.Now()
	resp, err := s.client.Do(req)
	var data []byte
	if err == nil {
		data, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close() // it was read
	}
	switch {
	case ctx.Err() != nil:
		return "", nil, false // time is over
	case err != nil:
		s.fault(what+": no answer", err.Error())
		return "", nil, false
	case resp.StatusCode == http.StatusNotFound && strings.HasSuffix(path, "&stale"): // a follower that is behind
	case resp.StatusCode != http.StatusOK:
		s.fault(fmt.Sprintf("%s: status %d", what, resp.StatusCode), string(data))
		return "", nil, false
	}
	s.answered(what, began, resp.Header)
	return string(data), resp.Header, true
}

func (s *saturation) answered(what string, began time.Time, h http.Header) {
	now := time.Now()
	s.done[what].Add(1)
	if ms, err := strconv.ParseInt(h.Get("X-Consul-Lastcontact"), 10, 64); err == nil && ms > s.behind.Load() {
		s.behind.Store(ms) // two at once may leave the lesser of them: the next tells
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest[what] = max(s.longest[what], now.Sub(began))
	if what == "write" {
		s.quiet, s.last = max(s.quiet, now.Sub(s.last)), now
	}
}

func (s *saturation) fault(what, text string) {
	s.mu.Lock()
	s.wrong[what]++
	n := s.wrong[what]
	s.mu.Unlock()
	if n <= 3 {
		s.t.Logf("%s: %.300s", what, text)
	}
}

// keys writes rising numbers at keys that are the client's own, and reads them at every level of consistency.
func (c *saturator) keys(ctx context.Context, n int) {
	path := fmt.Sprintf("/v1/kv/saturation/%d/%d", c.n, c.rand.IntN(16))
	if n%2 == 0 {
		if text, _, ok := c.ask(ctx, "write", "PUT", path, strconv.Itoa(n)); ok && strings.HasPrefix(text, "true") {
			c.acked[path] = n
		}
		return
	}
	if c.acked[path] == 0 {
		return // it isn't there yet
	}
	level := []string{"", "&consistent", "&stale"}[c.rand.IntN(3)]
	text, _, ok := c.ask(ctx, "read", "GET", path+"?raw"+level, "")
	if got, _ := strconv.Atoi(text); ok && got < c.acked[path] && level != "&stale" {
		c.s.fault("a read that missed a write", fmt.Sprintf("%s%s: %s, want %d at least", path, level, text, c.acked[path]))
	}
}

// registers gives a service of a node of its own another port, and asks who is healthy.
func (c *saturator) registers(ctx context.Context, n int) {
	service := fmt.Sprintf("web-%d", c.n%6)
	if n%2 == 0 {
		c.ask(ctx, "health", "GET", "/v1/health/service/"+service, "")
		return
	}
	c.ask(ctx, "register", "PUT", "/v1/catalog/register", fmt.Sprintf(`{"Node":"n%d","Address":"10.0.0.%d","Service":{"Service":"%s","Port":%d},"Check":{"Name":"up","Status":"passing","ServiceID":"%s"}}`,
		c.n, c.n, service, 1+n%60000, service))
}

// waits has a blocking query wait for the next change of a service.
func (c *saturator) waits(ctx context.Context, _ int) {
	_, h, ok := c.ask(ctx, "wake", "GET", fmt.Sprintf("/v1/health/service/web-%d?wait=20s&index=%s", c.n%6, c.index), "")
	if ok && h.Get("X-Consul-Knownleader") == "false" {
		c.s.fault("a leader isn't known", c.at)
	}
	c.index = h.Get("X-Consul-Index")
}
