// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/api"
)

// follower is a server that tells of changes, and can be behind: what it answers as stale is of the index before.
type follower struct {
	mu      sync.Mutex
	index   int
	revoked bool
	behind  bool
	down    bool
	changed chan struct{}
}

func (f *follower) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *follower) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if r.URL.Path == "/v1/weft/acl/changed" {
		for {
			f.mu.Lock()
			index, changed, down := f.index, f.changed, f.down
			f.mu.Unlock()
			if down {
				http.Error(w, "down", http.StatusServiceUnavailable)
				return
			}
			if q.Get("index") != strconv.Itoa(index) {
				w.Header().Set("X-Consul-Index", strconv.Itoa(index))
				return
			}
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	index, revoked := f.index, f.revoked
	if f.behind && q.Has("stale") {
		index, revoked = index-1, false
	}
	w.Header().Set("X-Consul-Index", strconv.Itoa(index))
	if revoked {
		http.Error(w, "ACL not found", http.StatusForbidden)
		return
	}
	fmt.Fprint(w, `{"AccessorID":"a1","Rules":["service \"web\" { policy = \"write\" }"]}`)
}

// TestC107_RevocationReachesAgents: a revoked token is refused as soon as the servers tell of it, by a server that is behind
// too; while nobody tells of changes, within a second. Without a change nothing is asked twice.
func TestC107_RevocationReachesAgents(t *testing.T) {
	for _, behind := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := &follower{index: 5, changed: make(chan struct{})}
			s := &servers{}
			tokens := make1(t, s, func(c *Config) { c.Servers = f })
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- tokens.Run(ctx) }()
			synctest.Wait()
			if err := may(t, tokens, "good"); err != nil {
				t.Fatal(err)
			}
			f.set(func() { f.index, f.revoked, f.behind = 9, true, behind })
			synctest.Wait()
			if err := may(t, tokens, "good"); !errors.Is(err, api.ErrTokenUnknown) {
				t.Errorf("behind %v: after the revocation: %v", behind, err)
			}
			f.set(func() { f.index, f.revoked, f.behind = 10, false, false })
			time.Sleep(2 * time.Second)
			if err := may(t, tokens, "good"); err != nil {
				t.Fatal(err)
			}
			f.set(func() { f.down = true })
			synctest.Wait()
			f.set(func() { f.revoked = true })
			time.Sleep(time.Second)
			if err := may(t, tokens, "good"); !errors.Is(err, api.ErrTokenUnknown) {
				t.Errorf("a second after a revocation that nobody told of: %v", err)
			}
			cancel()
			f.set(func() { f.index = 11 })
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
