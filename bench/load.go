// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// caller is one client's connection: each call is a request with its answer, checked.
type caller interface {
	call() error
	io.Closer
}

// dialer opens a caller to a port.
type dialer func(ctx context.Context, port int) (caller, error)

// http1 calls over one connection, with requests that net/http would take too long for.
type http1 struct {
	conn    net.Conn
	br      *bufio.Reader
	request []byte
	idAt    int
	n       uint64
	answer  int
}

// dialHTTP1 makes callers of a request with a body of some size, at most a megabyte, and an answer of some.
func dialHTTP1(query string, body, answer int) dialer {
	return func(ctx context.Context, port int) (caller, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopbackAddr(port))
		if err != nil {
			return nil, err
		}
		method := "GET"
		if body > 0 {
			method = "POST"
		}
		r := method + " " + racePath + query + " HTTP/1.1\r\nHost: api\r\nUser-Agent: race/1\r\nAccept: */*\r\n"
		for _, h := range raceHeaders {
			r += h[0] + ": " + h[1] + "\r\n"
		}
		if body > 0 {
			r += "Content-Length: " + strconv.Itoa(body) + "\r\n"
		}
		r += raceID + ": "
		c := &http1{conn: conn, br: bufio.NewReaderSize(conn, 32<<10), idAt: len(r), answer: answer}
		c.request = append([]byte(r), "0000000000000000\r\n\r\n"...)
		c.request = append(c.request, megabyte[:body]...)
		return c, nil
	}
}

func (c *http1) Close() error { return c.conn.Close() }

func (c *http1) call() error {
	c.n++
	id := fmt.Appendf(nil, "%016x", c.n)
	copy(c.request[c.idAt:], id)
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	line, err := c.br.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("answered %q", line)
	}
	h, err := readHeaders(c.br)
	if err != nil {
		return err
	}
	if h.id != string(id) || h.length != c.answer {
		return fmt.Errorf("answered another request, or with %d bytes", h.length)
	}
	return c.body()
}

func (c *http1) body() error {
	for at := 0; at < c.answer; {
		n := min(c.answer-at, len(kilobyte))
		got, err := c.br.Peek(n)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, kilobyte[:n]) {
			return errors.New("the answer's body isn't as it was sent")
		}
		_, _ = c.br.Discard(n) // it was peeked at
		at += n
	}
	return nil
}

// h2 calls over one HTTP/2 connection.
type h2 struct {
	conn *http2.ClientConn
	n    uint64
}

func dialHTTP2(ctx context.Context, port int) (caller, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopbackAddr(port))
	if err != nil {
		return nil, err
	}
	cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(conn)
	return &h2{conn: cc}, err
}

func (c *h2) Close() error { return c.conn.Close() }

func (c *h2) call() error {
	c.n++
	id := strconv.FormatUint(c.n, 16)
	r, err := http.NewRequest(http.MethodGet, "http://api"+racePath, nil)
	if err != nil {
		return err
	}
	for _, h := range raceHeaders {
		r.Header.Set(h[0], h[1])
	}
	r.Header.Set(raceID, id)
	resp, err := c.conn.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get(raceID) != id || !bytes.Equal(body, kilobyte) {
		return fmt.Errorf("answered %s with %d bytes", resp.Status, len(body))
	}
	return nil
}

// rpc calls over one gRPC connection: unary, or messages of one stream.
type rpc struct {
	conn   *grpc.ClientConn
	ctx    context.Context //nolint:containedctx // of the connection, whose life is the caller's
	stream grpc.ClientStream
}

func dialGRPC(streaming bool) dialer {
	return func(ctx context.Context, port int) (caller, error) {
		conn, err := grpc.NewClient("passthrough:///"+loopbackAddr(port), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
		if err != nil {
			return nil, err
		}
		c := &rpc{conn: conn, ctx: ctx}
		for _, h := range raceHeaders {
			c.ctx = metadata.AppendToOutgoingContext(c.ctx, h[0], h[1])
		}
		if streaming {
			c.stream, err = conn.NewStream(c.ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, racePath+"/stream")
		}
		return c, err
	}
}

func (c *rpc) Close() error { return c.conn.Close() }

func (c *rpc) call() error {
	in, out := kilobyte, []byte(nil)
	if c.stream == nil {
		if err := c.conn.Invoke(c.ctx, racePath, &in, &out); err != nil {
			return err
		}
	} else if err := errors.Join(c.stream.SendMsg(&in), c.stream.RecvMsg(&out)); err != nil {
		return err
	}
	if !bytes.Equal(in, out) {
		return errNotAsSent
	}
	return nil
}

// tcp sends a kilobyte and takes it back; bulk sends a megabyte and takes a byte.
type tcp struct {
	conn net.Conn
	bulk bool
	buf  []byte
}

func dialTCP(bulk bool) dialer {
	return func(ctx context.Context, port int) (caller, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopbackAddr(port))
		if err != nil {
			return nil, err
		}
		c := &tcp{conn: conn, bulk: bulk, buf: make([]byte, len(kilobyte))}
		if bulk {
			copy(c.buf, "bulk")
			_, err = conn.Write(c.buf)
		}
		return c, err
	}
}

func (c *tcp) Close() error { return c.conn.Close() }

func (c *tcp) call() error {
	if c.bulk {
		if _, err := c.conn.Write(megabyte); err != nil {
			return err
		}
		_, err := io.ReadFull(c.conn, c.buf[:1])
		return err
	}
	if _, err := c.conn.Write(kilobyte); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.conn, c.buf); err != nil {
		return err
	}
	if !bytes.Equal(c.buf, kilobyte) {
		return errNotAsSent
	}
	return nil
}

// fresh makes each call on a connection of its own.
type fresh struct {
	dial dialer
	ctx  context.Context //nolint:containedctx // of the load
	port int
}

func dialFresh(d dialer) dialer {
	return func(ctx context.Context, port int) (caller, error) { return &fresh{d, ctx, port}, nil }
}

func (*fresh) Close() error { return nil }

func (f *fresh) call() error {
	c, err := f.dial(f.ctx, f.port)
	if err != nil {
		return err
	}
	return errors.Join(c.call(), c.Close())
}

// load is what a measurement sends.
type load struct {
	dial    dialer
	conns   int
	rate    float64       // requests per second over all connections, open loop; 0: as fast as they are answered
	warm    time.Duration // not counted
	measure time.Duration
}

// outcome is what came of a load.
type outcome struct {
	calls     int64
	took      time.Duration
	latencies *histogram
	cpu       time.Duration // of the contender's processes
	err       error         // the first
}

// run sends the load. With a rate, a request that has to wait for the one before it on its connection counts from when it
// should have been sent; the time that the client itself was late to wake doesn't count.
func (l load) run(ctx context.Context, port int, pids []int) (outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	callers := make([]caller, l.conns)
	for i := range callers {
		c, err := l.dial(ctx, port)
		if err != nil {
			return outcome{}, err
		}
		defer c.Close()
		callers[i] = c
	}
	defer context.AfterFunc(ctx, func() { // a call that hangs ends with it
		for _, c := range callers {
			c.Close()
		}
	})()
	var counting atomic.Bool
	var firstErr atomic.Pointer[error]
	var calls atomic.Int64
	parts := make([]*histogram, l.conns)
	var wg sync.WaitGroup
	begin := time.Now()
	stop := begin.Add(l.warm + l.measure)
	for i, c := range callers {
		parts[i] = &histogram{}
		wg.Go(func() {
			gap := time.Duration(float64(l.conns) / max(l.rate, 1) * float64(time.Second))
			next, last := begin.Add(gap*time.Duration(i)/time.Duration(l.conns)), time.Time{}
			for time.Now().Before(stop) {
				from := time.Now()
				if l.rate > 0 {
					if d := time.Until(next); d > 0 {
						time.Sleep(d)
					}
					if from = time.Now(); last.After(next) {
						from = next
					}
					next = next.Add(gap)
				}
				if err := c.call(); err != nil {
					firstErr.CompareAndSwap(nil, &err)
					cancel()
					return
				}
				last = time.Now()
				if counting.Load() {
					calls.Add(1)
					parts[i].add(last.Sub(from))
				}
			}
		})
	}
	out := outcome{latencies: &histogram{}}
	var cpu0 time.Duration
	var from time.Time
	if wait(ctx, l.warm) == nil {
		cpu0, from = cpuOf(pids), time.Now()
		counting.Store(true)
		_ = wait(ctx, l.measure) // an error of a call ends it, and is reported
		counting.Store(false)
		out.took, out.cpu = time.Since(from), cpuOf(pids)-cpu0
	}
	wg.Wait()
	out.calls = calls.Load()
	for _, p := range parts {
		out.latencies.merge(p)
	}
	if err := firstErr.Load(); err != nil {
		return out, *err
	}
	return out, ctx.Err()
}
