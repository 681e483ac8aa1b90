// SPDX-License-Identifier: Apache-2.0

package local

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// The checks of a service whose proxy exposes them ask there, by ports that they keep; what can't be asked so stays as it is.
func TestExposedChecks(t *testing.T) {
	s := newState(t, "")
	every := time.Second
	d := ServiceDefinition{
		Name: "web", Port: 80, Checks: []CheckDefinition{
			{ID: "page", HTTP: "http://127.0.0.1:8080/health?deep=1", Interval: every}, {ID: "bare", HTTP: "http://localhost", Interval: every},
			{ID: "call", GRPC: "127.0.0.1:9000/shop", Interval: every}, {ID: "secure", HTTP: "https://127.0.0.1/x", Interval: every}, {ID: "port", TCP: "127.0.0.1:80", Interval: every},
		},
		Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{Address: "10.0.0.1", Proxy: &catalog.Proxy{
			Expose: catalog.Expose{Checks: true, Paths: []catalog.ExposePath{{Path: "/metrics", ListenerPort: 21500, LocalPathPort: 90}}},
		}}},
	}
	register(t, s, d)
	asks := func() map[string]string {
		w, _ := s.Wanted()
		m := map[string]string{}
		for id, c := range w.Checks {
			m[id] = c.Definition.HTTP + c.Definition.GRPC + c.Definition.TCP
			if strings.Contains(m[id], "10.0.0.1:215") != (c.Record.ExposedPort != 0) {
				t.Errorf("%s asks %s: ExposedPort %d", id, m[id], c.Record.ExposedPort)
			}
		}
		return m
	}
	is := func(want map[string]string) {
		t.Helper()
		got := asks()
		for id, at := range want {
			if got[id] != at {
				t.Errorf("%s asks %q, want %q", id, got[id], at)
			}
		}
	}
	is(map[string]string{
		"bare": "http://10.0.0.1:21501", "call": "10.0.0.1:21502/shop", "page": "http://10.0.0.1:21503/health?deep=1",
		"secure": "https://127.0.0.1/x", "port": "127.0.0.1:80",
	})
	w, _ := s.Wanted()
	want := []catalog.ExposePath{
		{Path: "/metrics", ListenerPort: 21500, LocalPathPort: 90}, {Path: "/", ListenerPort: 21501, LocalPathPort: 80, Protocol: "http"},
		{Path: grpcHealth, ListenerPort: 21502, LocalPathPort: 9000, Protocol: "http2"}, {Path: "/health", ListenerPort: 21503, LocalPathPort: 8080, Protocol: "http"},
	}
	got := w.Services["web-sidecar-proxy"].Record.Proxy.Expose.Paths
	if len(got) != len(want) {
		t.Fatalf("paths %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("path %d: %v, want %v", i, got[i], want[i])
		}
	}
	if err := s.DeregisterCheck("bare"); err != nil {
		t.Fatal(err)
	}
	is(map[string]string{"call": "10.0.0.1:21502/shop", "page": "http://10.0.0.1:21503/health?deep=1"})
	if err := s.RegisterCheck(CheckDefinition{ID: "later", Name: "later", ServiceID: "web", HTTP: "http://127.0.0.1:81/x", Interval: every}, ""); err != nil {
		t.Fatal(err)
	}
	is(map[string]string{"later": "http://10.0.0.1:21501/x"})
	d.Connect.SidecarService.Proxy.Expose.Checks = false
	register(t, s, d)
	is(map[string]string{"page": "http://127.0.0.1:8080/health?deep=1", "call": "127.0.0.1:9000/shop"})
}

// Config entries say it too, for proxies whose registration doesn't; their paths hold where it names none.
func TestExposedCentrally(t *testing.T) {
	s := newState(t, "")
	register(t, s, ServiceDefinition{
		Name: "web", Port: 80, Checks: []CheckDefinition{{ID: "page", HTTP: "http://127.0.0.1:8080/health", Interval: time.Second}},
		Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{Address: "10.0.0.1"}},
	})
	const proxy = "web-sidecar-proxy"
	is := func(check string, paths ...catalog.ExposePath) {
		t.Helper()
		w, _ := s.Wanted()
		if got := w.Checks["page"].Definition.HTTP; got != check {
			t.Errorf("the check asks %s, want %s", got, check)
		}
		if got := w.Services[proxy].Record.Proxy.Expose.Paths; !slices.Equal(got, paths) {
			t.Errorf("paths %v, want %v", got, paths)
		}
	}
	metrics := catalog.ExposePath{Path: "/metrics", ListenerPort: 9102, LocalPathPort: 90, Protocol: "http"}
	health := catalog.ExposePath{Path: "/health", ListenerPort: 21500, LocalPathPort: 8080, Protocol: "http"}
	direct, through := "http://127.0.0.1:8080/health", "http://10.0.0.1:21500/health"
	_, changed := s.Wanted()
	s.Expose(proxy, catalog.Expose{Paths: []catalog.ExposePath{metrics}})
	is(direct) // the renderer has them
	select {
	case <-changed:
		t.Error("what changes nothing here wakes")
	default:
	}
	s.Expose(proxy, catalog.Expose{Checks: true, Paths: []catalog.ExposePath{metrics}})
	select {
	case <-changed:
	default:
		t.Error("nobody is woken")
	}
	is(through, metrics, health)
	s.Expose(proxy, catalog.Expose{Checks: true})
	is(through, health)
	s.Expose("nobody", catalog.Expose{Checks: true})
	is(through, health)
	s.Expose(proxy, catalog.Expose{})
	is(direct)
}
