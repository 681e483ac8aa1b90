// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// answerKey is what recursors were asked.
type answerKey struct {
	name          string
	qtype, qclass uint16
	do, cd        bool
}

type kept[V any] struct {
	v     V
	since time.Time
	until time.Time
}

// bounded is a map of at most cacheMax values that end at a time.
type bounded[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]kept[V]
}

// cacheMax is how many recursors' answers, and how many results of queries, are kept.
const cacheMax = 10_000

func (b *bounded[K, V]) get(k K, now time.Time) (kept[V], bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.m[k]
	if ok && !now.Before(e.until) {
		delete(b.m, k)
		return kept[V]{}, false
	}
	return e, ok
}

func (b *bounded[K, V]) put(k K, v V, now, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.m) >= cacheMax {
		looked := 0
		for old, e := range b.m { // in random order
			if looked++; !now.Before(e.until) || looked == 16 {
				delete(b.m, old)
			}
			if looked >= 16 {
				break
			}
		}
	}
	b.m[k] = kept[V]{v, now, until}
}

// answers are what recursors answered, each as long as its records allow.
type answers struct {
	bounded[answerKey, *dns.Msg]
}

func newAnswers() *answers {
	return &answers{bounded[answerKey, *dns.Msg]{m: map[answerKey]kept[*dns.Msg]{}}}
}

// maxKept bounds how long a recursor's answer is kept, whatever it says.
const maxKept = time.Hour

// get gives a copy of an answer whose records' times are what is left of them; nil if there is none.
func (a *answers) get(k answerKey, now time.Time) *dns.Msg {
	e, ok := a.bounded.get(k, now)
	if !ok {
		return nil
	}
	m := e.v.Copy()
	gone := uint32(now.Sub(e.since) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			h.Ttl -= min(gone, h.Ttl)
		}
	}
	return m
}

// put keeps an answer as long as the shortest-lived of its records; one without records as long as its SOA says (RFC 2308).
func (a *answers) put(k answerKey, m *dns.Msg, now time.Time) {
	ttl := uint32(maxKept / time.Second)
	found := false
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			t := rr.Header().Ttl
			if soa, ok := rr.(*dns.SOA); ok && len(m.Answer) == 0 {
				t = min(t, soa.Minttl)
			}
			ttl, found = min(ttl, t), true
		}
	}
	if found && ttl > 0 && !m.Truncated {
		a.bounded.put(k, m.Copy(), now, now.Add(time.Duration(ttl)*time.Second))
	}
}

// question is what a prepared query was run for.
type question struct {
	topic
	token  string // whose it was run with
	client netip.Addr
}

// results are what prepared queries gave, and services by address, for a short time.
type results struct {
	kept bounded[question, *result]

	mu    sync.Mutex // guards those below
	at    map[string][]string
	until time.Time
}

func newResults() *results {
	return &results{kept: bounded[question, *result]{m: map[question]kept[*result]{}}}
}

func (r *results) get(k question, now time.Time) (*result, bool) {
	e, ok := r.kept.get(k, now)
	return e.v, ok
}

func (r *results) put(k question, v *result, now, until time.Time) { r.kept.put(k, v, now, until) }

func decodeResult(body []byte) (*result, error) {
	r := &result{}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("the servers' answer about a prepared query: %w", err)
	}
	for _, i := range r.Nodes {
		i.settle()
	}
	if r.DNS.TTL != "" {
		ttl, err := time.ParseDuration(r.DNS.TTL)
		if err != nil {
			return nil, fmt.Errorf("the servers' answer about a prepared query: DNS.TTL: %w", err)
		}
		r.ttl, r.hasTTL = ttl, true
	}
	return r, nil
}
