// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flood is what a client does that means harm. It gives whether the proxy cut it off (closed the connection, or refused), where it
// says cut; other floods may stay, and must cost little.
type flood struct {
	id   string
	cut  bool
	port floodPort
	send func(ctx context.Context, addr string) (cut bool, err error)
}

// floodPort is what a flood is against.
type floodPort uint8

const (
	upstreamPort floodPort = iota // where the service finds another
	publicPort                    // the port for other sidecars
	carriedPort                   // the same, by a sidecar that has a certificate and speaks weft-mux/1
)

// h2attack opens an HTTP/2 connection without TLS, and has step send frames until the proxy ends it or there have been n.
func h2attack(n int, step func(f *http2.Framer, i int, head func(fields ...string) []byte) error) func(context.Context, string) (bool, error) {
	return h2refused(n, "", step)
}

// h2refused is h2attack whose requests have to be answered with a status, all n of them, if it isn't "".
func h2refused(n int, status string, step func(f *http2.Framer, i int, head func(fields ...string) []byte) error) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, addr string) (bool, error) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false, err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		var buf bytes.Buffer
		enc := hpack.NewEncoder(&buf)
		head := func(fields ...string) []byte {
			buf.Reset()
			all := append([]string{":method", "GET", ":scheme", "http", ":authority", "api", ":path", "/page"}, fields...)
			for i := 0; i+1 < len(all); i += 2 {
				_ = enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}) // into memory
			}
			return bytes.Clone(buf.Bytes())
		}
		f := http2.NewFramer(conn, conn)
		f.AllowIllegalWrites, f.AllowIllegalReads = true, true
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			return false, err
		}
		if err := f.WriteSettings(); err != nil {
			return false, err
		}
		goaway, answers := make(chan struct{}), map[string]int{} // by status; read once goaway is closed
		decoder := hpack.NewDecoder(4096, nil)
		go func() { // what is answered is read, so that only the proxy's own bounds end it
			defer close(goaway)
			for {
				fr, err := f.ReadFrame()
				if h, ok := fr.(*http2.HeadersFrame); ok {
					if fields, err := decoder.DecodeFull(h.HeaderBlockFragment()); err == nil && len(fields) > 0 {
						answers[fields[0].Value]++ // :status comes first
					}
				}
				if _, ok := fr.(*http2.GoAwayFrame); ok || err != nil && !errors.As(err, new(http2.StreamError)) {
					return
				}
			}
		}()
		for i := range n {
			if err := step(f, i, head); err != nil {
				return ctx.Err() == nil, nil
			}
			select {
			case <-goaway:
				return ctx.Err() == nil, nil
			default:
			}
		}
		select {
		case <-goaway:
			return ctx.Err() == nil, nil
		case <-time.After(2 * time.Second):
		}
		_ = conn.Close()
		if <-goaway; status != "" && answers[status] != n {
			return false, fmt.Errorf("%d requests were answered with %v, want %s for each", n, answers, status)
		}
		return false, nil
	}
}

// heads sends one HTTP/1 head, and says whether it was refused.
func heads(head string) func(context.Context, string) (bool, error) {
	return func(_ context.Context, addr string) (bool, error) {
		got, err := send(addr, head)
		return err == nil && (len(got) == 0 || got[0] >= 400), err
	}
}

// crowd opens n connections, sends what is given on each, and holds them for as long; cut is whether the proxy closed all.
func crowd(n int, first string, hold time.Duration) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, addr string) (bool, error) {
		var conns []net.Conn
		defer func() {
			for _, c := range conns {
				_ = c.Close()
			}
		}()
		for range n {
			c, err := net.DialTimeout("tcp", addr, 2*time.Second)
			if err != nil {
				return true, nil // no more are taken
			}
			conns = append(conns, c)
			_, _ = io.WriteString(c, first) // it may be closed already
		}
		deadline := time.Now().Add(hold)
		for _, c := range conns {
			_ = c.SetReadDeadline(deadline)
			if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				return false, nil
			}
		}
		return true, nil
	}
}

// streamFloods are those over HTTP/2.
func streamFloods() []flood {
	cookies := func(n int) (fields []string) {
		for range n {
			fields = append(fields, "cookie", "a=b")
		}
		return fields
	}
	return []flood{
		{"C61 rapid reset", true, upstreamPort, h2attack(50_000, func(f *http2.Framer, i int, head func(...string) []byte) error {
			id := uint32(2*i + 1)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head(), EndHeaders: true, EndStream: true}); err != nil {
				return err
			}
			return f.WriteRSTStream(id, http2.ErrCodeCancel)
		})},
		{"C62 resets provoked by empty window updates", true, upstreamPort, h2attack(50_000, func(f *http2.Framer, i int, head func(...string) []byte) error {
			id := uint32(2*i + 1)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head(), EndHeaders: true}); err != nil {
				return err
			}
			return f.WriteWindowUpdate(id, 0)
		})},
		{"C63 CONTINUATION without an end", true, upstreamPort, h2attack(100_000, func(f *http2.Framer, i int, head func(...string) []byte) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head()})
			}
			return f.WriteContinuation(1, false, bytes.Repeat([]byte{0x40, 1, 'x', 1, 'y'}, 100))
		})},
		{"C63 empty CONTINUATION", true, upstreamPort, h2attack(100_000, func(f *http2.Framer, i int, head func(...string) []byte) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head()})
			}
			return f.WriteContinuation(1, false, nil)
		})},
		{"C64 SETTINGS", true, upstreamPort, h2attack(100_000, func(f *http2.Framer, _ int, _ func(...string) []byte) error { return f.WriteSettings() })},
		{"C64 PING", true, upstreamPort, h2attack(100_000, func(f *http2.Framer, _ int, _ func(...string) []byte) error { return f.WritePing(false, [8]byte{}) })},
		{"C64 PRIORITY", true, upstreamPort, h2attack(100_000, func(f *http2.Framer, i int, _ func(...string) []byte) error {
			return f.WritePriority(uint32(2*i+1), http2.PriorityParam{Weight: 1})
		})},
		{"C64 WINDOW_UPDATE", true, upstreamPort, h2attack(100_000, func(f *http2.Framer, _ int, _ func(...string) []byte) error { return f.WriteWindowUpdate(0, 1) })},
		{"C64 empty DATA", true, upstreamPort, h2attack(100_000, func(f *http2.Framer, i int, head func(...string) []byte) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(), EndHeaders: true})
			}
			return f.WriteData(1, false, nil)
		})},
		{"C65 HPACK bomb", true, upstreamPort, h2attack(2_000, func(f *http2.Framer, i int, head func(...string) []byte) error {
			id := uint32(2*i + 1)
			block := head("x-bomb", strings.Repeat("a", 3000)) // enters the table once, then it is one byte each time
			if i > 0 {
				block = append(block, bytes.Repeat([]byte{0x80 | 62}, 16_000)...)
			}
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true})
		})},
		{"C68 100k cookies", false, upstreamPort, h2refused(20, "431", func(f *http2.Framer, i int, head func(...string) []byte) error {
			block := head(cookies(100_000)...)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block[:16_000], EndStream: true}); err != nil {
				return err
			}
			for rest := block[16_000:]; len(rest) > 0; {
				n := min(16_000, len(rest))
				if err := f.WriteContinuation(uint32(2*i+1), n == len(rest), rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		})},
		{"C66 streams whose answers nobody reads", false, upstreamPort, h2attack(1000, func(f *http2.Framer, i int, head func(...string) []byte) error {
			if i == 0 {
				if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
					return err
				}
			}
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: head(), EndHeaders: true, EndStream: true})
		})},
	}
}

// plainFloods are those over HTTP/1 and TLS.
func plainFloods() []flood {
	const get = "GET / HTTP/1.1\r\nHost: api\r\n"
	return []flood{
		{"C68 a field of 1 MiB", true, upstreamPort, heads(get + "X: " + strings.Repeat("a", 1<<20) + "\r\n\r\n")},
		{"C68 10k fields", true, upstreamPort, heads(get + strings.Repeat("X: a\r\n", 10_000) + "\r\n")},
		{"C68 a path of 1 MiB", true, upstreamPort, heads("GET /?" + strings.Repeat("a&", 1<<19) + " HTTP/1.1\r\nHost: api\r\n\r\n")},
		{"C69 heads that don't end", true, upstreamPort, crowd(1000, get, 25*time.Second)},
		{"C69 half a preface", true, upstreamPort, crowd(1000, http2.ClientPreface[:10], 25*time.Second)},
		{"C70 no ClientHello", true, publicPort, crowd(3000, "", 25*time.Second)},
		{"C70 half a ClientHello", true, publicPort, crowd(1000, "\x16\x03\x01\x02\x00\x01", 25*time.Second)},
		{"C70 TLS without a certificate", true, publicPort, func(ctx context.Context, addr string) (bool, error) {
			for range 50 { // at a time: who has the least right to a busy machine's processors needs seconds for more
				c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, &tls.Config{InsecureSkipVerify: true})
				if err != nil {
					continue
				}
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				_, err = c.Read(make([]byte, 1))
				_ = c.Close()
				if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					return false, nil
				}
			}
			return true, nil
		}},
	}
}

// rss is a process's resident memory.
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kb int64
	if _, after, ok := strings.Cut(string(b), "VmRSS:"); ok {
		_, _ = fmt.Sscan(after, &kb)
	}
	return kb << 10
}

// victim calls over and over on a connection of its own until ctx ends, and gives the 99th percentile and how many failed.
func victim(ctx context.Context, addr string) (p99 time.Duration, calls, failed int) {
	c, end := h1()
	defer end()
	var took []time.Duration
	for first := true; ctx.Err() == nil; first = false {
		began := time.Now()
		if err := wantStatus(c, "http://"+addr+"/page", http.StatusOK); err != nil {
			failed++
		}
		if !first { // which makes the connections
			took = append(took, time.Since(began))
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	slices.Sort(took)
	if len(took) == 0 {
		return 0, 0, failed
	}
	return took[len(took)*99/100], len(took), failed
}

// alongside is a victim's calls while something else goes on.
type alongside struct {
	p99           time.Duration
	calls, failed int
}

func beside(addr string, do func()) (a alongside) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.p99, a.calls, a.failed = victim(ctx, addr) })
	do()
	cancel()
	wg.Wait()
	return a
}

// worked is the processor time that a process has taken.
func worked(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(after)
	if len(f) < 13 {
		t.Fatalf("%q", b)
	}
	var user, system time.Duration
	_, _ = fmt.Sscan(f[11]+" "+f[12], &user, &system)
	return (user + system) * 10 * time.Millisecond // a tick is a hundredth of a second
}

// floodMemory is how much a flood may cost.
const floodMemory = 64 << 20

// TestFloods is C61 to C76, and what another sidecar can do, each beside a client that means well: the offender is cut off, memory stays within 64 MiB of what it was,
// and no call of the other client fails. How much slower its calls are is only told, beside how they are while the same is sent to nobody:
// see `make floods`. The offender has the machine's last processor for itself, and all else the others, as if it were on another
// machine: what is measured is what its flood costs, not what it costs to send.
func TestFloods(t *testing.T) {
	enabled(t)
	if os.Getenv("WEFT_FLOODS") == "" {
		t.Skip("minutes of floods: run `make floods`")
	}
	p := newPair(t, mustWorld(t, Builtin, "deny"), "http")
	p.becomes(t, "offender")
	p.apart()
	calm := beside(p.addr, func() { <-time.After(2 * floodTime) }).p99
	for _, f := range allFloods() {
		t.Run(f.id, func(t *testing.T) { p.flooded(t, f, calm) })
	}
	if err := call("http", p.addr); err != nil { // the control: who means well is served after all of it
		t.Error(err)
	}
}

// apart keeps all that isn't an offender off the offenders' processor.
func (p *pair) apart() {
	p.t.Cleanup(func() { _ = confine(os.Getpid(), 0, runtime.NumCPU()-1) })
	for _, pid := range []int{os.Getpid(), p.w.agent.cmd.Process.Pid, p.web.sidecar.cmd.Process.Pid, p.api.sidecar.cmd.Process.Pid} {
		if err := confine(pid, 0, runtime.NumCPU()-2); err != nil {
			p.t.Fatal(err)
		}
	}
}

// flooded is one flood.
func (p *pair) flooded(t *testing.T, f flood, calm time.Duration) {
	sidecar, addr := p.web, p.addr
	if f.port != upstreamPort {
		sidecar, addr = p.api, loopback(p.api.Public)
	}
	pid := sidecar.sidecar.cmd.Process.Pid
	alone, _, _ := offend(t, f, nobody, p.addr, floodTime+time.Second) // what it costs to send is the machine's, and no part of what the proxy does
	before, most, cpu := rss(t, pid), int64(0), worked(t, pid)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			most = max(most, rss(t, pid))
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	began := time.Now()
	a, o, err := offend(t, f, addr, p.addr, time.Minute)
	took := time.Since(began)
	cancel()
	wg.Wait()
	if err != nil {
		t.Error(err)
	}
	if f.cut && o.Cut < o.Times {
		t.Errorf("the offender was cut off %d times of %d", o.Cut, o.Times)
	}
	if most-before > floodMemory {
		t.Errorf("it cost %d MiB", (most-before)>>20)
	}
	if a.failed > 0 {
		t.Errorf("%d of %d calls of another client failed", a.failed, a.calls)
	}
	times := func(of time.Duration) float64 { return float64(a.p99) / float64(max(of, 1)) }
	t.Logf("%-45s cut %d of %d, first after %.2fs, memory +%d MiB, %.0f %% of a processor, victim p99 %s: ×%.1f of beside a flood of nobody (%s), ×%.1f of calm (%s), in %d calls",
		f.id, o.Cut, o.Times, o.First.Seconds(), max(0, most-before)>>20, 100*(worked(t, pid)-cpu).Seconds()/took.Seconds(), a.p99, times(alone.p99), alone.p99, times(calm), calm, a.calls)
}
