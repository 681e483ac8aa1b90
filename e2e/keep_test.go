// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keepRows are about how long connections stay.
var keepRows = []Row{
	{Name: "hold connections of an upstream", Run: keepUpstream},
	{Name: "hold connections of callers", Run: keepCallers},
	{Name: "hold tunnels and say who calls", Run: keepTunnels},
}

// counted serves HTTP/1 and HTTP/2 in plain text, and counts the connections.
func counted(t *testing.T) (port int, connections *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = &atomic.Int64{}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Counted", "yes")
		if d, err := time.ParseDuration(r.Header.Get("X-Sleep")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		}
	}), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}}
	go func() { _ = s.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = s.Close() })
	return ln.Addr().(*net.TCPAddr).Port, connections
}

// keepUpstream: web's sidecar calls servers that count its connections.
func keepUpstream(t *testing.T, w *World) {
	l := w.traffic(t)
	port, connections := counted(t)
	l.bare("kept", "one", "off", port)
	made := func(name string, conf object) func(wait time.Duration, headers ...string) int64 {
		l.entry("service-resolver", "kept", object{"Connections": conf})
		l.routes(to(name, "/", object{"Service": l.name("kept")}))
		l.comes("GET", "/", byRoute(name))
		until(t, callWithin, after(300*time.Millisecond)) // the cluster, which came before the route, is warm
		return func(wait time.Duration, headers ...string) int64 {
			l.is(statusIs(200), "GET", "/", headers...)
			before := connections.Load()
			until(t, 10*time.Second, after(wait))
			l.is(statusIs(200), "GET", "/", headers...)
			return connections.Load() - before
		}
	}
	for name, conf := range map[string]object{"idle": {"IdleTimeout": "600ms"}, "age": {"MaxAge": "600ms"}} {
		again := made(name, conf)
		if n := again(1500 * time.Millisecond); n != 1 {
			t.Errorf("%s: %d new connections for a call 1.5 s after the last, want 1", name, n)
		}
		if n := again(0); n != 0 {
			t.Errorf("%s: %d new connections for a call at once, want none", name, n)
		}
	}
	keepStreams(l)
}

// keepStreams: six requests at once, of which two are on a connection.
func keepStreams(l *Lab) {
	l.t.Helper()
	port, connections := counted(l.t)
	l.bare("streamed", "one", "off", port)
	l.entry("service-defaults", "streamed", object{"Protocol": "grpc", "MutualTLSMode": "off"})
	l.entry("service-resolver", "streamed", object{"Connections": object{
		"MaxStreams": 2, "Ping": object{"Interval": "1s"}, "KeepAlive": object{"Time": "5s", "Interval": "1s", "Probes": 3},
	}})
	l.entry("service-resolver", "calls", object{"Redirect": object{"Service": l.name("streamed")}})
	client := h2c()
	defer client.CloseIdleConnections()
	ask := func(sleep string) error {
		req, err := http.NewRequest(http.MethodGet, "http://"+l.calls+"/", nil)
		if err != nil {
			return err
		}
		req.Header.Set("X-Sleep", sleep)
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.Header.Get("X-Counted") == "" {
			return fmt.Errorf("%s of another instance", resp.Status)
		}
		return nil
	}
	until(l.t, callWithin, func() error { return ask("0s") })
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := ask("700ms"); err != nil {
				l.t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := connections.Load(); n < 3 || n > 8 {
		l.t.Errorf("%d connections for six requests at once, two on each; want three or some more", n)
	}
}

// keepCallers: a caller in plain text sees what a sidecar does with its connection.
func keepCallers(t *testing.T, w *World) {
	l := w.traffic(t)
	l.rules(object{"Sources": []object{{"Name": "*", "Action": "allow"}}})
	call := func(r *bufio.Reader, conn net.Conn) (*http.Response, error) {
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api\r\n\r\n"); err != nil {
			return nil, err
		}
		resp, err := http.ReadResponse(r, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return resp, err
	}
	// answered is how many calls a connection takes until an answer is its last.
	answered := func(wait time.Duration) (int, error) {
		conn, err := dialTCP(loopback(l.api1.Public))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		for n := 1; n <= 6; n++ {
			resp, err := call(r, conn)
			if err != nil {
				return n - 1, nil
			}
			if resp.StatusCode != http.StatusOK {
				return 0, fmt.Errorf("status %d", resp.StatusCode)
			}
			if resp.Close {
				return n, nil
			}
			until(t, 10*time.Second, after(wait))
		}
		return 6, nil
	}
	want := func(conf object, wait time.Duration, calls int) {
		t.Helper()
		l.defaults("api", "http", object{"MutualTLSMode": "permissive", "InboundConnections": conf})
		until(t, 2*callWithin, func() error {
			n, err := answered(wait)
			if err == nil && n != calls {
				err = fmt.Errorf("%v: a connection took %d calls, want %d", conf, n, calls)
			}
			return err
		})
	}
	want(object{"MaxRequests": 3}, 0, 3)
	want(object{"IdleTimeout": "400ms"}, 1200*time.Millisecond, 1)
	want(object{"IdleTimeout": "30s"}, 0, 6)
	// Calls follow each other until the connection is too old: one whose time is over takes one more at most.
	l.defaults("api", "http", object{"MutualTLSMode": "permissive", "InboundConnections": object{"MaxAge": "700ms"}})
	until(t, 2*callWithin, func() error {
		n, err := answered(500 * time.Millisecond)
		if err == nil && (n < 2 || n > 4) {
			err = fmt.Errorf("a connection took %d calls half a second apart, want 2 or 3 in 700 ms", n)
		}
		return err
	})
	l.defaults("api", "http", object{"InboundConnections": object{"MaxConcurrentRequests": 2}})
	until(t, 2*callWithin, func() error {
		if got := l.atOnce(30, "/", "X-Do: * sleep=400ms"); got["503 upstream_overflow"] == 0 || got["200"] < 6 {
			return fmt.Errorf("%v, want two at a time for each of three, and the rest refused", got)
		}
		return nil
	})
}

// keepTunnels: the application echoes what it gets first, which is who calls; and a tunnel is cut when it is too old.
func keepTunnels(t *testing.T, w *World) {
	l := w.traffic(t)
	first := func() (string, net.Conn, error) {
		conn, err := dialTCP(l.rawAddr)
		if err != nil {
			return "", nil, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		var seen strings.Builder
		b := make([]byte, 256)
		for !strings.HasSuffix(seen.String(), "hello") {
			if seen.Len() == 0 {
				if _, err := io.WriteString(conn, "hello"); err != nil {
					return "", nil, errors.Join(err, conn.Close())
				}
			}
			n, err := conn.Read(b)
			seen.Write(b[:n])
			if err != nil {
				return "", nil, errors.Join(err, conn.Close())
			}
		}
		return seen.String()[1:], conn, nil
	}
	for form, head := range map[string]string{"v1": "PROXY TCP4 127.0.0.1 127.0.0.1 ", "v2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01"} {
		l.defaults("raw", "tcp", object{"LocalProxyProtocol": form})
		until(t, 2*callWithin, func() error {
			for range 6 { // both instances
				seen, conn, err := first()
				if err != nil {
					return err
				}
				_ = conn.Close()
				if !strings.HasPrefix(seen, head) {
					return fmt.Errorf("%s: the application got %q, want it to begin with %q", form, seen, head)
				}
			}
			return nil
		})
	}
	l.defaults("raw", "tcp", object{"InboundConnections": object{"MaxAge": "1s"}})
	until(t, 3*callWithin, func() error {
		_, conn, err := first()
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		began := time.Now()
		_, err = conn.Read(make([]byte, 1))
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return errors.New("a tunnel of three seconds, want it cut after one")
		}
		if d := time.Since(began); d < 500*time.Millisecond {
			return fmt.Errorf("cut after %s, want a second", d)
		}
		return nil
	})
}
