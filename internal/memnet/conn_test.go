// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// each runs f in a bubble with the two ends of a dialled connection.
func each(t *testing.T, f func(t *testing.T, a, b *Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New()
		l, err := n.Listen("server:80")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a, err := n.DialContext(t.Context(), "server:80")
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		defer b.Close()
		f(t, a.(*Conn), b.(*Conn))
	})
}

func TestBytesArriveInOrderBothWays(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		data := make([]byte, 3<<20)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		want := sha256.Sum256(data)
		var wg sync.WaitGroup
		for _, c := range []*Conn{a, b} {
			wg.Go(func() {
				for rest := data; len(rest) > 0; {
					n, err := c.Write(rest[:min(len(rest), 1+rand.IntN(200_000))])
					if err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				h := sha256.New()
				if _, err := io.Copy(h, c); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(h.Sum(nil), want[:]) {
					t.Error("other bytes arrived")
				}
			})
		}
		wg.Wait()
	})
}

func TestPingPong(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		go io.Copy(b, b) //nolint:errcheck // ends with the connection
		buf := make([]byte, 1)
		for i := range 1000 {
			if _, err := a.Write([]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Read(buf); err != nil || buf[0] != byte(i) {
				t.Fatalf("%d: %v %v", i, buf, err)
			}
		}
	})
}

func TestConcurrentWritesDontInterleave(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		const size, writers = 100_000, 4
		for i := range writers {
			go a.Write(bytes.Repeat([]byte{byte('a' + i)}, size)) //nolint:errcheck // the reader counts
		}
		buf := make([]byte, size)
		for range writers {
			if _, err := io.ReadFull(b, buf); err != nil {
				t.Fatal(err)
			}
			if bytes.Count(buf, buf[:1]) != size {
				t.Fatal("two writes are mixed")
			}
		}
	})
}

func TestDeadlines(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		timedOut := func(what string, n int, err error) {
			t.Helper()
			var ne net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() || n != 0 {
				t.Fatalf("%s: %d, %v", what, n, err)
			}
		}
		buf := make([]byte, 10)
		// in the past: at once, also with data there
		if _, err := b.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		a.SetDeadline(time.Now().Add(-time.Second))
		n, err := a.Read(buf)
		timedOut("past read", n, err)
		n, err = a.Write(buf)
		timedOut("past write", n, err)
		// none: works again
		a.SetDeadline(time.Time{})
		if n, err := a.Read(buf); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		// in the future: after exactly that time
		start := time.Now()
		a.SetReadDeadline(start.Add(3 * time.Second))
		n, err = a.Read(buf)
		timedOut("future read", n, err)
		if d := time.Since(start); d != 3*time.Second {
			t.Fatalf("after %v", d)
		}
		// replaced while blocked: the new one holds
		a.SetReadDeadline(time.Now().Add(time.Second))
		start = time.Now()
		time.AfterFunc(500*time.Millisecond, func() { a.SetReadDeadline(start.Add(2 * time.Second)) })
		n, err = a.Read(buf)
		timedOut("replaced", n, err)
		if d := time.Since(start); d != 2*time.Second {
			t.Fatalf("after %v", d)
		}
		// a full window blocks the writer, which says how much went
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err = a.Write(make([]byte, window+1))
		if n != window || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(n, err)
		}
	})
}

func TestCloseUnblocksBothEnds(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		errs := make(chan error, 4)
		go func() { _, err := a.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := a.Write(make([]byte, window*2)); errs <- err }()
		synctest.Wait()
		a.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
		}
		// b still gets what was written, then EOF; its writes fail
		if n, err := io.Copy(io.Discard, b); n != window || err != nil {
			t.Fatal(n, err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestHalfClose(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		a.Write([]byte("question"))
		a.CloseWrite()
		if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
			t.Fatal(string(got), err)
		}
		if _, err := a.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
			t.Fatal(err)
		}
		b.Write([]byte("answer"))
		b.Close()
		if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
			t.Fatal(string(got), err)
		}
	})
}

func TestResetLosesWhatWasUnread(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		a.Write([]byte("lost"))
		a.SetLinger(0)
		a.Close()
		if n, err := b.Read(make([]byte, 10)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(n, err)
		}
	})
}

func TestAddresses(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		if a.RemoteAddr().String() != "server:80" || b.LocalAddr().String() != "server:80" {
			t.Fatal(a.RemoteAddr(), b.LocalAddr())
		}
		if a.LocalAddr() != b.RemoteAddr() || a.LocalAddr().Network() != "mem" {
			t.Fatal(a.LocalAddr(), b.RemoteAddr())
		}
	})
}

// TestRacyUse is for the race detector: everything at once on one connection.
func TestRacyUse(t *testing.T) {
	each(t, func(t *testing.T, a, b *Conn) {
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, c := range []*Conn{a, b} {
			for range 3 {
				wg.Go(func() {
					buf := make([]byte, 1024)
					for ctx.Err() == nil {
						c.SetReadDeadline(time.Now().Add(time.Millisecond))
						c.Read(buf) //nolint:errcheck // any outcome will do
					}
				})
				wg.Go(func() {
					buf := make([]byte, 1024)
					for ctx.Err() == nil {
						c.SetWriteDeadline(time.Now().Add(time.Millisecond))
						c.Write(buf) //nolint:errcheck // any outcome will do
						c.LocalAddr()
						time.Sleep(time.Millisecond)
					}
				})
			}
		}
		wg.Wait()
	})
}
