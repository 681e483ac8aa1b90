// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"

	xh2 "golang.org/x/net/http2"
)

// The first connection of a client is made at once, each further one some time after the one before, however many want one, and not more at once
// than there may be (C62, C66).
func TestConnectionsOfOneClientAreMadeInTurn(t *testing.T) {
	v := clusterOf(t, &config.Cluster{Endpoints: endpointsOf(1)})
	synctest.Test(t, func(t *testing.T) {
		ep := &endpoint{host: &host{cluster: v.state, pool: pool{spare: make(chan struct{}, 1)}}, config: v.endpoints[0].config}
		ctx, cancel := context.WithCancelCause(t.Context())
		way := slow{context: func() context.Context { return ctx }, makers: newMakers()}
		errGone := errors.New("the client is gone")
		began := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := way.enter(v, ep); err != nil {
					if !errors.Is(err, errGone) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(began))
			})
		}
		time.Sleep(100 * makeEvery)
		synctest.Wait()
		mu.Lock()
		if len(at) != maxMaking {
			t.Errorf("%d are made at once, want %d", len(at), maxMaking)
		}
		for i, d := range at {
			if want := time.Duration(i) * makeEvery; d != want {
				t.Errorf("connection %d began after %v, want %v", i, d, want)
			}
		}
		mu.Unlock()
		way.makers.left()
		synctest.Wait()
		mu.Lock()
		if len(at) != maxMaking+1 {
			t.Errorf("%d were made when one was there", len(at)-1)
		}
		mu.Unlock()
		cancel(errGone)
		wg.Wait()
	})
}

// A stream waits for others of its client to give their connections back as long as a connection takes to be made, where one of them has got one
// just now, and no longer.
func TestAStreamWaitsForAnothersConnection(t *testing.T) {
	const ms = int64(time.Millisecond)
	for name, of := range map[string]struct {
		got, came, now int64
		last           time.Duration // ago; 0: none was made
		want           time.Duration
	}{
		"the first of a client":             {0, 100 * ms, 100 * ms, 0, 0},
		"another got one long ago":          {10 * ms, 100 * ms, 100 * ms, 0, 0},
		"another got one just now":          {100 * ms, 100 * ms, 100 * ms, 0, makeEvery},
		"others get one all the time":       {109 * ms, 100 * ms, 101 * ms, 0, makeEvery - time.Millisecond},
		"and it has waited for long":        {109 * ms, 100 * ms, 110 * ms, 0, 0},
		"one was begun, and none is there":  {0, 100 * ms, 100 * ms, makeEvery / 2, makeEvery / 2},
		"one was begun long ago":            {0, 100 * ms, 100 * ms, time.Second, 0},
		"got long ago, and one begun after": {10 * ms, 100 * ms, 100 * ms, makeEvery / 4, makeEvery - makeEvery/4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMakers()
				m.got.Store(of.got)
				if of.last > 0 {
					m.last = time.Now().Add(-of.last)
				}
				if got := m.wait(of.came, of.now); max(0, got) != of.want {
					t.Errorf("it waits %v, want %v", got, of.want)
				}
			})
		})
	}
}

// A client with many calls at a service that takes its time has as many of them under way as it asks for.
func TestManySlowCallsOfOneClientAreUnderWayAtOnce(t *testing.T) {
	const calls = 40
	var in sync.WaitGroup
	in.Add(calls)
	addr, _ := counted(t, func(w http.ResponseWriter, _ *http.Request) {
		in.Done()
		in.Wait() // each is answered when all are there
		_, _ = io.WriteString(w, "a body")
	})
	c := newRawClient(t, newRig(t, codec(config.HTTP1), addr))
	for i := range uint32(calls) {
		c.get(1+2*i, "/")
	}
	ended := 0
	c.until("all answers", func(f xh2.Frame) bool {
		if d, ok := f.(*xh2.DataFrame); ok && d.StreamEnded() {
			ended++
		}
		return ended == calls
	})
}
