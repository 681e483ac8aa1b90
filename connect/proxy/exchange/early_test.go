// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// early is a service that refuses each request when it has seen its head.
func early(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"); err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
	}
}

// A request that is refused while its client is still sending it doesn't cost the next one: the answer says that the connection goes on, so
// that the rest is read away, also where it comes later than the proxy waits for it.
func TestARefusalBeforeTheBodyIsThere(t *testing.T) {
	for name, request := range map[string][2]string{
		"length": {"POST /1 HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\n01234", "56789"},
		"chunks": {"POST /1 HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n", "5\r\n56789\r\n0\r\n\r\n"},
		"middle": {"POST /1 HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\na\r\n01234", "56789\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) { refusedEarly(t, request[0], request[1]) })
	}
}

func refusedEarly(t *testing.T, begin, rest string) {
	l := &config.Listener{Name: "l", HTTP: &config.HTTP{RouteName: "routes"}}
	s := &config.Snapshot{
		Listeners: map[string]*config.Listener{"l": l},
		Routes: map[string]*config.RouteTable{"routes": {Name: "routes", Hosts: []*config.VirtualHost{{Domains: []string{"*"}, Routes: []*config.Route{
			{Match: config.Match{Prefix: "/"}, Forward: &config.Forward{Clusters: []config.WeightedCluster{{Cluster: "api", Weight: 1}}}},
		}}}}},
		Clusters: map[string]*config.Cluster{"api": {Name: "api", ConnectTimeout: time.Second, Endpoints: []*config.Endpoint{{Network: "tcp", Address: "192.0.2.1:80", Healthy: true}}}},
	}
	left := make(chan struct{}, 2)
	e, err := New(Config{Snapshot: func() *config.Snapshot { return s }, Dial: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() { // ends with the connection
			early(there)
			left <- struct{}{}
		}()
		return here, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran, served := make(chan error, 1), make(chan error, 1)
	go func() { ran <- e.Run(ctx) }()
	client, conn := net.Pipe()
	go func() { served <- e.ServeHTTP(ctx, conn, l, nil, "http/1.1", nil) }()
	in := bufio.NewReader(client)
	answered := func() {
		t.Helper()
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "no" || err != nil || resp.Close {
			t.Errorf("%s, %q, %v; the last one: %v", resp.Status, body, err, resp.Close)
		}
	}
	if _, err := io.WriteString(client, begin); err != nil {
		t.Fatal(err)
	}
	answered()
	<-left                                                                                     // the proxy has given up sending the rest there
	go func() { _, _ = io.WriteString(client, rest+"GET /2 HTTP/1.1\r\nHost: api\r\n\r\n") }() // ends with the connection
	answered()
	_ = client.Close()
	<-served // it may be in the middle of the last exchange still
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
