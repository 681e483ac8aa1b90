// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/memnet"
)

// oneTurn is turns of which one is given at a time, with a moment between two.
func oneTurn(log *slog.Logger) *turns {
	t := newTurns(log)
	t.most, t.spare = func() int { return 1 }, func() bool { return false }
	t.between = func(then func()) { time.AfterFunc(moment, then) }
	return t
}

const moment = 100 * time.Microsecond

// A turn goes from address to address, so that one of them with many handshakes delays another by one; those that have begun are first.
func TestTurnsAreSharedBetweenAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := oneTurn(logs.Discard())
		if err := turns.take(t.Context(), holder{name: "a"}, false); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		wait := func(name, of string, begun bool) {
			all.Go(func() {
				if err := turns.take(t.Context(), holder{name: of}, begun); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				turns.leave()
			})
			synctest.Wait()
		}
		wait("a1", "a", false)
		wait("a2", "a", false)
		wait("a3", "a", false)
		wait("b1", "b", false)
		wait("goes on", "a", true)
		turns.leave()
		all.Wait()
		if want := []string{"goes on", "a1", "b1", "a2", "a3"}; !slices.Equal(order, want) {
			t.Errorf("in the order %v, want %v", order, want)
		}
		time.Sleep(moment) // the last one's turn is given back
		if turns.running != 0 || turns.waiting != 0 || len(turns.lines) != 0 || len(turns.order) != 0 {
			t.Errorf("%d have a turn and %d wait in %d lines after the last", turns.running, turns.waiting, len(turns.lines))
		}
	})
}

// Between two turns others are looked at; where a processor is left for them, the next turn begins at once.
func TestTurnsLeaveAMomentBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for spare, want := range map[bool]time.Duration{false: 5 * moment, true: 0} {
			turns := oneTurn(logs.Discard())
			turns.spare = func() bool { return spare }
			began := time.Now()
			var all sync.WaitGroup
			for range 5 {
				if err := turns.take(t.Context(), holder{name: "a"}, false); err != nil {
					t.Fatal(err)
				}
				all.Go(func() {
					if err := turns.take(t.Context(), holder{name: "a"}, false); err != nil {
						t.Error(err)
					}
					turns.leave()
				})
				synctest.Wait() // it is in line
				turns.leave()
				all.Wait()
			}
			if took := time.Since(began); took != want {
				t.Errorf("with a spare processor %v: took %s, want %s", spare, took, want)
			}
		}
	})
}

func TestTurnsRefuseWhatIsTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		turns := oneTurn(slog.New(slog.NewTextHandler(&out, nil)))
		if err := turns.take(t.Context(), holder{name: "a"}, false); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range maxWaitingOfOne {
			all.Go(func() {
				if err := turns.take(t.Context(), holder{name: "a"}, false); !errors.Is(err, errQueue) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		for range 3 {
			if err := turns.take(t.Context(), holder{name: "a"}, false); !errors.Is(err, errQueue) || time.Since(began) != 0 {
				t.Errorf("one more of an address: %v after %s", err, time.Since(began))
			}
		}
		if n := strings.Count(out.String(), "handshakes are refused"); n != 1 {
			t.Errorf("it was said %d times: %s", n, out.String())
		}
		if err := turns.take(t.Context(), holder{name: "b"}, false); !errors.Is(err, errQueue) || time.Since(began) != waitForTurn {
			t.Errorf("another address that waits too long: %v after %s", err, time.Since(began))
		}
		gone, end := context.WithCancelCause(t.Context())
		closed := errors.New("closed")
		end(closed)
		if err := turns.take(gone, holder{name: "c"}, false); !errors.Is(err, closed) {
			t.Errorf("one whose listener closes: %v", err)
		}
		all.Wait()
		turns.leave()
		if turns.running != 0 || turns.waiting != 0 || len(turns.lines) != 0 || len(turns.order) != 0 {
			t.Errorf("%d have a turn and %d wait in %d lines after the last", turns.running, turns.waiting, len(turns.lines))
		}
	})
}

// A peer that sends nothing more holds no turn, however few there are.
func TestStalledHandshakeHoldsNoTurn(t *testing.T) {
	cert, pool := certificate(t, "spiffe://td/a")
	synctest.Test(t, func(t *testing.T) {
		d, n := newDoor(t), memnet.New()
		d.turns.most = func() int { return 1 }
		l, err := d.MemStream(n, Spec{Name: "m", Address: "m", TLS: func() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{cert}} }})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dial := func() net.Conn {
			c, err := n.DialContext(t.Context(), "m")
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		stalled := dial()
		defer stalled.Close()
		hello := &firstOnly{Conn: stalled}
		go func() {
			_ = tls.Client(hello, &tls.Config{RootCAs: pool, ServerName: "server"}).HandshakeContext(t.Context())
		}() // ends with the connection
		synctest.Wait()
		if hello.sent == 0 {
			t.Fatal("no ClientHello was sent")
		}
		began := time.Now()
		c := tls.Client(dial(), &tls.Config{RootCAs: pool, ServerName: "server"})
		defer c.Close()
		go func() {
			if conn, err := l.Accept(); err == nil {
				defer conn.Close()
			}
		}()
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("another's handshake took %s", took)
		}
	})
}

// firstOnly sends what is written first, and swallows the rest.
type firstOnly struct {
	net.Conn
	sent int
}

func (f *firstOnly) Write(p []byte) (int, error) {
	if f.sent++; f.sent > 1 {
		return len(p), nil
	}
	return f.Conn.Write(p)
}
