// SPDX-License-Identifier: Apache-2.0

package calm

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestDiscardIsSlow is that what is thrown away comes no faster than a sender's flood is bearable, and that no more of it is read than asked for.
func TestDiscardIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, r := time.Now(), bytes.NewReader(make([]byte, 8<<20))
		if err := Discard(r, 1<<20, 4<<20); err != nil {
			t.Fatal(err)
		}
		if left := r.Len(); left != 4<<20 {
			t.Errorf("%d bytes are left of 8 MiB, want 4 MiB", left)
		}
		if took := time.Since(began); took != 192*time.Millisecond {
			t.Errorf("4 MiB took %s, want 192 ms for those behind the first", took)
		}
		if err := Discard(r, 0, 8<<20); err != io.EOF {
			t.Errorf("at the end: %v, want EOF", err)
		}
	})
}

// TestRefusalsWait is that one alone is refused at once, that many together have a fifth of the time, that none waits for longer than a second,
// and that all is forgotten afterwards.
func TestRefusalsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(Queue)
		refuse := func() time.Duration {
			began := time.Now()
			q.Wait(t.Context(), time.Millisecond)
			return time.Since(began)
		}
		for i := range 10 {
			if took := refuse(); took != 0 {
				t.Errorf("refusal %d waited for %s", i, took)
			}
		}
		began := time.Now()
		for range 100 { // one after the other
			refuse()
		}
		if took := time.Since(began); took < 390*time.Millisecond || took > 410*time.Millisecond {
			t.Errorf("100 refusals of a millisecond took %s, want 400 ms", took)
		}
		time.Sleep(10 * time.Second)
		if took := refuse(); took != 0 {
			t.Errorf("after a calm time one waited for %s", took)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		longest := time.Duration(0)
		for range 1000 { // all at once
			wg.Go(func() {
				took := refuse()
				mu.Lock()
				defer mu.Unlock()
				longest = max(longest, took)
			})
		}
		wg.Wait()
		if longest < most*9/10 || longest > most {
			t.Errorf("the last of 1000 waited for %s, want about %s", longest, most)
		}
		time.Sleep(10 * time.Second)
		if took := refuse(); took != 0 {
			t.Errorf("after a calm time one waited for %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 200 {
			q.reserve(time.Now(), time.Millisecond)
		}
		cancel()
		now := time.Now()
		if q.Wait(ctx, time.Millisecond); time.Since(now) != 0 {
			t.Error("it waits longer than its context")
		}
		(*Queue)(nil).Wait(t.Context(), time.Hour)
	})
}
