// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/plane"
)

// town is gossip, and servers that take connections.
type town struct {
	mu      sync.Mutex
	members map[int]gossip.Status
	changed chan struct{}
	down    map[string]bool // addresses that don't answer
	dialled map[string]int
}

func (w *town) Changes() (uint64, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return 0, w.changed
}

func (w *town) Members() []gossip.Member {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []gossip.Member
	for i, status := range w.members {
		out = append(out, gossip.Member{
			Name: "s" + strconv.Itoa(i), ID: strconv.Itoa(i), Address: "10.0.0." + strconv.Itoa(i), Server: true, ServerPort: 8300, Status: status,
		})
	}
	return append(out, gossip.Member{Name: "c", ID: "c", Address: "10.0.1.1", Status: gossip.StatusAlive})
}

func (w *town) set(i int, status gossip.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.members[i] = status
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *town) dial(ctx context.Context, address, _ string) (net.Conn, error) {
	w.mu.Lock()
	down := w.down[address]
	w.dialled[address]++
	w.mu.Unlock()
	if down {
		<-ctx.Done() // it is silent
		return nil, ctx.Err()
	}
	near, _ := memnet.Pipe("agent", memnet.Addr(address))
	return near, nil
}

func start(t *testing.T, w *town, seed uint64) *Servers {
	t.Helper()
	s, err := New(Config{
		Changes: w.Changes, Members: w.Members, Dial: w.dial, Rand: rand.New(rand.NewPCG(1, seed)).IntN, Log: logs.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func newTown(n int) *town {
	w := &town{members: map[int]gossip.Status{}, changed: make(chan struct{}), down: map[string]bool{}, dialled: map[string]int{}}
	for i := 1; i <= n; i++ {
		w.members[i] = gossip.StatusAlive
	}
	return w
}

// closed says whether a connection was closed here.
func closed(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, net.ErrClosed)
}

// One server is asked until it fails: then what hangs on it is cut, and another one is asked.
func TestSticky(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(3)
		s := start(t, w, 1)
		synctest.Wait()
		var first net.Conn
		for range 10 {
			c, err := s.Dial(t.Context(), plane.HTTP)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = c
			}
			if c.RemoteAddr() != first.RemoteAddr() {
				t.Errorf("asked %s, then %s", first.RemoteAddr(), c.RemoteAddr())
			}
			defer c.Close()
		}
		i, _ := strconv.Atoi(s.Current()[1:])
		w.set(i, gossip.StatusFailed)
		synctest.Wait()
		if !closed(first) {
			t.Error("a connection to a failed server lives on")
		}
		next, err := s.Dial(t.Context(), plane.HTTP)
		if err != nil || next.RemoteAddr() == first.RemoteAddr() {
			t.Fatalf("%v, %v", next, err)
		}
		defer next.Close()
	})
}

// A silent server costs some seconds once; then another one is asked.
func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(3)
		s := start(t, w, 1)
		synctest.Wait()
		silent := "10.0.0." + s.Current()[1:] + ":8300"
		w.down[silent] = true
		for range 3 {
			c, err := s.Dial(t.Context(), plane.HTTP)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		if w.dialled[silent] != 1 {
			t.Errorf("the silent server was tried %d times", w.dialled[silent])
		}
		for i := 1; i <= 3; i++ {
			w.down["10.0.0."+strconv.Itoa(i)+":8300"] = true
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := s.Dial(ctx, plane.HTTP); !errors.Is(err, ErrNone) {
			t.Error(err)
		}
	})
}

// Without a server a dial waits for one, but not for ever; who hangs up waits no longer.
func TestNoServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(0)
		s := start(t, w, 1)
		begin := time.Now()
		if _, err := s.Dial(t.Context(), plane.HTTP); !errors.Is(err, ErrNone) || time.Since(begin) != defaultHold {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if _, err := s.Dial(ctx, plane.HTTP); err == nil || time.Since(begin) != time.Second {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		time.AfterFunc(2*time.Second, func() { w.set(1, gossip.StatusAlive) })
		c, err := s.Dial(t.Context(), plane.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
}

// Servers that come back get a share: some of the agents move, each within a while.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(1)
		var all []*Servers
		for i := range 60 {
			s := start(t, w, uint64(i))
			all = append(all, s)
		}
		synctest.Wait()
		for _, s := range all {
			c, err := s.Dial(t.Context(), plane.GRPC)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		w.set(2, gossip.StatusAlive)
		w.set(3, gossip.StatusAlive)
		time.Sleep(2 * time.Hour)
		shares := map[string]int{}
		for _, s := range all {
			shares[s.Current()]++
		}
		if len(shares) != 3 {
			t.Errorf("shares %v", shares)
		}
	})
}
