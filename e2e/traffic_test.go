// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

var upstreamRows = []Row{
	{Name: "upstream down", Run: upstreamDown},
	{Name: "upstream hangs", Run: upstreamHangs},
}

var bodyRows = []Row{
	{Name: "big bodies", Run: bigBodies},
	{Name: "streaming both ways", Run: streaming},
	{Name: "trailers", Run: trailersPass},
	{Name: "websocket", Run: websocketPasses},
	{Name: "http 1.0", Run: http10},
	{Name: "half-closed tcp", Run: halfClosed},
}

// upstreamDown: the application is gone; then there is no endpoint at all.
func upstreamDown(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	client, end := h1()
	defer end()
	url := "http://" + p.addr + "/"
	p.backend.stop()
	until(t, callWithin, func() error { return wantStatus(client, url, http.StatusServiceUnavailable) })
	p.remove(p.api)
	until(t, callWithin, func() error { return wantStatus(client, url, http.StatusServiceUnavailable) })
}

func upstreamHangs(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	p.entry("service-resolver", "api", object{"RequestTimeout": "1s"})
	client, end := h1()
	defer end()
	until(t, callWithin, func() error { // the new timeout takes a moment to arrive
		begin := time.Now()
		client.Timeout = 2500 * time.Millisecond
		if err := wantStatus(client, "http://"+p.addr+"/hang", http.StatusGatewayTimeout); err != nil {
			return err
		}
		if took := time.Since(begin); took < 900*time.Millisecond {
			t.Errorf("it gave up after %s, want 1 s", took)
		}
		return nil
	})
	if err := call("http", p.addr); err != nil {
		t.Errorf("after the timeout: %v", err)
	}
}

const tenMB = 10 << 20

// noise are bytes that can't be guessed or compressed.
func noise(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8(sha256.Sum256([]byte("noise")))
	_, _ = r.Read(data) // never fails
	return data
}

func bigBodies(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	data := noise(tenMB)
	for name, client := range map[string]*http.Client{"HTTP/1.1": {Timeout: 20 * time.Second, Transport: &http.Transport{}}, "HTTP/2": h2c()} {
		for _, chunked := range []bool{false, true} {
			var body io.Reader = bytes.NewReader(data)
			if chunked {
				body = once{body}
			}
			resp, err := client.Post("http://"+p.addr+"/echo", "application/octet-stream", body)
			if err != nil {
				t.Errorf("%s, chunked %t: %v", name, chunked, err)
				continue
			}
			got, err := io.ReadAll(resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != 200 || !bytes.Equal(got, data) {
				t.Errorf("%s, chunked %t: %s, %d bytes, %v; want the %d that were sent", name, chunked, resp.Status, len(got), err, len(data))
			}
		}
		client.CloseIdleConnections()
	}
}

// streaming sends the next piece only when the one before has come back, so that nobody on the way may hold one.
func streaming(t *testing.T, w *World) {
	p := newPair(t, w, "http2")
	client := h2c()
	defer client.CloseIdleConnections()
	r, send := io.Pipe()
	defer send.Close()
	resp, err := client.Post("http://"+p.addr+"/stream", "application/octet-stream", r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	piece := noise(100 << 10)
	got := make([]byte, len(piece))
	for n := range tenMB / len(piece) {
		sent := make(chan error, 1)
		go func() { _, err := send.Write(piece); sent <- err }()
		if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, piece) {
			t.Fatalf("piece %d: %v", n, err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
	if err := send.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("at the end: %d more bytes, %v", len(rest), err)
	}
}

func trailersPass(t *testing.T, w *World) {
	p := newPair(t, w, "http2")
	client := h2c()
	defer client.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodPost, "http://"+p.addr+"/trailers", once{strings.NewReader("body")})
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Sum": {"1234"}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "body" || resp.Trailer.Get("X-Sum") != "1234" {
		t.Errorf("%s %q, trailers %v, %v; want the body and X-Sum 1234", resp.Status, body, resp.Trailer, err)
	}
}

func websocketPasses(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	conn, err := dialTCP(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
		t.Fatalf("%s %v, want 101 and the upgrade", resp.Status, resp.Header)
	}
	for n := range 10 {
		frame := fmt.Sprintf("frame %d", n)
		if _, err := io.WriteString(conn, frame); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(frame))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != frame {
			t.Fatalf("%q, %v; want %q", got, err, frame)
		}
	}
}

// http10 is a caller of 1996: no keep-alive, no chunks.
func http10(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	conn, err := dialTCP(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\nHost: api\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn) // the end of the connection is the end of the answer
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(all), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.") || !strings.Contains(head, " 200 ") || body != "api" ||
		strings.Contains(strings.ToLower(head), "transfer-encoding") {
		t.Errorf("answered\n%s\n\n%q\nwant 200 and the body without chunks", head, body)
	}
}

// halfClosed: the end of what one side sends isn't the end of what it gets.
func halfClosed(t *testing.T, w *World) {
	p := newPair(t, w, "tcp")
	conn, err := dialTCP(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data := noise(1 << 20)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	if err = errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("total %d", len(data))
	if len(got) != len(data)+len(want) || !bytes.Equal(got[:len(data)], data) || string(got[len(data):]) != want {
		t.Errorf("got %d bytes back, want the %d that were sent and then %q", len(got), len(data), want)
	}
}
