// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// echo answers with the body it got, its length in a trailer.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "X-Length")
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("X-Proto", r.Proto)
	w.Header().Set("X-Path", r.URL.RequestURI())
	w.Header().Set("X-Host", r.Host)
	_ = http.NewResponseController(w).EnableFullDuplex()
	n, _ := io.Copy(flushing{w}, r.Body)
	w.Header().Set("X-Length", fmt.Sprint(n, r.Trailer.Get("X-Sent")))
})

// flushing sends each piece at once.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body(t, resp)
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRequestsPassInEveryPairOfVersions(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		r := newRig(t, codec(up), upstream(t, echo))
		c := client(t, down)
		resp, b := get(t, c, r.url("/a/../b?x=1"))
		if resp.StatusCode != 200 || b != "" || resp.Header.Get("X-Path") != "/b?x=1" {
			t.Fatalf("%v %q", resp, b)
		}
		for _, size := range []int{1, 100, 5000, 70_000, 10 << 20} {
			sent := bytes.Repeat([]byte("abcdefg\n"), size/8+1)[:size]
			resp, err := c.Post(r.url("/"), "text/plain", bytes.NewReader(sent))
			if err != nil {
				t.Fatal(size, err)
			}
			if got := body(t, resp); got != string(sent) {
				t.Fatalf("%d bytes sent, %d came back", size, len(got))
			}
		}
		resp, err := c.Head(r.url("/head"))
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("X-Method") != "HEAD" {
			t.Fatal(resp, err)
		}
		_ = resp.Body.Close()
	})
}

func TestStreamsAndTrailersPass(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		r := newRig(t, codec(up), upstream(t, echo))
		c := client(t, down)
		in, out := io.Pipe()
		req, _ := http.NewRequestWithContext(context.Background(), "POST", r.url("/stream"), in)
		req.Trailer = http.Header{"X-Sent": nil}
		go func() { _, _ = out.Write([]byte("one")) }()
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"one", "two", "three"} {
			if i > 0 {
				go func() { _, _ = out.Write([]byte(want)) }()
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
				t.Fatal(string(got), err)
			}
		}
		req.Trailer.Set("X-Sent", "t")
		_ = out.Close()
		_ = body(t, resp)
		if got := resp.Trailer.Get("X-Length"); got != "11t" && got != "11 t" {
			t.Errorf("trailer %q", got)
		}
	})
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	r := newRig(t, nil, upstream(t, echo))
	c := client(t, 1)
	for i := range 20 {
		resp, err := c.Post(r.url("/"), "text/plain", strings.NewReader(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		_ = body(t, resp)
	}
	if n := r.metrics.Outbound("api").opened[Connected].Load(); n != 1 {
		t.Errorf("%d connections for 20 requests in a row", n)
	}
}
