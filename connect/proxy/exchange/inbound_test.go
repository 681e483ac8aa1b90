// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/proxy/config"
)

func TestInboundKnowsItsCaller(t *testing.T) {
	id := identity.Service{TrustDomain: "td.consul", Datacenter: "dc1", Service: "front"}
	uri, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	r := newRig(t, func(s *config.Snapshot) {
		s.Listeners["l"].Direction = config.Inbound
		s.Listeners["l"].HTTP.ForwardClient = config.SanitizeSetClient
		s.Listeners["l"].HTTP.ClientDetails = config.ClientDetails{Subject: true, URI: true}
		s.Listeners["l"].TLS = &config.ServerTLS{Own: func() string { return "spiffe://td.consul/own" }}
		s.Clusters["api"].Local = true
	}, upstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("X-Forwarded-Client-Cert") })))
	r.peer.Store(&config.Peer{Identity: id, URI: id.String(), TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{
		Raw: []byte("x"), Subject: pkix.Name{CommonName: `a"b`}, URIs: []*url.URL{uri},
	}}}})
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url("/"), nil)
	req.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://forged")
	resp, err := client(t, 1).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = body(t, resp)
	got := <-seen
	if !strings.HasPrefix(got, "By=spiffe://td.consul/own;Hash=2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881;Subject=\"") ||
		!strings.HasSuffix(got, ";URI="+id.String()) || strings.Contains(got, "forged") {
		t.Error(got)
	}
	edge := r.metrics.Inbound("front")
	for deadline := time.Now().Add(5 * time.Second); edge.requests[plainHTTP][2].Load() != 1; {
		if time.Now().After(deadline) {
			t.Fatal("the request isn't counted for its caller")
		}
	}
	if edge.opened[Connected].Load() != 1 {
		t.Error("connections:", edge.opened[Connected].Load())
	}
}

func TestClientThatReadsNothingIsCut(t *testing.T) {
	for _, up := range []config.Codec{config.HTTP1, config.HTTP2} {
		gone := make(chan struct{})
		r := newRig(t, func(s *config.Snapshot) {
			codec(up)(s)
			s.Listeners["l"].HTTP.StreamIdle = 100 * time.Millisecond
		}, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					close(gone)
					return
				}
			}
		})))
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		<-gone
		_ = conn.Close()
	}
}

// A client whose request crosses the beginning of a drain gets its answer, and is told that it is the last on this connection.
func TestAnIdleConnectionServesOnceMoreWhileItLeaves(t *testing.T) {
	r := newRig(t, nil, upstream(t, echo))
	for _, before := range []int{0, 1} { // requests
		r.drain.Store(uint32(Serving))
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for i := range before + 1 {
			if i == before {
				for range 3 {
					r.drains(Leaving)
				}
			}
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(before, i, err)
			}
			if _ = body(t, resp); resp.StatusCode != 200 || resp.Close != (i == before) {
				t.Error(before, i, resp.Status, resp.Close)
			}
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := in.ReadByte(); err != io.EOF {
			t.Error(err)
		}
	}
}

func TestSilentConnectionsEndWithADrain(t *testing.T) {
	r := newRig(t, nil)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r.drains(Closing)
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
}
