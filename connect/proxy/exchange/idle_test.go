// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// running is an engine that runs under ctx, until stop, which waits for its end.
func running(t *testing.T, s *config.Snapshot) (e *Engine, ctx context.Context, stop func()) {
	t.Helper()
	e, err := New(Config{Snapshot: func() *config.Snapshot { return s }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	return e, ctx, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// Nobody looks at a connection on which nothing moves, however long it is there, as long as it neither leaves nor has an age: there may
// be ten thousand of them. When it begins to leave, or is too old, it is closed soon.
func TestIdleConnectionsAreLeftAlone(t *testing.T) {
	for _, c := range []struct {
		name   string
		http   config.HTTP
		least  int64 // looks in a minute
		most   int64
		closes bool
	}{
		{"without bounds", config.HTTP{}, 0, 0, false},
		{"with an age that isn't reached", config.HTTP{MaxAge: time.Hour}, 59, 61, false},
		{"with an age", config.HTTP{MaxAge: 10 * time.Second}, 1, 1000, true},
		{"with a bound on requests", config.HTTP{MaxRequests: 7}, 59, 61, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &config.Listener{Name: "l", HTTP: &c.http}
				s := &config.Snapshot{Listeners: map[string]*config.Listener{"l": l}}
				e, ctx, stop := running(t, s)
				here, there := net.Pipe()
				defer there.Close()
				var looks, drain atomic.Int64
				d, err := e.Open(here, l, nil, Manner{ALPN: "http/1.1", Drains: func() Drain {
					looks.Add(1)
					return Drain(drain.Load())
				}})
				if err != nil {
					t.Fatal(err)
				}
				served := make(chan error, 1)
				go func() {
					served <- d.Serve(ctx)
					d.Close()
				}()
				synctest.Wait()
				looks.Store(0)
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := looks.Load(); n < c.least || n > c.most {
					t.Errorf("it was looked at %d times in a minute, want %d to %d", n, c.least, c.most)
				}
				if (len(served) > 0) != c.closes {
					t.Errorf("it is closed: %v, want %v", len(served) > 0, c.closes)
				}
				drain.Store(int64(Leaving))
				e.Drain()
				time.Sleep(time.Second)
				drain.Store(int64(Closing)) // who leaves is looked at again and again
				time.Sleep(time.Second)
				synctest.Wait()
				if len(served) == 0 {
					t.Error("it leaves, and is still open")
				}
				if len(e.downs)+len(e.ending) > 0 {
					t.Errorf("%d and %d connections are left in the engine's books", len(e.downs), len(e.ending))
				}
				stop()
			})
		})
	}
}

// A connection that comes when it is to leave already, as its listener has just gone, leaves.
func TestWhoComesLateLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &config.Listener{Name: "l", HTTP: &config.HTTP{}}
		e, ctx, stop := running(t, nil)
		here, there := net.Pipe()
		defer there.Close()
		began := time.Now()
		err := e.ServeHTTP(ctx, here, l, nil, "http/1.1", func() Drain {
			if time.Since(began) < time.Second {
				return Leaving
			}
			return Closing
		})
		if took := time.Since(began); err != nil || took < time.Second || took > 2*time.Second {
			t.Errorf("it ended after %s with %v", took, err)
		}
		stop()
	})
}

// givenUp is an exchange of a client that is there no more.
type givenUp struct {
	stream.ServerExchange
	resets atomic.Int64
}

func (x *givenUp) Buffered() int     { return 0 }
func (x *givenUp) Reset(stream.Code) { x.resets.Add(1) }

// The memory of an exchange that has ended keeps neither its connection nor, by its timer, itself: after a thousand exchanges at once that
// would be a thousand times some KB for minutes.
func TestWhatHasEndedIsLetGo(t *testing.T) {
	e, err := New(Config{Snapshot: func() *config.Snapshot { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	mine, timed := weak.Pointer[exchange]{}, weak.Pointer[watchdog]{}
	var held *exchange
	func() {
		ex := &exchange{}
		ex.route = &config.Route{Forward: &config.Forward{}}
		x := &givenUp{}
		ex.watch.begin(e, x, e.now())
		ex.watch.limit(time.Hour, time.Hour, time.Hour)
		ex.source.begin(ex, x, 0)
		ex.watch.end()
		mine, timed = weak.Make(ex), weak.Make(&ex.watch)
		held = ex
	}()
	held.recycle()
	if s := &held.source; s.x != nil || s.to != nil || s.trailers != nil || held.watch.x != nil || held.watch.y != nil {
		t.Error("it holds what the exchange was of")
	}
	held = nil
	for range 3 { // a pool lets go of what it has in the second collection
		runtime.GC()
	}
	if mine.Value() != nil || timed.Value() != nil {
		t.Error("it is there for an hour")
	}
}

// A time that is over still ends an exchange that is under way.
func TestATimerFindsItsExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := New(Config{Snapshot: func() *config.Snapshot { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		ex, x := &exchange{}, &givenUp{}
		ex.watch.begin(e, x, e.now())
		ex.watch.limit(0, time.Minute, 0)
		ex.watch.answering()
		runtime.GC()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if cause, _ := ex.watch.state(); cause != reason.UpstreamTimeout || x.resets.Load() != 1 {
			t.Errorf("it ended by %q, reset %d times", cause, x.resets.Load())
		}
	})
}
