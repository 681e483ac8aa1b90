// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/guard"
)

const (
	// followWait is how long the servers may keep a question for changes; they answer at once when there is one.
	followWait  = 5 * time.Minute
	followAgain = 250 * time.Millisecond
	// lostTTL is how long an answer is used while nobody would tell that it changed.
	lostTTL = time.Second
)

// Run has the servers tell when a token, policy or role is changed or removed, until ctx ends: what is known of tokens is asked
// for anew then. So a revocation holds here as soon as the servers have told of it, and while they can't, within a second.
func (t *Tokens) Run(ctx context.Context) error {
	if !t.c.Enabled {
		return nil
	}
	index := uint64(0)
	for ctx.Err() == nil {
		next, err := t.changed(ctx, index)
		if err == nil {
			t.note(next, index)
			index = next
			continue
		}
		t.mu.Lock()
		t.lost = true
		t.mu.Unlock()
		index = 0
		timer := time.NewTimer(followAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// changed asks a server at which index tokens last changed, once that isn't the one that is known.
func (t *Tokens) changed(ctx context.Context, index uint64) (uint64, error) {
	path := "http://127.0.0.1/v1/weft/acl/changed?stale"
	if index > 0 {
		path += fmt.Sprintf("&index=%d&wait=%s", index, followWait)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, http.NoBody)
	if err != nil {
		return 0, err
	}
	req.RemoteAddr = "127.0.0.1:0"
	w := api.Record(t.c.Servers, req, maxAnswer)
	if w.Code != http.StatusOK {
		return 0, fmt.Errorf("the servers answered %d", w.Code)
	}
	return strconv.ParseUint(w.Header().Get("X-Consul-Index"), 10, 64)
}

// note has everything asked for anew, if something changed since then or may have.
func (t *Tokens) note(index, before uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = false
	if index == before || guard.Off("C107") {
		return
	}
	t.need = index
	for _, e := range t.known {
		e.asked = time.Time{}
	}
}
