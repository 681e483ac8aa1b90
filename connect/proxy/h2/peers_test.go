// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

func tcpListen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// pair gives both ends of a loopback connection.
func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln := tcpListen(t)
	type got struct {
		c   net.Conn
		err error
	}
	ch := make(chan got, 1)
	go func() { c, err := ln.Accept(); ch <- got{c, err} }()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	g := <-ch
	if g.err != nil {
		t.Fatal(g.err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = g.c.Close() })
	return a, g.c
}

// serveOn serves every connection of a listener with this package, and gives its address.
func serveOn(t testing.TB, cfg ServerConfig, h stream.Handler) string {
	t.Helper()
	ln := tcpListen(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = Serve(ctx, c, cfg, h) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); cancel(); wg.Wait() })
	return ln.Addr().String()
}

// clientTo gives a running Client.
func clientTo(t testing.TB, addr string, cfg ClientConfig) *Client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(context.Background()) }()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func xnetClient() *http.Client {
	return &http.Client{Transport: &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}}
}

// xnetServer serves h with x/net's HTTP/2 server.
func xnetServer(t testing.TB, h http.Handler) string {
	t.Helper()
	ln := tcpListen(t)
	srv := &http.Server{Handler: h2c.NewHandler(h, &http2.Server{})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return ln.Addr().String()
}

// echo answers with the request's body, its method and path as fields and its trailers.
func echo(x stream.ServerExchange) {
	r := x.Request()
	h := &stream.ResponseHead{Status: 200, Length: -1}
	h.Fields.Add("x-method", r.Method)
	h.Fields.Add("x-path", r.Path)
	h.Fields.Add("x-authority", r.Authority)
	h.Fields.Add("x-length", strconv.FormatInt(r.Length, 10))
	if v, ok := r.Fields.Get("cookie"); ok {
		h.Fields.Add("x-cookie", v)
	}
	if x.WriteHead(h, false) != nil {
		return
	}
	b := make([]byte, 8<<10)
	for {
		n, err := x.ReadBody(b)
		if err == io.EOF {
			break
		}
		if err != nil || x.WriteBody(b[:n]) != nil {
			return
		}
		if x.Buffered() == 0 && x.Flush() != nil {
			return
		}
	}
	_ = x.Finish(x.Trailers())
}

func xnetEcho(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("X-Path", r.URL.Path)
	w.WriteHeader(200)
	_ = http.NewResponseController(w).Flush()
	b := make([]byte, 8<<10)
	for {
		n, err := r.Body.Read(b)
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
		}
		if err != nil {
			break
		}
	}
	for k, v := range r.Trailer {
		w.Header()[http.TrailerPrefix+k] = v
	}
}

func TestServerUnderXNetClient(t *testing.T) {
	addr := serveOn(t, ServerConfig{}, echo)
	hc := xnetClient()
	defer hc.CloseIdleConnections()
	big := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	for name, body := range map[string][]byte{"empty": nil, "small": []byte("hello"), "10 MB": big} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest("POST", "http://"+addr+"/a/b?c", struct{ io.Reader }{bytes.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			req.Trailer = http.Header{"X-Sum": {"42"}}
			res, err := hc.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			got, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, body) {
				t.Fatalf("got %d bytes, want %d", len(got), len(body))
			}
			if res.Trailer.Get("X-Sum") != "42" || res.Header.Get("X-Path") != "/a/b?c" || res.Header.Get("X-Authority") != addr {
				t.Fatalf("trailer %v, header %v", res.Trailer, res.Header)
			}
		})
	}
}

func roundTrip(c *Client, h *stream.RequestHead, body []byte, trailers *header.List) (*stream.ResponseHead, []byte, *header.List, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	x, err := c.Open(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer x.Close()
	end := body == nil && trailers == nil
	if err := x.WriteHead(h, end); err != nil {
		return nil, nil, nil, err
	}
	sent := make(chan error, 1)
	go func() {
		if end {
			sent <- x.Flush()
			return
		}
		if err := x.WriteBody(body); err != nil {
			sent <- err
			return
		}
		sent <- x.Finish(trailers)
	}()
	var res stream.ResponseHead
	if err := x.ReadHead(&res); err != nil {
		<-sent
		return nil, nil, nil, err
	}
	var got bytes.Buffer
	b := make([]byte, 32<<10)
	for {
		n, err := x.ReadBody(b)
		got.Write(b[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			<-sent
			return &res, got.Bytes(), nil, err
		}
	}
	err = <-sent
	tr := &header.List{}
	if l := x.Trailers(); l != nil {
		tr.CopyFrom(l)
	}
	return &res, got.Bytes(), tr, err
}

// TestTrailersThatVouch: what tells of the caller can't come after the head; what an application calls as it likes can.
func TestTrailersThatVouch(t *testing.T) {
	c := clientTo(t, serveOn(t, ServerConfig{}, echo), ClientConfig{})
	sent := &header.List{}
	for _, name := range []string{"forwarded", "x-forwarded-client-cert", "x-weft-source", "x-envoy-internal", "authorization", "x-sum", "date"} {
		sent.Add(name, "1")
	}
	_, _, got, err := roundTrip(c, reqHead("POST", "/", -1), []byte("a"), sent)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range got.Len() {
		names = append(names, got.At(i).Name)
	}
	if !slices.Equal(names, []string{"x-sum", "date"}) {
		t.Fatalf("%v came through", names)
	}
}

func reqHead(method, path string, length int64) *stream.RequestHead {
	return &stream.RequestHead{Method: method, Scheme: "http", Authority: "api.test", Path: path, Length: length}
}

func TestClientOverXNetServer(t *testing.T) {
	addr := xnetServer(t, http.HandlerFunc(xnetEcho))
	testClient(t, clientTo(t, addr, ClientConfig{}))
}

func TestClientOverServer(t *testing.T) {
	addr := serveOn(t, ServerConfig{}, echo)
	testClient(t, clientTo(t, addr, ClientConfig{}))
}

func testClient(t *testing.T, c *Client) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	for name, body := range map[string][]byte{"small": []byte("hello"), "10 MB": big} {
		for _, length := range []int64{-1, int64(len(body))} {
			t.Run(name+" "+strconv.FormatInt(length, 10), func(t *testing.T) {
				h := reqHead("POST", "/x", length)
				h.Fields.Add("X-Upper", "Value")
				var tr *header.List
				if length < 0 {
					h.Fields.Add("trailer", "X-Sum")
					tr = &header.List{}
					tr.Add("X-Sum", "7")
				}
				res, got, trailers, err := roundTrip(c, h, body, tr)
				if err != nil {
					t.Fatal(err)
				}
				if res.Status != 200 || !bytes.Equal(got, body) {
					t.Fatalf("status %d, %d bytes, want %d", res.Status, len(got), len(body))
				}
				if v, _ := trailers.Get("x-sum"); length < 0 && v != "7" {
					t.Fatalf("trailers %v", trailers)
				}
			})
		}
	}
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				body := []byte(strings.Repeat(strconv.Itoa(i), 500))
				_, got, _, err := roundTrip(c, reqHead("PUT", "/many", -1), body, nil)
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("%d: %v, %d bytes of %d", i, err, len(got), len(body))
				}
			})
		}
		wg.Wait()
	})
}

func TestCookieCrumbsAreJoined(t *testing.T) {
	addr := serveOn(t, ServerConfig{}, echo)
	c := clientTo(t, addr, ClientConfig{})
	h := reqHead("GET", "/", 0)
	for _, v := range []string{"", "a=1", "b=2", "", "c=3", ""} {
		h.Fields.Add("cookie", v)
	}
	res, _, _, err := roundTrip(c, h, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := res.Fields.Get("x-cookie"); v != "a=1; b=2; c=3" {
		t.Fatalf("cookie %q", v)
	}
}

func TestCancelFromEachSide(t *testing.T) {
	gone := make(chan error, 1)
	addr := serveOn(t, ServerConfig{}, func(x stream.ServerExchange) {
		if x.Request().Path == "/refuse" {
			x.Reset(stream.CodeRefused)
			return
		}
		if x.Request().Path == "/drop" {
			return
		}
		_ = x.WriteHead(&stream.ResponseHead{Status: 200, Length: -1}, false)
		_ = x.Flush()
		<-x.Context().Done()
		gone <- context.Cause(x.Context())
	})
	c := clientTo(t, addr, ClientConfig{})
	x, err := c.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := x.WriteHead(reqHead("GET", "/wait", 0), true); err != nil {
		t.Fatal(err)
	}
	_ = x.Flush()
	var res stream.ResponseHead
	if err := x.ReadHead(&res); err != nil {
		t.Fatal(err)
	}
	x.Reset(stream.CodeCancel)
	x.Close()
	var re *stream.ResetError
	if err := <-gone; !errors.As(err, &re) || re.Code != stream.CodeCancel {
		t.Fatalf("the server saw %v", err)
	}
	_, _, _, err = roundTrip(c, reqHead("GET", "/refuse", 0), nil, nil)
	if !errors.Is(err, stream.ErrNotSent) {
		t.Fatalf("refused: %v", err)
	}
	_, _, _, err = roundTrip(c, reqHead("GET", "/drop", 0), nil, nil)
	if !errors.As(err, &re) || re.Code != stream.CodeInternal || errors.Is(err, stream.ErrNotSent) {
		t.Fatalf("dropped: %v", err)
	}
	if n := c.Available(); n != 250 {
		t.Fatalf("%d streams available", n)
	}
}
