// SPDX-License-Identifier: Apache-2.0

package records_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/records"
)

// counted is a socket whose reads and writes are counted.
type counted struct {
	net.Conn
	reads, writes, taken atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	c.reads.Add(1)
	n, err := c.Conn.Read(p)
	c.taken.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// end is one end of a TLS connection with records beneath.
type end struct {
	*tls.Conn
	under  *records.Conn
	socket *counted
}

// pair is both ends, after their handshake, and past the small records that crypto/tls begins with.
func pair(t *testing.T) (client, server end) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	known := httptest.NewTLSServer(nil)
	known.Close()
	ca, cb := &counted{Conn: a}, &counted{Conn: b}
	ua, ub := records.Under(ca), records.Under(cb)
	client = end{tls.Client(ua, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true}), ua, ca}
	server = end{tls.Server(ub, &tls.Config{DynamicRecordSizingDisabled: true, Certificates: known.TLS.Certificates}), ub, cb}
	t.Cleanup(func() { a.Close(); b.Close() })
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func payload() []byte {
	p := make([]byte, 60<<10)
	_, _ = rand.Read(p)
	return p
}

// arrives sends something, gathered or not, and wants it to arrive as it is.
func arrives(t *testing.T, from, to end, want []byte, gather bool) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		if gather {
			from.under.Gather()
		}
		_, err := from.Write(want)
		done <- errors.Join(err, from.under.Flush())
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("something else arrived than was sent")
	}
}

func TestGathersRecordsIntoOneWrite(t *testing.T) {
	client, server := pair(t)
	want := payload()
	for _, gather := range []bool{true, false} { // without it each record is a write: the test's control
		before := client.socket.writes.Load()
		arrives(t, client, server, want, gather)
		wanted := int64(4)
		if gather {
			wanted = 1
		}
		if n := client.socket.writes.Load() - before; n != wanted {
			t.Errorf("gather %v: %d writes, want %d", gather, n, wanted)
		}
	}
}

func TestMoreThanSizeIsWrittenInPieces(t *testing.T) {
	client, server := pair(t)
	arrives(t, client, server, bytes.Repeat(payload(), 5), true)
}

func TestReadGivesWhatHasComeAndDoesNotWaitForMore(t *testing.T) {
	client, server := pair(t)
	want := payload()
	client.under.Gather()
	if _, err := client.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := client.under.Flush(); err != nil {
		t.Fatal(err)
	}
	got, calls := []byte{}, server.socket.reads.Load()
	for len(got) < len(want) {
		p := make([]byte, len(want))
		n, err := records.Read(server, server.under, p)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("something else arrived than was sent")
	}
	// The kernel gives what is there: mostly all at once, and never a record with each call.
	if n := server.socket.reads.Load() - calls; n > 4 {
		t.Errorf("%d reads for four records", n)
	}
	// What failed in passing hasn't harmed the connection.
	if _, err := client.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10)
	if n, err := server.Read(p); err != nil || string(p[:n]) != "more" {
		t.Errorf("%q, %v", p[:n], err)
	}
}

// What is behind a body is seen by who asks whether the connection is quiet.
func TestReadTakesNoMoreThanThereIsRoomFor(t *testing.T) {
	client, server := pair(t)
	if _, err := records.Write(client, client.under, payload()); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 40<<10)
	if _, err := records.Read(server, server.under, p[:1]); err != nil { // a first record, and what crypto/tls takes with it
		t.Fatal(err)
	}
	taken := server.socket.taken.Load()
	n, err := 0, error(nil)
	for got := 1; got < 60<<10; got += n {
		before := server.socket.taken.Load()
		if n, err = records.Read(server, server.under, p); err != nil {
			t.Fatal(err)
		}
		if more := server.socket.taken.Load() - before; more > int64(len(p))+3*22 {
			t.Errorf("%d bytes were taken for %d", more, len(p))
		}
	}
	if taken == server.socket.taken.Load() {
		t.Error("all had been taken before: nothing was tried")
	}
}

// What is a little more than a segment would go through the kernel twice.
func TestBatchIsASegment(t *testing.T) {
	client, server := pair(t)
	before, writes := server.socket.taken.Load(), client.socket.writes.Load()
	arrives(t, client, server, make([]byte, records.Batch), true)
	if n := server.socket.taken.Load() - before; n != 45*1448 {
		t.Errorf("%d bytes on the way, want 45 packets of 1,448", n)
	}
	if n := client.socket.writes.Load() - writes; n != 1 {
		t.Errorf("%d writes", n)
	}
}

func TestReadsEndAtTheirDeadline(t *testing.T) {
	_, server := pair(t)
	if err := server.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := records.Read(server, server.under, make([]byte, records.Batch)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestOfFindsItUnderTLS(t *testing.T) {
	client, _ := pair(t)
	if records.Of(client.Conn) != client.under {
		t.Error("not found")
	}
	if records.Of(client.socket.Conn) != nil {
		t.Error("found beneath a socket")
	}
}

// What those hold back whom nobody reads is bounded: others write without holding anything.
func TestFewHoldSomethingBack(t *testing.T) {
	client, server := pair(t)
	held := make([]*records.Conn, 600)
	for i := range held {
		a, b := net.Pipe()
		t.Cleanup(func() { _, _ = a.Close(), b.Close() })
		held[i] = records.Under(a)
		held[i].Gather()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.ReadFull(b, make([]byte, 1)) })
		if _, err := held[i].Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = held[i].Flush(); wg.Wait() })
	}
	before := client.socket.writes.Load()
	arrives(t, client, server, make([]byte, records.Batch), true)
	if n := client.socket.writes.Load() - before; n != 4 {
		t.Errorf("%d writes of four records", n)
	}
	for _, c := range held {
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	before = client.socket.writes.Load()
	arrives(t, client, server, make([]byte, records.Batch), true)
	if n := client.socket.writes.Load() - before; n != 1 {
		t.Errorf("%d writes when there was room again", n)
	}
}
