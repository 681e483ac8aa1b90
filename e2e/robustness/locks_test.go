// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"
)

// lockHolders compete for one lock, and lose it without being told.
type lockHolders struct {
	r    *run
	path string

	mu     sync.Mutex
	by     map[uint64]string // whose a fencing index was
	told   uint64            // the highest that anybody was told of
	high   uint64            // the highest that the resource has seen
	taken  int               // how often the lock was taken
	late   int               // writes of former holders, which the resource refused
	broken []string
}

// pauseHolders pauses leaders while clients take a lock, are robbed of it, and go on as if they had it. The resource refuses who isn't the
// last: for that every holder must have a higher index than all before.
func pauseHolders(r *run) error {
	h := &lockHolders{r: r, path: "/v1/kv/" + r.name + "/lock", by: map[uint64]string{}}
	ctx, end := context.WithCancel(r.ctx)
	var work sync.WaitGroup
	for n := range 8 {
		work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				h.hold(ctx, r.c.servers[(n+i)%r.c.expect], fmt.Sprintf("holder %d's turn %d", n, i))
			}
		})
	}
	var err error
	for i := 0; i < 6 && err == nil; i++ {
		if err = pauseOnce(r); err == nil {
			r.reach(r.progress() + 300) // and then the lock goes from hand to hand again
		}
	}
	end()
	work.Wait()
	if err != nil {
		return err
	}
	r.c.t.Logf("%s: the lock was taken %d times, and %d writes of former holders were refused", r.name, h.taken, h.late)
	for _, s := range h.broken {
		r.fault("%s", s)
	}
	if h.taken < 20 || h.late == 0 {
		return fmt.Errorf("the lock was taken %d times, and %d writes came late: that shows nothing", h.taken, h.late)
	}
	return nil
}

// hold takes the lock once, if it can, uses the resource, and lets go or doesn't.
func (h *lockHolders) hold(ctx context.Context, s *server, who string) {
	var session struct{ ID string }
	_, text, _, err := s.do(ctx, "PUT", "/v1/session/create", `{"LockDelay":"0s"}`)
	if err != nil || json.Unmarshal([]byte(text), &session) != nil || session.ID == "" {
		pause(ctx, 20*time.Millisecond)
		return
	}
	h.mu.Lock()
	before := h.told
	h.mu.Unlock()
	code, text, head, err := s.do(ctx, "PUT", h.path+"?acquire="+session.ID, who)
	if err != nil || code != 200 || strings.TrimSpace(text) != "true" {
		pause(ctx, time.Duration(rand.IntN(10))*time.Millisecond)
		h.rob(ctx, s)
		_, _, _, _ = s.do(ctx, "PUT", "/v1/session/destroy/"+session.ID, "") // it may hold the lock, if the answer was lost
		return
	}
	index, err := strconv.ParseUint(head.Get("X-Weft-Fencing-Index"), 10, 64)
	if err != nil {
		h.r.fault("%s took the lock without an index: %v", who, head)
		return
	}
	h.won(who, index, before)
	pause(ctx, time.Duration(rand.IntN(400))*time.Millisecond) // as if it slept
	h.write(index)
	if rand.IntN(2) == 0 {
		_, _, _, _ = s.do(ctx, "PUT", h.path+"?release="+session.ID, who) // the next one takes it from it else
	}
}

// rob ends the session of who has the lock.
func (h *lockHolders) rob(ctx context.Context, s *server) {
	_, text, _, err := s.do(ctx, "GET", h.path, "")
	var list []struct{ Session string }
	if err != nil || json.Unmarshal([]byte(text), &list) != nil || len(list) == 0 || list[0].Session == "" {
		return
	}
	_, _, _, _ = s.do(ctx, "PUT", "/v1/session/destroy/"+list[0].Session, "") // another will else
}

// won notes who has the lock by which index: nobody else's, and higher than all that were known when it was asked for.
func (h *lockHolders) won(who string, index, before uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taken++
	if other := h.by[index]; other != "" {
		h.broken = append(h.broken, fmt.Sprintf("%s and %s hold the lock by the same index %d", other, who, index))
	}
	if index <= before {
		h.broken = append(h.broken, fmt.Sprintf("%s holds the lock by index %d, and %s did by %d before it asked", who, index, h.by[before], before))
	}
	h.by[index] = who
	h.told = max(h.told, index)
}

// write is the resource: it takes no index lower than the highest it has seen.
func (h *lockHolders) write(index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if index < h.high {
		h.late++
	}
	h.high = max(h.high, index)
}
