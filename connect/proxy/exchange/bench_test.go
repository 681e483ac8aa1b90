// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"io"
	"net"
	"sync"
	"testing"
)

// plainServer answers every GET on every connection with the same bytes, and allocates nothing while it does.
func plainServer(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				rd := bufio.NewReader(conn)
				for {
					line, err := rd.ReadSlice('\n')
					if err != nil {
						return
					}
					if len(line) == 2 {
						if _, err := conn.Write(answer); err != nil {
							return
						}
					}
				}
			})
		}
	})
	return l.Addr().String()
}

// caller makes one request after the other on one connection, and allocates nothing while it does.
func caller(t testing.TB, addr string) func() {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	request := []byte("GET /some/path?x=1 HTTP/1.1\r\nHost: api\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	rd := bufio.NewReader(conn)
	room := make([]byte, 5)
	return func() {
		if _, err := conn.Write(request); err != nil {
			t.Error(err)
		}
		for {
			line, err := rd.ReadSlice('\n')
			if err != nil {
				t.Error(err)
				return
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := io.ReadFull(rd, room); err != nil {
			t.Error(err)
		}
	}
}

// TestAllocationsOfARequest counts everything between the caller's and the server's socket: the codec's two heads are two
// strings, the rest is the engine's.
func TestAllocationsOfARequest(t *testing.T) {
	r := newRig(t, nil, plainServer(t))
	call := caller(t, r.addr)
	for range 50 {
		call()
	}
	if n := testing.AllocsPerRun(500, call); n > 3 && !raceEnabled {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkGET is a request over one connection each, in turn.
//
// What its profile taught: half of the time is system calls (two reads, two writes, and the look whether a pooled
// connection is still quiet), most of the rest is the scheduler waking the four goroutines that take turns. Of the engine,
// only the clock was to be seen (a timestamp for each piece that moves), and the timer, until it was left running from
// one request to the next. Its allocations were the two AfterFuncs of a request (now one for a connection) and the lease,
// as long as it was handed on as an interface. Two allocations are left, both the codec's: a string for each head.
func BenchmarkGET(b *testing.B) {
	r := newRig(b, nil, plainServer(b))
	call := caller(b, r.addr)
	call()
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
}
