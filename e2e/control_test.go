// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var controlRows = []Row{
	{Name: "agent killed and restarted", Run: agentKilled},
	{Name: "another service's configuration", Run: anotherConfiguration},
	{
		Name: "port that is taken", Run: takenPort,
		Differs: map[Kind]string{Envoy: "it doesn't say who holds the port, and tries again only when that listener's configuration changes"},
	},
}

// takenPort: a listener whose port another program holds shows at the agent, and no longer when it could be opened.
func takenPort(t *testing.T, w *World) {
	m := w.mesh(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	i := &Instance{ID: m.name("web"), Name: m.name("web")}
	t.Cleanup(func() { m.remove(i) })
	m.put("/v1/agent/service/register", object{"ID": i.ID, "Name": i.Name, "Port": mustPort(t), "Connect": object{"SidecarService": object{
		"Port": mustPort(t), "Proxy": object{"Upstreams": []object{{"DestinationName": m.name("api"), "LocalBindPort": port}}},
	}}})
	if w.Kind != Host {
		i.sidecar = m.runSidecar(w.Kind, i)
	}
	want := fmt.Sprintf("%s is taken by", loopback(port))
	if w.Kind == Envoy {
		want = fmt.Sprintf("cannot bind '%s'", loopback(port))
	}
	until(t, 15*time.Second, func() error {
		p, err := m.status(i)
		if err == nil && (!strings.Contains(p.Refusal, want) || p.AckedHash == p.RenderedHash) {
			err = fmt.Errorf("the agent says %+v, want a refusal with %q", p, want)
		}
		return err
	})
	if w.Kind == Envoy {
		return
	}
	_ = l.Close()
	until(t, 15*time.Second, func() error { return m.settled(i) })
}

// agentKilled: proxies carry on without their agent, and the agent finds its way back to them.
func agentKilled(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	l := load(t, "http://"+p.addr+"/echo", 200)
	l.more(20)
	for range 2 {
		w.killAgent()
		l.more(50)
		if err := w.startAgent(); err != nil {
			t.Fatal(err)
		}
		for _, i := range []*Instance{p.api, p.web} {
			until(t, 15*time.Second, func() error { return p.settled(i) })
		}
		l.more(50)
	}
	if err := l.agree(nil, p.backend); err != nil {
		t.Error(err)
	}
	p.intend("deny", "web", "api")
	until(t, effect+slack, func() error { return isDenied("http", p.addr) })
}

// anotherConfiguration: a proxy gets only what its own service is entitled to, in both protocols of ADS.
func anotherConfiguration(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	secret := func(i *Instance) string {
		var a struct{ Secret string }
		if err := w.do(http.MethodGet, "/v1/agent/connect/proxy/"+i.ID+"-sidecar-proxy", nil, &a); err != nil {
			t.Fatal(err)
		}
		return a.Secret
	}
	web := secret(p.web)
	if api := secret(p.api); web == "" || web == api {
		t.Fatal("want a secret for each proxy")
	}
	conn, err := dialGRPC(loopback(w.grpc))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	fetch := func(secret string, i *Instance, delta bool) error {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		defer cancel()
		if secret != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-weft-proxy-secret", secret)
		}
		node := &corev3.Node{Id: i.ID + "-sidecar-proxy", Cluster: i.Name}
		const clusters = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
		if delta {
			s, err := client.DeltaAggregatedResources(ctx)
			if err != nil {
				return err
			}
			// What sending says, the answer says too.
			_ = s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: clusters})
			_, err = s.Recv()
			return err
		}
		s, err := client.StreamAggregatedResources(ctx)
		if err != nil {
			return err
		}
		_ = s.Send(&discoveryv3.DiscoveryRequest{Node: node, TypeUrl: clusters})
		_, err = s.Recv()
		return err
	}
	for _, delta := range []bool{false, true} {
		if err := fetch(web, p.web, delta); err != nil {
			t.Errorf("delta %t: its own configuration: %v", delta, err)
		}
		for what, given := range map[string]string{"another proxy's secret": web, "no secret": ""} {
			if err := fetch(given, p.api, delta); status.Code(err) != codes.PermissionDenied {
				t.Errorf("delta %t: %s: %v, want PermissionDenied", delta, what, err)
			}
		}
	}
}
