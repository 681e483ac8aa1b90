// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/proxy/reason"
)

// traffic makes one call; an error is what was wrong, unless it is *byDesign.
type traffic func(h *hour, c *hourCaller) error

// hourCaller is one client, with a connection of each sort.
type hourCaller struct {
	one, two *http.Client
	calls    *grpc.ClientConn
	route    int64 // the version of the route that it saw last
}

func newCaller() *hourCaller {
	one := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}, Timeout: patience}
	two := h2c()
	two.Timeout = patience
	return &hourCaller{one: one, two: two}
}

func (c *hourCaller) close() {
	c.one.CloseIdleConnections()
	c.two.CloseIdleConnections()
	if c.calls != nil {
		_ = c.calls.Close()
	}
}

// grpc is the client's connection for gRPC.
func (c *hourCaller) grpc(addr string) (*grpc.ClientConn, error) {
	if c.calls == nil {
		conn, err := dialGRPC(addr)
		if err != nil {
			return nil, err
		}
		c.calls = conn
	}
	return c.calls, nil
}

// traffic are the calls that one after the other make.
func (h *hour) traffic() map[string]traffic {
	return map[string]traffic{
		"http/1.1":      (*hour).echoHTTP,
		"http/1.1 raw":  (*hour).closeHTTP,
		"http guarded":  (*hour).forbidden,
		"http moving":   (*hour).moved,
		"http/2":        (*hour).echoHTTP2,
		"grpc unary":    (*hour).unary,
		"grpc stream":   (*hour).stream,
		"tcp":           (*hour).shortTCP,
		"guarded":       (*hour).guardedTCP,
		"tls by name 1": func(h *hour, _ *hourCaller) error { return h.tls("one.example.com") },
		"tls by name 2": func(h *hour, _ *hourCaller) error { return h.tls("two.example.com") },
	}
}

// held are connections that no change concerns: they stay.
func (h *hour) held() map[string]func(*hour) (io.ReadWriteCloser, error) {
	return map[string]func(*hour) (io.ReadWriteCloser, error){
		"held websocket": func(h *hour) (io.ReadWriteCloser, error) {
			conn, err := h.dial("api")
			if err != nil {
				return nil, err
			}
			return upgradedOn(conn)
		},
		"held http/2": func(h *hour) (io.ReadWriteCloser, error) { return streamed(h.addr["streams"]) },
		"held tcp":    func(h *hour) (io.ReadWriteCloser, error) { return h.dial("raw") },
		"held tls": func(h *hour) (io.ReadWriteCloser, error) {
			return tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", h.addr["tls"], &tls.Config{ServerName: "one.example.com", InsecureSkipVerify: true})
		},
	}
}

// dial connects to where web finds a service; all that is done on the connection has to be done in time.
func (h *hour) dial(service string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", h.addr[service], patience)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// hold keeps one connection open, and has bytes echoed on it.
func (h *hour) hold(name string, dial func(*hour) (io.ReadWriteCloser, error)) {
	began := time.Now()
	c, err := dial(h)
	if err != nil {
		h.note(name, began, err)
		return
	}
	defer c.Close()
	for n := 0; h.ended.Err() == nil; n++ {
		if d, ok := c.(net.Conn); ok {
			_ = d.SetDeadline(time.Now().Add(patience))
		}
		began := time.Now()
		err := echoed(c, random())
		if err != nil {
			err = fmt.Errorf("after %d messages: %w", n, err)
		}
		if h.note(name, began, err); err != nil {
			return
		}
		select {
		case <-h.ended.Done():
		case <-time.After(time.Duration(rand.IntN(100)) * time.Millisecond):
		}
	}
}

// post has a body echoed.
func (h *hour) post(client *http.Client, url string, allowed ...reason.Code) (*http.Response, error) {
	body, id := random(), strconv.FormatUint(rand.Uint64(), 36)
	req, err := http.NewRequest(http.MethodPost, url, io.Reader(bytes.NewReader(body)))
	if err != nil {
		return nil, err
	}
	if rand.IntN(3) == 0 {
		req.ContentLength = -1 // chunked
	}
	req.Header.Set(idHeader, id)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, made(resp, got, allowed...)
	case !bytes.Equal(got, body) || resp.Header.Get(idHeader) != id:
		return nil, fmt.Errorf("a request of %d bytes was answered with %d others, or those of %q", len(body), len(got), resp.Header.Get(idHeader))
	}
	return resp, nil
}

// echoHTTP also looks at the route: a client of one sidecar never sees an older one than before, nor one that nobody wrote.
func (h *hour) echoHTTP(c *hourCaller) error {
	resp, err := h.post(c.one, "http://"+h.addr["api"]+"/echo")
	if err != nil {
		return err
	}
	v, err := strconv.ParseInt(resp.Header.Get(route), 10, 64)
	if err != nil || v < c.route || v > h.route.Load() {
		return fmt.Errorf("by route %q, after %d; the last is %d", resp.Header.Get(route), c.route, h.route.Load())
	}
	c.route = v
	return nil
}

// closeHTTP is a connection of its own for one request.
func (h *hour) closeHTTP(*hourCaller) error {
	conn, err := h.dial("api")
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, body, err := rawHTTPOn(conn, "GET /page HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
	if err == nil && resp.StatusCode != http.StatusOK {
		return made(resp, body)
	}
	if err == nil && len(body) != 100 {
		err = fmt.Errorf("a page of %d bytes", len(body))
	}
	return err
}

// forbidden is now and then refused by an intention.
func (h *hour) forbidden(c *hourCaller) error {
	began := h.guards.Load()
	_, err := h.post(c.one, "http://"+h.addr["shut"]+"/echo", reason.RBACDenied, reason.UpstreamReset)
	switch may := h.mayBeDenied(began); {
	case err == nil || may && errors.As(err, new(*byDesign)):
		return err
	case may && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF)):
		return &byDesign{"denied in the middle of an answer"}
	case may:
		return fmt.Errorf("while it may be denied: %w", err)
	}
	return errors.New("while it is allowed: " + err.Error()) // by design it isn't
}

// moved calls a service of which an instance comes and goes.
func (h *hour) moved(c *hourCaller) error {
	_, err := h.post(c.one, "http://"+h.addr["moving"]+"/echo", reason.UpstreamConnectFailure, reason.UpstreamReset, reason.UpstreamTLSFailure)
	return err
}

func (h *hour) echoHTTP2(c *hourCaller) error {
	_, err := h.post(c.two, "http://"+h.addr["api"]+"/echo")
	return err
}

func (h *hour) unary(c *hourCaller) error {
	conn, err := c.grpc(h.addr["calls"])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, trailer, out := string(random()), metadata.MD{}, &wrapperspb.StringValue{}
	err = conn.Invoke(metadata.AppendToOutgoingContext(ctx, "echo", "t"), "/weft.e2e.Echo/Unary", wrapperspb.String(text), out, grpc.Trailer(&trailer))
	if err == nil && (out.GetValue() != text || len(trailer.Get("echo")) != 1) {
		err = fmt.Errorf("%d bytes answered with %d, trailer %v", len(text), len(out.GetValue()), trailer)
	}
	return err
}

// stream is a stream of some messages, ended by its caller, or left.
func (h *hour) stream(c *hourCaller) error {
	conn, err := c.grpc(h.addr["calls"])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/weft.e2e.Echo/Both")
	if err != nil {
		return err
	}
	for range 1 + rand.IntN(30) {
		text, out := string(random()), &wrapperspb.StringValue{}
		if err := errors.Join(s.SendMsg(wrapperspb.String(text)), s.RecvMsg(out)); err != nil {
			return err
		}
		if out.GetValue() != text {
			return fmt.Errorf("a message of %d bytes was answered with %d", len(text), len(out.GetValue()))
		}
	}
	if rand.IntN(5) == 0 {
		return nil // its context ends it
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the caller's end: %w, want the end of the stream", err)
	}
	return nil
}

// shortTCP also closes its half, and wants to be told of all that it sent.
func (h *hour) shortTCP(*hourCaller) error {
	conn, err := h.dial("raw")
	if err != nil {
		return err
	}
	defer conn.Close()
	out := random()
	if err := echoed(conn, out); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(conn)
	if want := fmt.Sprintf("total %d", len(out)); err == nil && string(rest) != want {
		err = fmt.Errorf("at the end %q, want %q", rest, want)
	}
	return err
}

// guardedTCP is cut, or refused, where the intention denies it: only then may it fail.
func (h *hour) guardedTCP(*hourCaller) error {
	began := h.guards.Load()
	err := func() error {
		conn, err := h.dial("guarded")
		if err != nil {
			return err
		}
		defer conn.Close()
		for range 5 {
			if err := echoed(conn, random()); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && h.mayBeDenied(began) {
		return &byDesign{"denied"}
	}
	return err
}

func (h *hour) tls(name string) error {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", h.addr["tls"])
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if have := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].DNSNames[0]; have != name {
		return fmt.Errorf("asked for %s, came to %s", name, have)
	}
	return echoed(conn, random())
}
