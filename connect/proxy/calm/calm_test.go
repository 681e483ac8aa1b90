// SPDX-License-Identifier: Apache-2.0

package calm

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestDiscardIsSlow is that what is thrown away comes no faster than a sender's flood is bearable, by however many reads, but not so slowly that who
// has sent it all isn't heard to the end; and that no more of it is read than asked for.
func TestDiscardIsSlow(t *testing.T) {
	for _, c := range []struct {
		read         int // bytes, at the most
		least, longs time.Duration
	}{
		{1 << 20, 90 * time.Millisecond, 100 * time.Millisecond},
		{16 << 10, 90 * time.Millisecond, 130 * time.Millisecond},
		{4 << 10, 90 * time.Millisecond, 130 * time.Millisecond},
		{1 << 10, 180 * time.Millisecond, 200 * time.Millisecond},
		{100, time.Second, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, r := time.Now(), bytes.NewReader(make([]byte, 8<<20))
			if err := Discard(atMost{r, c.read}, 1<<20, 4<<20); err != nil {
				t.Fatal(err)
			}
			if left := r.Len(); left != 4<<20 {
				t.Errorf("%d bytes are left of 8 MiB, want 4 MiB", left)
			}
			if took := time.Since(began); took < c.least || took > c.longs {
				t.Errorf("3 MiB behind the first one took %s by reads of %d, want %s to %s", took, c.read, c.least, c.longs)
			}
			if err := Discard(r, 0, 8<<20); err != io.EOF {
				t.Errorf("at the end: %v, want EOF", err)
			}
		})
	}
}

// atMost gives so much with each read.
type atMost struct {
	r io.Reader
	n int
}

func (a atMost) Read(p []byte) (int, error) { return a.r.Read(p[:min(a.n, len(p))]) }

// TestDiscardWaitsWithLittle is that no large room is held while nothing comes.
func TestDiscardWaitsWithLittle(t *testing.T) {
	var room []int
	r := readFunc(func(p []byte) (int, error) {
		if room = append(room, len(p)); len(room) == 4 {
			return 0, io.EOF
		}
		return min(len(p), []int{little, piece, 1}[len(room)-1]), nil
	})
	if err := Discard(r, 0, 1<<20); err != io.EOF {
		t.Error(err)
	}
	if want := []int{little, piece, piece, little}; !slices.Equal(room, want) {
		t.Errorf("reads had a room of %v, want %v", room, want)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

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
