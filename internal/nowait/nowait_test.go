// SPDX-License-Identifier: Apache-2.0

package nowait

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

func pair(t *testing.T) (a, b *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close(); _ = in.Close() })
	return out.(*net.TCPConn), in.(*net.TCPConn)
}

// What is written arrives, whole and in order, also where the peer is slower than the writer and the socket's buffers are full.
func TestAllOfItArrives(t *testing.T) {
	a, b := pair(t)
	_ = a.SetWriteBuffer(8 << 10) // so that a write has to wait
	w, r := Of(a), Of(b)
	if w == nil || r == nil {
		t.Fatal("a TCP connection has no socket")
	}
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(i * i >> 7)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for at, n := 0, 1; at < len(want); n = n*3%(200<<10) + 1 { // pieces of all sizes, also such as go past this package
			end := min(len(want), at+n)
			if m, err := w.Write(want[at:end]); err != nil || m != end-at {
				t.Errorf("%d of %d bytes were written: %v", m, end-at, err)
				break
			}
			at = end
		}
		_ = a.CloseWrite()
	})
	got, err := io.ReadAll(r)
	wg.Wait()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes arrived as they were: %v", len(got), len(want), err)
	}
}

func TestErrors(t *testing.T) {
	a, b := pair(t)
	s := Of(a)
	room := make([]byte, 10)
	_ = a.SetReadDeadline(time.Unix(1, 0))
	_, err := s.Read(room)
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("a deadline that is over: %v", err)
	}
	_ = a.SetReadDeadline(time.Time{})
	_ = b.CloseWrite()
	if n, err := s.Read(room); n != 0 || err != io.EOF {
		t.Errorf("the end: %d, %v", n, err)
	}
	_ = b.SetLinger(0)
	_ = b.Close()
	for err = nil; err == nil; { // until the reset has arrived
		_, err = s.Write(room)
	}
	var oe *net.OpError
	if !errors.As(err, &oe) || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write after a reset: %v", err)
	}
	_ = a.Close()
	if _, err := s.Read(room); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read after Close: %v", err)
	}
	if _, err := s.Write(room); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
}

// A read that waits ends by Close.
func TestCloseWakes(t *testing.T) {
	a, _ := pair(t)
	s := Of(a)
	done := make(chan error)
	go func() {
		_, err := s.Read(make([]byte, 1))
		done <- err
	}()
	_ = a.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("it ended with %v", err)
	}
}

func TestAllocatesNothing(t *testing.T) {
	a, b := pair(t)
	w, r := Of(a), Of(b)
	room := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = w.Write(room)
		_, _ = r.Read(room)
	}); able && n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestOnlySockets(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Of(a) != nil {
		t.Error("a pipe in memory has a socket")
	}
}

// lender counts what it lent and hasn't got back.
type lender struct {
	room [8]byte
	lent int
	back chan int
}

func (l *lender) Lend() []byte { l.lent++; return l.room[:] }
func (l *lender) Back()        { l.lent--; l.back <- l.lent }

// Who waits has no room meanwhile.
func TestReadIntoHoldsNothingWhileItWaits(t *testing.T) {
	a, b := pair(t)
	s := Of(a)
	l := &lender{back: make(chan int, 1)}
	done := make(chan error)
	n := 0
	go func() {
		var err error
		n, err = s.ReadInto(l)
		done <- err
	}()
	if held := <-l.back; held != 0 {
		t.Errorf("%d are held", held)
	}
	if _, err := b.Write([]byte("came")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || string(l.room[:n]) != "came" || l.lent != 1 {
		t.Errorf("%q, %v, %d lent", l.room[:n], err, l.lent)
	}
}

// Only what large reads gave counts as moved in bulk.
func TestCountsLargeReads(t *testing.T) {
	a, b := pair(t)
	r := Of(b)
	take := func(sent, room int) (counted int) {
		t.Helper()
		if _, err := a.Write(make([]byte, sent)); err != nil {
			t.Fatal(err)
		}
		before := Moved()
		for got := 0; got < sent; {
			n, err := r.Read(make([]byte, min(room, sent-got)))
			if err != nil {
				t.Fatal(err)
			}
			if got += n; n >= Large {
				counted += n
			}
		}
		return int(Moved()-before) - counted
	}
	if n := take(Large, Large-1); n != 0 {
		t.Errorf("reads of less than %d bytes count as %d", Large, n)
	}
	for range 10 { // a read may give a part of it
		if n := take(2*Large, 2*Large); n != 0 {
			t.Fatalf("%d bytes too many count", n)
		}
	}
}
