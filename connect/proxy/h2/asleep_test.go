// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// sleeper is a server in virtual time that rests after a second, and its client, which notes what it gets.
type sleeper struct {
	*rawPeer
	cancel context.CancelCauseFunc
	ctx    context.Context

	mu  sync.Mutex
	got []string
}

func newSleeper(t *testing.T, cfg ServerConfig, h stream.Handler) *sleeper {
	a, b := net.Pipe()
	cfg.RestAfter = time.Second
	s, err := NewServer(b, cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	p := &sleeper{rawPeer: &rawPeer{t: t, nc: a, fr: http2.NewFramer(a, nil), srv: s, done: make(chan error, 1)}}
	p.enc = hpack.NewEncoder(&p.hb)
	p.ctx, p.cancel = context.WithCancelCause(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in := http2.NewFramer(nil, a)
		in.ReadMetaHeaders = hpack.NewDecoder(headerTable, nil)
		for {
			f, err := in.ReadFrame()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
					p.note("error " + err.Error())
				}
				return
			}
			p.note(frameText(f))
		}
	}()
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
		p.cancel(nil)
		<-ended
	})
	p.run()
	_, _ = io.WriteString(a, preface)
	_ = p.fr.WriteSettings()
	_ = p.fr.WriteSettingsAck()
	return p
}

func frameText(f http2.Frame) string {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		var b strings.Builder
		fmt.Fprintf(&b, "HEADERS %d", f.StreamID)
		for _, h := range f.Fields {
			b.WriteString(" " + h.Name + "=" + h.Value)
		}
		return b.String()
	case *http2.PingFrame:
		return fmt.Sprintf("PING %v", f.IsAck())
	}
	return f.Header().Type.String()
}

func (p *sleeper) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, what)
}

func (p *sleeper) run() { go func() { p.done <- p.srv.Run(p.ctx) }() }

// rests waits until the server rests.
func (p *sleeper) rests() *Rest {
	p.t.Helper()
	time.Sleep(3 * time.Second)
	synctest.Wait()
	select {
	case err := <-p.done:
		var r *Rest
		if !errors.As(err, &r) {
			p.t.Fatalf("Run gave %v, want a rest", err)
		}
		return r
	default:
		p.t.Fatal("it doesn't rest")
	}
	return nil
}

// ends gives what Run does.
func (p *sleeper) ends() error {
	p.t.Helper()
	time.Sleep(5 * time.Second)
	synctest.Wait()
	select {
	case err := <-p.done:
		return err
	default:
		p.t.Fatal("it goes on")
	}
	return nil
}

func (p *sleeper) has(want string) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.got, want) {
		p.t.Errorf("it sent %q, want %q too", p.got, want)
	}
	p.got = nil
}

// tells answers with what it was asked.
func tells(x stream.ServerExchange) {
	h := &stream.ResponseHead{Status: 200}
	v, _ := x.Request().Fields.Get("x-said")
	h.Fields.Add("x-path", x.Request().Path)
	h.Fields.Add("x-said", v)
	_ = x.WriteHead(h, true)
}

func asleep(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

// A connection without a stream rests, holds nothing meanwhile but what the protocol has to remember, and goes on as if nothing had been,
// with both sides' HPACK tables, as often as it likes.
func TestAnIdleConnectionRests(t *testing.T) {
	asleep(t, func(t *testing.T) {
		p := newSleeper(t, ServerConfig{}, tells)
		for turn := range 4 {
			for i := range 3 {
				id := uint32(turn*6 + i*2 + 1)
				_ = p.headers(id, true, ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/x", "x-said", "always the same")
				p.has(fmt.Sprintf("HEADERS %d :status=200 x-path=/x x-said=always the same", id))
			}
			if r := p.rests(); !r.Until.IsZero() {
				t.Errorf("it rests until %s", r.Until)
			}
			s := p.srv
			if s.fr != nil || s.br.small != nil || s.br.large != nil || s.br.from != nil || s.w.enc != nil || s.w.buf != nil || s.w.block.Cap() > 0 ||
				s.streams != nil || s.fresh != nil || s.block != nil || len(s.w.values.m) > 0 || s.in.fields.Len() > 0 {
				t.Error("it holds something while it rests")
			}
			p.run()
			_ = p.fr.WritePing(false, [8]byte{1})
			p.has("PING true")
			p.rests()
			p.run()
		}
		_ = p.nc.Close()
		if err := p.ends(); err != nil {
			t.Error(err)
		}
	})
}

// What is under way keeps a connection from resting, and the time that it has for it.
func TestNotWhileSomethingIsUnderWay(t *testing.T) {
	for name, c := range map[string]struct {
		begin func(p *sleeper)
		ends  time.Duration // 0: when its client goes on
		goOn  func(p *sleeper)
	}{
		"a request that is served": {begin: func(p *sleeper) {
			_ = p.headers(1, true, ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/slow")
		}},
		"a request's body": {
			begin: func(p *sleeper) {
				_ = p.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/body")
			},
			goOn: func(p *sleeper) { _ = p.fr.WriteData(1, true, []byte("x")) },
		},
		"half of a frame's head": {
			begin: func(p *sleeper) { _, _ = p.nc.Write([]byte{0, 0, 8, 6}) },
			goOn:  func(p *sleeper) { _, _ = p.nc.Write(make([]byte, 13)) },
		},
		"half of a frame": {
			begin: func(p *sleeper) { _, _ = p.nc.Write([]byte{0, 0, 8, 6, 0, 0, 0, 0, 0, 1}) },
			goOn:  func(p *sleeper) { _, _ = p.nc.Write(make([]byte, 7)) },
		},
		"a head that isn't whole": {ends: headTimeout, begin: func(p *sleeper) {
			_ = p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: nil, EndStream: true})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			asleep(t, func(t *testing.T) {
				p := newSleeper(t, ServerConfig{}, func(x stream.ServerExchange) {
					if x.Request().Path == "/slow" {
						time.Sleep(8 * time.Second)
					}
					_, _ = io.Copy(io.Discard, reader{x})
					tells(x)
				})
				time.Sleep(1500 * time.Millisecond) // it has looked once, and is about to look again
				c.begin(p)
				synctest.Wait()
				p.srv.mu.Lock() // the look may have been while it was still idle
				p.srv.asked = true
				_ = p.srv.nc.SetReadDeadline(longAgo)
				p.srv.mu.Unlock()
				time.Sleep(6 * time.Second)
				synctest.Wait()
				if len(p.done) > 0 {
					t.Fatalf("Run gave %v", <-p.done)
				}
				if c.ends > 0 {
					time.Sleep(c.ends - 6*time.Second - time.Millisecond)
					synctest.Wait()
					if len(p.done) > 0 {
						t.Error("it ended too soon")
					}
					time.Sleep(time.Second)
					if err := p.ends(); !errors.Is(err, ErrTimeout) {
						t.Errorf("it ended with %v", err)
					}
					return
				}
				if c.goOn != nil {
					c.goOn(p)
				}
				time.Sleep(3 * time.Second)
				p.rests()
			})
		})
	}
}

type reader struct{ x stream.ServerExchange }

func (r reader) Read(p []byte) (int, error) { return r.x.ReadBody(p) }

// What ends a connection ends one that rests as well.
func TestARestEnds(t *testing.T) {
	over := errors.New("over")
	for name, c := range map[string]struct {
		end  func(p *sleeper)
		says string
		want error
	}{
		"by a drain":            {func(p *sleeper) { p.srv.Drain() }, "GOAWAY", nil},
		"when the peer goes":    {func(p *sleeper) { _ = p.nc.Close() }, "", nil},
		"when Run's context is": {func(p *sleeper) { p.cancel(over) }, "", over},
		"by its idle time":      {func(*sleeper) { time.Sleep(time.Hour) }, "GOAWAY", nil},
		"by a breach":           {func(p *sleeper) { go func() { _ = p.fr.WriteData(1, true, nil) }() }, "GOAWAY", stream.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			asleep(t, func(t *testing.T) {
				began := time.Now()
				p := newSleeper(t, ServerConfig{IdleTimeout: time.Hour}, tells)
				r := p.rests()
				if d := r.Until.Sub(began); d != time.Hour {
					t.Errorf("it may rest for %s", d)
				}
				p.srv.Drain() // no more than noted
				p.srv.mu.Lock()
				p.srv.drainFirst = false
				p.srv.mu.Unlock()
				c.end(p)
				p.run()
				if err := p.ends(); !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Errorf("Run gave %v, want %v", err, c.want)
				}
				if c.says != "" {
					p.has(c.says)
				}
			})
		})
	}
}

// A connection whose requests keep it busy stays, and its idle time goes on through its rests.
func TestIdleTimeGoesOnThroughRests(t *testing.T) {
	asleep(t, func(t *testing.T) {
		p := newSleeper(t, ServerConfig{IdleTimeout: time.Minute}, tells)
		for i := range 20 { // a request each half minute
			r := p.rests()
			if d := time.Until(r.Until); d < 0 || d > time.Minute {
				t.Fatalf("rest %d: %s more", i, d)
			}
			time.Sleep(min(time.Until(r.Until), 27*time.Second))
			p.run()
			_ = p.headers(uint32(2*i+1), true)
			p.has(fmt.Sprintf("HEADERS %d :status=200 x-path=/ x-said=", 2*i+1))
		}
		for range 3 {
			r := p.rests()
			time.Sleep(time.Until(r.Until))
			p.run()
			synctest.Wait()
			p.mu.Lock()
			goes := slices.Contains(p.got, "GOAWAY")
			p.mu.Unlock()
			if goes {
				if err := p.ends(); err != nil {
					t.Error(err)
				}
				return
			}
		}
		t.Error("it is idle for longer than twice its idle time")
	})
}

// The connection's way out is told of the peer's table size also after a rest.
func TestTableSizeAfterARest(t *testing.T) {
	asleep(t, func(t *testing.T) {
		p := newSleeper(t, ServerConfig{}, tells)
		_ = p.fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 100})
		p.rests()
		p.run()
		_ = p.fr.WritePing(false, [8]byte{})
		synctest.Wait()
		p.srv.w.mu.Lock()
		var b bytes.Buffer
		d := hpack.NewDecoder(100, func(hpack.HeaderField) {})
		d.SetAllowedMaxDynamicTableSize(100)
		_ = p.srv.w.enc.WriteField(hpack.HeaderField{Name: "a", Value: "b"})
		b.Write(p.srv.w.block.Bytes())
		p.srv.w.block.Reset()
		p.srv.w.mu.Unlock()
		if _, err := d.Write(b.Bytes()); err != nil {
			t.Error(err)
		}
		if !bytes.HasPrefix(b.Bytes(), []byte{0x20}) {
			t.Errorf("the first head after a rest begins with % x, want the table emptied", b.Bytes())
		}
	})
}
