// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// A connection that makes work for nothing is served slowly, also as long as it keeps within its budget; one with a usual number of
// such frames isn't.
func TestWorkForNothingIsPaused(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames int
		paused bool
	}{{"few", 400, false}, {"many", 4500, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				s, err := NewServer(b, ServerConfig{}, quiet)
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() { done <- s.Run(t.Context()) }()
				go func() { _, _ = io.Copy(io.Discard, a) }() // ends with the connection
				var all bytes.Buffer
				all.WriteString(preface)
				f := http2.NewFramer(&all, nil)
				_ = f.WriteSettings()
				for range c.frames {
					_ = f.WritePriority(1, http2.PriorityParam{StreamDep: 3})
				}
				began := time.Now()
				if _, err := a.Write(all.Bytes()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); (took >= time.Millisecond) != c.paused {
					t.Errorf("%d frames took %s", c.frames, took)
				}
				_ = a.Close()
				<-done
			})
		})
	}
}

// What is taken back in the same breath never reaches a handler, and leaves nothing behind.
func TestRequestTakenBackIsNotServed(t *testing.T) {
	served := make(chan string, 10)
	p := newRawPeer(t, ServerConfig{}, func(x stream.ServerExchange) {
		served <- x.Request().Path
		_ = x.WriteHead(&stream.ResponseHead{Status: 200}, true)
	})
	var all bytes.Buffer
	f := http2.NewFramer(&all, nil)
	head := func(id uint32, path string, end bool) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: end,
			BlockFragment: p.block(":method", "GET", ":scheme", "http", ":authority", "a", ":path", path)})
	}
	head(1, "/taken", true)
	_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
	head(3, "/taken-with-body", false)
	_ = f.WriteData(3, false, make([]byte, 1000))
	_ = f.WriteRSTStream(3, http2.ErrCodeCancel)
	head(5, "/kept", true)
	if _, err := p.nc.Write(all.Bytes()); err != nil {
		t.Fatal(err)
	}
	if got := <-served; got != "/kept" {
		t.Errorf("%s was served", got)
	}
	p.srv.Drain()
	go func() { // answers the PING of the drain
		for {
			fr, err := p.fr.ReadFrame()
			if err != nil {
				return
			}
			if ping, ok := fr.(*http2.PingFrame); ok && !ping.IsAck() {
				_ = p.fr.WritePing(true, ping.Data)
			}
		}
	}()
	if err := <-p.done; err != nil { // it would wait for ever for handlers that never began
		t.Error(err)
	}
	if len(served) > 0 {
		t.Errorf("%s was served", <-served)
	}
}

// Who breaks the protocol isn't told before its turn has come.
func TestRefusalsWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(calm.Queue)
		breaks := func() time.Duration {
			a, b := net.Pipe()
			done := make(chan error, 1)
			go func() { done <- Serve(t.Context(), b, ServerConfig{Refusals: q}, quiet) }()
			began := time.Now()
			go func() {
				_, _ = io.WriteString(a, preface)
				f := http2.NewFramer(a, nil)
				_ = f.WriteSettings()
				_ = f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
			}()
			f := http2.NewFramer(nil, a)
			for fr, err := f.ReadFrame(); fr == nil || fr.Header().Type != http2.FrameGoAway; fr, err = f.ReadFrame() {
				if err != nil {
					t.Fatal(err)
				}
			}
			took := time.Since(began)
			_ = a.Close()
			if err := <-done; !errors.As(err, new(*ConnError)) {
				t.Errorf("it ended with %v", err)
			}
			return took
		}
		if first := breaks(); first != 0 {
			t.Errorf("the first took %s to be told", first)
		}
		breaks()
		breaks()
		if later := breaks(); later == 0 || later > restTimes*refusalCost {
			t.Errorf("one behind three others took %s to be told", later)
		}
	})
}

// A head that takes its time isn't served where the client was told meanwhile that it isn't.
func TestHeadDuringTheEndOfADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		served, goOn := make(chan uint8, 10), make(chan struct{})
		s, err := NewServer(b, ServerConfig{}, func(x stream.ServerExchange) {
			served <- 1
			<-goOn
			quiet(x)
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context()) }()
		last := make(chan uint32, 10)
		go func() {
			f := http2.NewFramer(nil, a)
			for {
				fr, err := f.ReadFrame()
				if err != nil {
					return
				}
				if g, ok := fr.(*http2.GoAwayFrame); ok {
					last <- g.LastStreamID
				}
			}
		}()
		_, _ = io.WriteString(a, preface)
		p := &rawPeer{t: t, fr: http2.NewFramer(a, nil)}
		p.enc = hpack.NewEncoder(&p.hb)
		_ = p.fr.WriteSettings()
		_ = p.headers(1, true)
		<-served
		head := p.block()
		_ = p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: head[:2], EndStream: true})
		s.Drain()
		if all := <-last; all != maxStreamID {
			t.Errorf("at first streams up to %d are said to be served", all)
		}
		if one := <-last; one != 1 { // a second later: the client doesn't answer
			t.Errorf("streams up to %d are said to be served, want 1", one)
		}
		_ = p.fr.WriteContinuation(3, true, head[2:])
		synctest.Wait()
		if len(served) > 0 {
			t.Error("a request is served of which the client was told that it isn't")
		}
		close(goOn)
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = a.Close()
	})
}
