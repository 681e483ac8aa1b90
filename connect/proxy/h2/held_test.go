// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// taking is a client in virtual time whose server notes which requests have begun.
type taking struct {
	*rawPeer
	mu    sync.Mutex
	begun []string
}

// newTaking makes one that says with which window its streams begin.
func newTaking(t *testing.T, window uint32, h stream.Handler) *taking {
	a, b := net.Pipe()
	p := &taking{}
	s, err := NewServer(b, ServerConfig{}, func(x stream.ServerExchange) {
		p.mu.Lock()
		p.begun = append(p.begun, x.Request().Path)
		p.mu.Unlock()
		h(x)
	})
	if err != nil {
		t.Fatal(err)
	}
	p.rawPeer = &rawPeer{t: t, nc: a, fr: http2.NewFramer(a, nil), srv: s, done: make(chan error, 1)}
	p.enc = hpack.NewEncoder(&p.hb)
	go func() { _, _ = io.Copy(io.Discard, a) }() // ends with the connection
	go func() { p.done <- s.Run(context.Background()) }()
	if _, err := io.WriteString(a, preface); err != nil {
		t.Fatal(err)
	}
	if err := p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		t.Fatal(err)
	}
	return p
}

// ask opens n streams at once, from an ID on. The path is the stream's ID.
func (p *taking) ask(first uint32, n int) {
	p.t.Helper()
	var all bytes.Buffer
	fr := http2.NewFramer(&all, nil)
	for i := range uint32(n) {
		id := first + 2*i
		if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"+string(rune('a'+id))), EndHeaders: true, EndStream: true}); err != nil {
			p.t.Fatal(err)
		}
	}
	if _, err := p.nc.Write(all.Bytes()); err != nil {
		p.t.Fatal(err)
	}
}

// count gives how many requests have begun when nothing moves any more.
func (p *taking) count() int {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.begun)
}

// has says whether a stream's request has begun.
func (p *taking) has(id uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.begun, "/"+string(rune('a'+id)))
}

// end closes the client's side, upon which the server and all handlers end.
func (p *taking) end() {
	p.t.Helper()
	_ = p.nc.Close()
	if err := <-p.done; err != nil {
		p.t.Error(err)
	}
}

func answer(x stream.ServerExchange) {
	if x.WriteHead(&stream.ResponseHead{Status: 200, Length: -1}, false) == nil && x.WriteBody([]byte("body")) == nil {
		_ = x.Finish(nil)
	}
}

// Who takes no answers has some fetched at once, and the others one after the other.
func TestC66_AnswersThatNobodyTakesAreFew(t *testing.T) {
	for name, window := range map[string]uint32{"no window": 0, "a byte": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newTaking(t, window, func(x stream.ServerExchange) {
					_ = x.WriteHead(&stream.ResponseHead{Status: 200, Length: -1}, false)
					_ = x.WriteBody([]byte("body")) // ends with the connection
				})
				p.ask(1, 100)
				if n := p.count(); n != fewUntaken {
					t.Errorf("%d have begun at once, want %d", n, fewUntaken)
				}
				time.Sleep(5*heldFor + heldFor/2)
				if n := p.count(); n != fewUntaken+5 {
					t.Errorf("%d have begun after %v, want %d", n, 5*heldFor, fewUntaken+5)
				}
				p.end()
				if n := p.count(); n != fewUntaken+5 {
					t.Errorf("%d have begun when the client is gone", n)
				}
			})
		})
	}
}

// Those that wait begin as soon as there is room: for their own answer, for that of another, or since another has ended; and what was taken back doesn't.
func TestRequestsThatWaitForRoomBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTaking(t, 0, answer)
		p.ask(1, fewUntaken+10)
		if n := p.count(); n != fewUntaken {
			t.Fatalf("%d have begun at once, want %d", n, fewUntaken)
		}
		last, before := uint32(1+2*(fewUntaken+9)), uint32(1+2*(fewUntaken+8))
		if err := p.fr.WriteWindowUpdate(last, 100_000); err != nil {
			t.Fatal(err)
		}
		if n := p.count(); n != fewUntaken+1 || !p.has(last) {
			t.Errorf("%d have begun, the one with room: %v", n, p.has(last))
		}
		if err := p.fr.WriteWindowUpdate(1, 4); err != nil { // all of its answer
			t.Fatal(err)
		}
		if n := p.count(); n != fewUntaken+2 {
			t.Errorf("%d have begun after one has ended", n)
		}
		if err := p.fr.WriteRSTStream(before, http2.ErrCodeCancel); err != nil {
			t.Fatal(err)
		}
		if err := p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100_000}); err != nil {
			t.Fatal(err)
		}
		if n := p.count(); n != fewUntaken+9 || p.has(before) {
			t.Errorf("%d have begun with room for all, the one that was taken back: %v", n, p.has(before))
		}
		p.ask(1001, 50)
		if n := p.count(); n != fewUntaken+59 {
			t.Errorf("%d have begun, though there is room", n)
		}
		p.end()
	})
}

// A client with usual windows has all of its requests begun at once, however slowly it reads.
func TestASlowReaderIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTaking(t, defaultWindow, func(x stream.ServerExchange) { <-x.Context().Done() })
		p.ask(1, 200)
		if n := p.count(); n != 200 {
			t.Errorf("%d have begun, want all", n)
		}
		p.end()
	})
}

// One whose large answer has used up the connection's window has further requests wait until it has read some of that, and no longer.
func TestASlowReaderOfALargeAnswerWaitsForItsNextRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTaking(t, 4*defaultWindow, func(x stream.ServerExchange) {
			if x.Request().Path == "/b" { // of stream 1
				_ = x.WriteHead(&stream.ResponseHead{Status: 200, Length: -1}, false)
				_ = x.WriteBody(make([]byte, 2*defaultWindow)) // ends with the connection
			}
			<-x.Context().Done()
		})
		p.ask(1, 1)
		synctest.Wait()
		p.ask(3, 100)
		if n := p.count(); n != 1+fewUntaken {
			t.Errorf("%d have begun, want %d", n, 1+fewUntaken)
		}
		if err := p.fr.WriteWindowUpdate(0, 4*defaultWindow); err != nil {
			t.Fatal(err)
		}
		if n := p.count(); n != 101 {
			t.Errorf("%d have begun once it has read", n)
		}
		p.end()
	})
}

// The reader lets others have their turn after some frames, and after fewer requests that it has begun; bodies aren't counted.
func TestAReaderTakesTurns(t *testing.T) {
	var yields, begun, most, at atomic.Int64
	release := make(chan struct{})
	p := newRawPeer(t, ServerConfig{Do: func(f func()) {
		most.Store(max(most.Load(), begun.Add(1)-at.Load()))
		go f()
	}, Yield: func() {
		yields.Add(1)
		at.Store(begun.Load())
	}}, func(x stream.ServerExchange) { <-release })
	var all bytes.Buffer
	fr := http2.NewFramer(&all, nil)
	told := func(what string) int64 {
		t.Helper()
		if err := fr.WritePing(false, [8]byte{7}); err != nil {
			t.Fatal(err)
		}
		before := yields.Load()
		if _, err := p.nc.Write(all.Bytes()); err != nil {
			t.Fatal(err)
		}
		all.Reset()
		for {
			f, err := p.fr.ReadFrame()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if pong, ok := f.(*http2.PingFrame); ok && pong.Data[0] == 7 {
				return yields.Load() - before
			}
		}
	}
	for range 10 * turnLength {
		_ = fr.WritePriority(1, http2.PriorityParam{StreamDep: 3})
	}
	if n := told("frames"); n < 10 {
		t.Errorf("%d turns for %d frames", n, 10*turnLength)
	}
	for i := range uint32(200) {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3 + 2*i, BlockFragment: p.block(), EndHeaders: true, EndStream: i > 0})
	}
	told("requests")
	told("the turn before") // which ends behind the answer to its ping: the requests begin then
	if n := most.Load(); n == 0 || n > 1+turnLength/turnPerHead {
		t.Errorf("%d requests have begun in one turn", n)
	}
	for range 10 * turnLength {
		_ = fr.WriteData(3, false, make([]byte, bulk))
		if all.Len() > 200_000 { // within the windows
			break
		}
	}
	if n := told("a body"); n > 1 {
		t.Errorf("%d turns for a body", n)
	}
	close(release)
	_ = p.nc.Close()
	<-p.done
}

// A request that was taken back before it began leaves its memory for the next one.
func TestWhatIsTakenBackIsUsedAgain(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s, err := NewServer(b, ServerConfig{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	e := servers.New().(*serverExch)
	e.init(&s.conn)
	e.id, e.shared = 1, true
	e.req.Path = "/"
	s.handlers = 1
	s.wg.Add(1)
	s.mu.Lock()
	s.failLocked(&e.exch, errReset)
	s.mu.Unlock()
	s.fresh = append(s.fresh, e)
	s.pause()
	s.wg.Wait()
	if e.c != nil || e.req.Path != "" || s.handlers != 0 {
		t.Errorf("it is kept: %+v", e)
	}
}
