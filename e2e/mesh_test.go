// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"
)

// pair is web, which calls api; calls are allowed by an intention of their own.
type pair struct {
	*Mesh
	web, api *Instance
	addr     string // where web finds api
	backend  *Backend
}

// newPair makes web and api with a protocol, and waits until a call is answered.
func newPair(t *testing.T, w *World, protocol string) *pair {
	t.Helper()
	return newMixed(t, w, protocol, w.Kind, w.Kind)
}

// newMixed is newPair with a kind of sidecar for each of the two.
func newMixed(t *testing.T, w *World, protocol string, webKind, apiKind Kind) *pair {
	t.Helper()
	var b *Backend
	switch protocol {
	case "tcp":
		b = tcpBackend(t)
	case "grpc":
		b = grpcBackend(t)
	default:
		b = httpBackend(t, "api")
	}
	p := &pair{Mesh: w.mesh(t), backend: b}
	p.protocol("api", protocol)
	p.intend("allow", "web", "api")
	p.kind = apiKind
	p.api = p.instance("api", "api", b.Port)
	p.kind = webKind
	p.web = p.instance("web", "web", mustPort(t), "api")
	p.kind = w.Kind
	p.addr = p.web.Up["api"]
	until(t, 15*time.Second, func() error { return call(protocol, p.addr) })
	return p
}

// caller is another service that calls api. It isn't waited for whether it may.
func (p *pair) caller(name string) (addr string) {
	p.t.Helper()
	return p.instance(name, name, mustPort(p.t), "api").Up["api"]
}

// call makes one call of any protocol.
func call(protocol, addr string) error {
	switch protocol {
	case "tcp":
		conn, err := dialTCP(addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		return ping(conn)
	case "grpc":
		return unary(addr, "hello")
	case "http2":
		return wantStatus(h2c(), "http://"+addr+"/", http.StatusOK)
	}
	c, end := h1()
	defer end()
	return wantStatus(c, "http://"+addr+"/", http.StatusOK)
}

// refused says whether a TCP connection is closed without a byte of an answer.
func refused(addr string) error {
	conn, err := dialTCP(addr)
	if err != nil {
		return nil // closed before it was open
	}
	defer conn.Close()
	if err := ping(conn); err == nil {
		return errors.New("the connection was served")
	} else if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		return errors.New("the connection stays open and is silent")
	}
	return nil
}

const callWithin = 5 * time.Second

func dialTCP(addr string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, callWithin)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(callWithin))
}

// ping sends some bytes and wants them back.
func ping(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(callWithin)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	var got [4]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return err
	}
	if string(got[:]) != "ping" {
		return fmt.Errorf("got %q back", got)
	}
	return nil
}

// h1 is a client that keeps at most one connection, HTTP/1.1.
func h1() (*http.Client, func()) {
	t := &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}
	return &http.Client{Transport: t, Timeout: 20 * time.Second}, t.CloseIdleConnections
}

// h2c is a client that speaks HTTP/2 from the first byte, without TLS.
func h2c() *http.Client {
	t := &http.Transport{Protocols: &http.Protocols{}, DisableCompression: true}
	t.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

// wantStatus makes a GET and wants this status.
func wantStatus(c *http.Client, url string, want int) error {
	_, err := get(c, url, want)
	return err
}

// get makes a GET, wants this status, and says whether the connection was an old one.
func get(c *http.Client, url string, want int) (reused bool, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
	}))
	resp, err := c.Do(req)
	if err != nil {
		return reused, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return reused, err
	}
	if resp.StatusCode != want {
		return reused, fmt.Errorf("GET %s: %s (reason %q), want %d: %s", url, resp.Status, resp.Header.Get("X-Weft-Reason"), want, body)
	}
	return reused, nil
}

// rawHTTP sends bytes on a connection of its own and reads one response.
func rawHTTP(addr, request string) (*http.Response, []byte, error) {
	conn, err := dialTCP(addr)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	return rawHTTPOn(conn, request)
}

func rawHTTPOn(conn net.Conn, request string) (*http.Response, []byte, error) {
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}
