// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// Options are the query options that every route understands.
type Options struct {
	Scope      catalog.Scope // filled in
	Index      uint64        // wait until the answer is newer; 0: answer at once
	Wait       time.Duration // at most so long; 0: the default
	Hash       string
	Stale      bool
	Consistent bool
	Cached     bool
	Near       string
	NodeMeta   map[string]string
	Filter     string
	Tags       []string
	MaxStale   time.Duration // a stale answer may be so old; 0: any age
	// Freshness tells whether the server knows a leader and how long ago it heard from it, for the answer's header. Nil: it does, just now.
	Freshness func() (known bool, contact time.Duration)
}

// The waits of blocking queries.
const (
	DefaultWait = 300 * time.Second
	MaxWait     = 600 * time.Second
)

// bound fills in a wait that isn't given, and cuts one that is too long; 0 stands for the constants.
func (o *Options) bound(byDefault, most time.Duration) {
	o.Wait = min(cmp.Or(o.Wait, byDefault, DefaultWait), cmp.Or(most, MaxWait))
}

func bad(format string, args ...any) error {
	return &StatusError{Code: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}

// QueryOf is a request's query, to be read: where there is none it is nil. A write has its query looked at a dozen times on its way, and
// most have none.
func QueryOf(r *http.Request) url.Values {
	if r.URL.RawQuery == "" {
		return nil
	}
	return r.URL.Query()
}

func parseOptions(r *http.Request, dc string) (Options, error) {
	q := QueryOf(r)
	o := Options{
		Hash: q.Get("hash"), Stale: q.Has("stale"), Consistent: q.Has("consistent"), Cached: q.Has("cached"),
		Near: q.Get("near"), Filter: q.Get("filter"), Tags: q["tag"],
	}
	if o.Stale && o.Consistent {
		return o, bad("Cannot specify ?stale with ?consistent, conflicting semantics.")
	}
	if o.Cached && o.Consistent {
		return o, bad("Cannot specify ?cached with ?consistent, conflicting semantics.")
	}
	if s := q.Get("index"); s != "" {
		i, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return o, bad("Invalid index")
		}
		o.Index = i
	}
	if s := q.Get("wait"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return o, bad("Invalid wait time")
		}
		o.Wait = d
	}
	if s := q.Get("max_stale"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return o, bad("Invalid max_stale value %q", s)
		}
		o.MaxStale, o.Stale = d, true
	}
	for _, kv := range q["node-meta"] {
		k, v, ok := strings.Cut(kv, ":")
		if !ok {
			return o, bad("Invalid node-meta %q: want key:value", kv)
		}
		if o.NodeMeta == nil {
			o.NodeMeta = map[string]string{}
		}
		o.NodeMeta[k] = v
	}
	var err error
	o.Scope, err = scopeOf(r, q, dc)
	return o, err
}

// scopeOf reads dc, namespace, partition and peer.
func scopeOf(r *http.Request, q url.Values, dc string) (catalog.Scope, error) {
	pick := func(names ...string) string {
		for _, n := range names {
			if v := q.Get(n); v != "" {
				return v
			}
		}
		return ""
	}
	s := catalog.Scope{
		Datacenter: pick("dc", "datacenter"),
		Namespace:  pick("ns", "namespace"),
		Partition:  pick("partition"),
		Peer:       pick("peer"),
	}
	if s.Namespace == "" {
		s.Namespace = r.Header.Get(NamespaceHeader)
	}
	if s.Partition == "" {
		s.Partition = r.Header.Get("X-Consul-Partition")
	}
	s = s.Default(dc)
	if s.Datacenter != dc {
		return s, &StatusError{Code: http.StatusInternalServerError, Text: "No path to datacenter: this cluster is " + dc}
	}
	return s, nil
}
