// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
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
		served, goOn := make(chan uint8, 10), make(chan struct{})
		p, told := leavingPeer(t, ServerConfig{}, func(x stream.ServerExchange) {
			served <- 1
			<-goOn
			quiet(x)
		})
		_ = p.headers(1, true)
		<-served
		head := p.block()
		_ = p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: head[:2], EndStream: true})
		p.srv.Drain()
		if all := <-told; all.LastStreamID != maxStreamID {
			t.Errorf("at first streams up to %d are said to be served", all.LastStreamID)
		}
		if one := <-told; one.LastStreamID != 1 { // a second later: the client doesn't answer
			t.Errorf("streams up to %d are said to be served, want 1", one.LastStreamID)
		}
		_ = p.fr.WriteContinuation(3, true, head[2:])
		synctest.Wait()
		if len(served) > 0 {
			t.Error("a request is served of which the client was told that it isn't")
		}
		close(goOn)
		if err := <-p.done; err != nil {
			t.Error(err)
		}
		_ = p.nc.Close()
	})
}

// leavingPeer is a client in virtual time that has said its SETTINGS, and the GOAWAYs that it is told.
func leavingPeer(t *testing.T, cfg ServerConfig, h stream.Handler) (*rawPeer, <-chan http2.GoAwayFrame) {
	a, b := net.Pipe()
	s, err := NewServer(b, cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	p := &rawPeer{t: t, nc: a, srv: s, fr: http2.NewFramer(a, nil), done: make(chan error, 1)}
	p.enc = hpack.NewEncoder(&p.hb)
	go func() { p.done <- s.Run(t.Context()) }()
	told := make(chan http2.GoAwayFrame, 10)
	go func() {
		defer close(told)
		f := http2.NewFramer(nil, a)
		for {
			fr, err := f.ReadFrame()
			if err != nil {
				return
			}
			if g, ok := fr.(*http2.GoAwayFrame); ok {
				told <- *g
			}
		}
	}()
	_, _ = io.WriteString(a, preface)
	_ = p.fr.WriteSettings()
	return p, told
}

// What ends a connection that waits to be told of its breach isn't why it ends.
func TestBreachDuringADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(calm.Queue)
		for range 3 {
			q.Wait(t.Context(), refusalCost) // others'
		}
		served := make(chan struct{})
		p, told := leavingPeer(t, ServerConfig{Refusals: q}, func(x stream.ServerExchange) { <-served; quiet(x) })
		_ = p.headers(1, true)
		synctest.Wait()
		p.srv.Drain()
		_ = p.fr.WritePing(true, drainPing)
		_ = p.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		synctest.Wait()
		close(served) // the drain is done
		if err := <-p.done; !errors.As(err, new(*ConnError)) {
			t.Errorf("it ended with %v", err)
		}
		_ = p.nc.Close()
		last := http2.ErrCodeNo
		for g := range told {
			last = g.ErrCode
		}
		if last != http2.ErrCodeProtocol {
			t.Errorf("the client was told %v at the end", last)
		}
	})
}

// What comes back of a budget comes back to who has used a part of it: a frame a second is never owed for.
func TestBudgetsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(5000, controlPerSecond, freeControl)
		for range 10_000 {
			time.Sleep(time.Second / controlPerSecond)
			if !b.spend(1) || b.low() {
				t.Fatalf("with what comes back in a second, %v are left of 5000", b.left)
			}
		}
		for range 4000 {
			b.spend(1)
		}
		if !b.low() {
			t.Errorf("%v are left, and nothing is owed", b.left)
		}
		time.Sleep(10 * time.Second)
		if b.spend(1); b.low() {
			t.Errorf("after ten seconds %v are left", b.left)
		}
	})
}

// Fields that are cut at whatever place are decoded as they are in one piece, and the decoder keeps nothing of them.
func TestHeadsInPieces(t *testing.T) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	var want []hpack.HeaderField
	for i, f := range []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: "x-a", Value: strings.Repeat("a", 200)}, {Name: "x-a", Value: strings.Repeat("a", 200)},
		{Name: strings.Repeat("|", 300), Value: "", Sensitive: true}, {Name: "cookie", Value: strings.Repeat("|", 1000)}, {Name: "x-b", Value: "b"},
	} {
		if i == 0 {
			enc.SetMaxDynamicTableSize(1000) // which is said in the block
		}
		want = append(want, f)
		if err := enc.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	b := block.Bytes()
	for step := 1; step <= len(b); step++ {
		var got []hpack.HeaderField
		c := &conn{dec: hpack.NewDecoder(headerTable, func(f hpack.HeaderField) { got = append(got, f) }), head: headFrames{kind: request}}
		for from := 0; from < len(b); from += step {
			if err := c.decode(b[from:min(from+step, len(b))], from+step >= len(b)); err != nil {
				t.Fatalf("in pieces of %d: %v", step, err)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("in pieces of %d: %v", step, got)
		}
		if kept := reflect.ValueOf(c.dec).Elem().FieldByName("saveBuf").FieldByName("buf").Cap(); kept > 0 || c.block != nil {
			t.Fatalf("in pieces of %d: %d bytes are kept by HPACK, %d by us", step, kept, len(c.block))
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 { // what is no field
		junk := make([]byte, 1+r.IntN(40))
		for i := range junk {
			junk[i] = byte(r.Uint32()) | byte(r.IntN(2)*0x7f)
		}
		if n := wholeFields(junk); n < 0 || n > len(junk) {
			t.Fatalf("%d of %x are whole", n, junk)
		}
	}
}

// Integers may have bytes that add nothing: what they are in is decoded whole all the same, and nothing waits for the head's end because of them.
func TestFieldsWithLongIntegers(t *testing.T) {
	long := func(first byte, bits, v int) []byte {
		b := []byte{first | byte(1<<bits-1)}
		v -= 1<<bits - 1
		for range 5 {
			b = append(b, byte(v&0x7f)|0x80)
			v >>= 7
		}
		return append(b, 0)
	}
	c := &conn{dec: hpack.NewDecoder(headerTable, func(hpack.HeaderField) {}), head: headFrames{kind: request}}
	const size = 60_000
	b := append([]byte{0x01}, long(0, 7, size)...)
	b = append(b, strings.Repeat("|", size)...)
	for from := 0; from < len(b); from += minFrameSize {
		if err := c.decode(b[from:min(from+minFrameSize, len(b))], from+minFrameSize >= len(b)); err != nil {
			t.Fatal(err)
		}
	}
	if kept := reflect.ValueOf(c.dec).Elem().FieldByName("saveBuf").FieldByName("buf").Cap(); kept > 0 {
		t.Errorf("%d bytes are kept by HPACK", kept)
	}
	b = append(long(0, 4, 16), 1, 'a')
	b = append(b, strings.Repeat("\x82", 1000)...)
	if n := wholeFields(b); n != len(b) {
		t.Errorf("%d bytes of %d are whole fields", n, len(b))
	}
}

// A head over its limit is charged for by all that was decoded, however it is cut into frames.
func TestALargeHeadIsChargedForWhole(t *testing.T) {
	const limit = 64 << 10
	for _, last := range []int{1, minFrameSize} {
		c := &conn{lim: stream.Limits{HeadBytes: limit, Fields: 100}, head: headFrames{kind: request}}
		c.in.lim = c.lim
		c.dec = hpack.NewDecoder(headerTable, c.in.add)
		c.in.dec = c.dec
		c.resets = newBucket(1000, resetsPerSecond, freeWaste)
		c.in.begin(request)
		b := append([]byte{0x01, 0x7f, 0xa1, 0x8c, 0x06}, strings.Repeat("a", 100_000)...) // one field, uncompressed
		for from, n := 0, len(b)-last; from < n; from += minFrameSize {
			if err := c.decode(b[from:min(from+minFrameSize, n)], false); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.decode(b[len(b)-last:], true); err != nil {
			t.Fatal(err)
		}
		if want := float64(len(b)) / bytesPerWaste; !c.in.tooLarge || 1000-c.resets.left < want-1 {
			t.Errorf("with %d bytes in its last frame a head of %d is charged for as %v streams, want %v", last, len(b), 1000-c.resets.left, want)
		}
	}
}
