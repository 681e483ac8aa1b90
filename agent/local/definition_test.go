// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/decode"
)

func newState(t *testing.T, journal string) *State {
	t.Helper()
	s, err := New(testConfig(journal))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testConfig(journal string) Config {
	return Config{
		Node:    catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "n1", Address: "10.0.0.1"},
		Journal: journal, Log: slog.New(slog.DiscardHandler),
	}
}

func register(t *testing.T, s *State, d ServiceDefinition) {
	t.Helper()
	if _, err := s.Register(d, "", false); err != nil {
		t.Fatalf("register %s: %v", d.Name, err)
	}
}

// The three languages and both ways to write names say the same.
func TestFormsAgree(t *testing.T) {
	forms := map[string]string{
		"a.hcl": `service {
			id = "web1"
			name = "web"
			port = 80
			tags = ["a"]
			meta { version = "2" }
			weights { passing = 3  warning = 2 }
			check { http = "http://127.0.0.1/ok"  interval = "2s" }
			connect { sidecar_service { proxy { upstreams { destination_name = "api"  local_bind_port = 9191 } } } }
		}`,
		"a.json": `{"Service": {"ID": "web1", "Name": "web", "Port": 80, "Tags": ["a"], "Meta": {"version": "2"},
			"Weights": {"Passing": 3, "Warning": 2}, "Check": {"HTTP": "http://127.0.0.1/ok", "Interval": "2s"},
			"Connect": {"SidecarService": {"Proxy": {"Upstreams": [{"DestinationName": "api", "LocalBindPort": 9191}]}}}}}`,
		"b.json": `{"services": [{"id": "web1", "service": "web", "port": "80", "tags": ["a"], "meta": {"version": 2},
			"weights": {"passing": 3, "warning": 2}, "check": {"http": "http://127.0.0.1/ok", "interval": 2000000000},
			"connect": {"sidecar_service": {"proxy": {"upstreams": [{"destination_name": "api", "local_bind_port": 9191}]}}}}]}`,
		"a.yaml": `
service:
  id: web1
  name: web
  port: 80
  tags: [a]
  meta: {version: "2"}
  weights: {passing: 3, warning: 2}
  check: {http: "http://127.0.0.1/ok", interval: 2s}
  connect:
    sidecar_service:
      proxy:
        upstreams:
        - {destination_name: api, local_bind_port: 9191}
`,
	}
	want := ServiceDefinition{
		ID: "web1", Name: "web", Port: 80, Tags: []string{"a"}, Meta: map[string]string{"version": "2"},
		Weights: &catalog.Weights{Passing: 3, Warning: 2}, Check: &CheckDefinition{HTTP: "http://127.0.0.1/ok", Interval: 2 * time.Second},
		Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{Proxy: &catalog.Proxy{
			Upstreams: []catalog.Upstream{{DestinationName: "api", LocalBindPort: 9191}},
		}}},
	}
	for name, text := range forms {
		doc, err := decode.Parse(name, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var file struct {
			Services []ServiceDefinition `decode:"service"`
		}
		if err := doc.Into(&file); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff([]ServiceDefinition{want}, file.Services); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestSidecarDefaults(t *testing.T) {
	s := newState(t, "")
	register(t, s, ServiceDefinition{
		Name: "web", Port: 80, Address: "10.0.0.9", Tags: []string{"a"}, Meta: map[string]string{"v": "1"}, Token: "secret",
		Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}},
	})
	w, _ := s.Wanted()
	got := w.Services["web-sidecar-proxy"]
	if got == nil {
		t.Fatal("no sidecar")
	}
	want := &catalog.Service{
		Scope: catalog.Scope{}.Default("dc1"), Node: "n1", ID: "web-sidecar-proxy", Service: "web-sidecar-proxy", Kind: catalog.KindConnectProxy,
		Tags: []string{"a"}, Meta: map[string]string{"v": "1"}, Address: "10.0.0.9", Port: 21000, Weights: catalog.Weights{Passing: 1, Warning: 1},
		Proxy: &catalog.Proxy{
			DestinationServiceName: "web", DestinationServiceID: "web", LocalServiceAddress: "127.0.0.1", LocalServicePort: 80,
		}, Owner: Owner,
	}
	if diff := cmp.Diff(want, got.Record); diff != "" {
		t.Error(diff)
	}
	if got.Parent != "web" || got.Token != "secret" {
		t.Errorf("parent %q, token %q", got.Parent, got.Token)
	}
	checks := w.ChecksOf("web-sidecar-proxy")
	if len(checks) != 2 || checks[0].Definition.TCP != "10.0.0.9:21000" || checks[1].Definition.AliasService != "web" {
		t.Errorf("checks: %+v", checks)
	}
}

// Ports are given from the lowest, kept by who has one, given again when free, and none are left at the end.
func TestSidecarPorts(t *testing.T) {
	c := testConfig("")
	c.SidecarMin, c.SidecarMax = 21000, 21001
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	mesh := func(name string) ServiceDefinition {
		return ServiceDefinition{Name: name, Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}}}
	}
	port := func(name string) int {
		w, _ := s.Wanted()
		return w.Services[SidecarID(name)].Record.Port
	}
	register(t, s, mesh("a"))
	register(t, s, mesh("b"))
	register(t, s, mesh("a"))
	if port("a") != 21000 || port("b") != 21001 {
		t.Errorf("ports %d and %d", port("a"), port("b"))
	}
	before, _ := s.Wanted()
	if _, err := s.Register(mesh("c"), "", false); err == nil {
		t.Error("a third sidecar in a range of two")
	}
	if after, _ := s.Wanted(); after.Version != before.Version {
		t.Error("a refused registration changed the state")
	}
	if err := s.Deregister("a"); err != nil {
		t.Fatal(err)
	}
	register(t, s, mesh("c"))
	if port("c") != 21000 {
		t.Errorf("the free port isn't given again: %d", port("c"))
	}
}

func TestRefusals(t *testing.T) {
	sidecar := func(p catalog.Proxy) ServiceDefinition {
		return ServiceDefinition{Name: "web", Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{Proxy: &p}}}
	}
	up := func(u ...catalog.Upstream) ServiceDefinition { return sidecar(catalog.Proxy{Upstreams: u}) }
	check := func(c CheckDefinition) ServiceDefinition { return ServiceDefinition{Name: "web", Check: &c} }
	meta := map[string]string{}
	for i := range 65 {
		meta[fmt.Sprint("k", i)] = "v"
	}
	for _, c := range []struct {
		d    ServiceDefinition
		want string
	}{
		{ServiceDefinition{}, "Missing service name"},
		{ServiceDefinition{Name: "web", Port: 65536}, "Invalid Port of service \"web\": want 0 to 65535, got 65536"},
		{ServiceDefinition{Name: "web", Port: -1}, "Invalid Port"},
		{ServiceDefinition{Name: "we\x00b"}, "can't be printed at byte 2"},
		{ServiceDefinition{Name: strings.Repeat("w", 256)}, "longer than 255 bytes"},
		{ServiceDefinition{Name: "web", Address: "0.0.0.0"}, "can't be dialled"},
		{ServiceDefinition{Name: "web", Weights: &catalog.Weights{}}, "Passing must be 1 to 65535"},
		{ServiceDefinition{Name: "web", Meta: meta}, "more than 64"},
		{ServiceDefinition{Name: "web", Meta: map[string]string{"a b": ""}}, `key "a b"`},
		{ServiceDefinition{Name: "web", Meta: map[string]string{"a": strings.Repeat("v", 513)}}, "longer than 512 bytes"},
		{ServiceDefinition{Name: "web", Ports: []catalog.ServicePort{{Port: 1}}}, "Invalid Ports"},
		{ServiceDefinition{Name: "web", Port: 1, SocketPath: "/s"}, "exclude each other"},
		{ServiceDefinition{Name: "web", Kind: "mesh-gateway"}, "isn't one that this agent runs"},
		{ServiceDefinition{Name: "web", Proxy: &catalog.Proxy{}}, "Proxy is only for Kind"},
		{ServiceDefinition{Name: "p", Kind: catalog.KindConnectProxy, Port: 1}, "DestinationServiceName must be non-empty"},
		{ServiceDefinition{Name: "p", Kind: catalog.KindConnectProxy, Proxy: &catalog.Proxy{DestinationServiceName: "web"}}, "Port or SocketPath must be set"},
		{ServiceDefinition{Name: "p", Kind: catalog.KindConnectProxy, Port: 1, Proxy: &catalog.Proxy{DestinationServiceName: "web", DestinationServiceID: "web"}}, "isn't registered on this agent"},
		{ServiceDefinition{Name: "web", Connect: &ConnectDefinition{Native: true}}, "needs a Port"},
		{ServiceDefinition{Name: "web", Port: 1, Connect: &ConnectDefinition{Native: true, SidecarService: &ServiceDefinition{}}}, "exclude each other"},
		{ServiceDefinition{Name: "web", Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{ID: "x"}}}, "cannot specify an ID"},
		{ServiceDefinition{Name: "web", Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}}}}}, "nested"},
		{up(catalog.Upstream{DestinationName: "web", LocalBindPort: 1}), `Proxy.Upstreams[0] of service "web-sidecar-proxy": service "web" can't be an upstream of itself`},
		{up(catalog.Upstream{DestinationName: "web", DestinationNamespace: "default", LocalBindPort: 1}), "upstream of itself"},
		{up(catalog.Upstream{LocalBindPort: 1}), "DestinationName is missing"},
		{up(catalog.Upstream{DestinationName: "api"}), "LocalBindPort or LocalBindSocketPath is missing"},
		{up(catalog.Upstream{DestinationName: "api", LocalBindPort: 70000}), "want 1 to 65535, got 70000"},
		{up(catalog.Upstream{DestinationName: "api", LocalBindPort: 1, LocalBindSocketPath: "/s"}), "exclude each other"},
		{up(catalog.Upstream{DestinationName: "api", LocalBindPort: 1, LocalBindAddress: "x"}), "isn't an IP address"},
		{up(catalog.Upstream{DestinationName: "api", LocalBindPort: 1, DestinationType: "prepared_query"}), `want "service"`},
		{up(catalog.Upstream{DestinationName: "api", LocalBindPort: 1}, catalog.Upstream{DestinationName: "db", LocalBindPort: 1}), `Proxy.Upstreams[1] of service "web-sidecar-proxy": listens at the same place as upstream "api"`},
		{up(catalog.Upstream{DestinationName: "api", LocalBindPort: 1}, catalog.Upstream{DestinationName: "db", LocalBindPort: 1, LocalBindAddress: "127.0.0.1"}), "same place"},
		{up(named("api", "a.example"), named("db", "b.example", "A.example")), `Config.sni: "a.example" leads to upstream "api" already`},
		{up(named("api", "a..example")), `Config.sni[0]: "a..example" isn't a server name`},
		{up(named("api", "*")), `isn't a server name`},
		{up(named("api")), `want a server name or a list of them`},
		{up(named("api", "a.example"), catalog.Upstream{DestinationName: "db", LocalBindPort: 1}, catalog.Upstream{DestinationName: "x", LocalBindPort: 1}), "same place"},
		{check(CheckDefinition{}), "TTL must be > 0"},
		{check(CheckDefinition{Interval: 1}), "nothing to run"},
		{check(CheckDefinition{HTTP: "http://x"}), "Interval must be > 0"},
		{check(CheckDefinition{TTL: 1, Interval: 1}), "Interval and TTL cannot both"},
		{check(CheckDefinition{AliasService: "x", Interval: 1}), "Interval cannot be set for Alias checks"},
		{check(CheckDefinition{ScriptArgs: []string{"x"}, Interval: 1}), "Scripts are disabled on this agent from remote calls"},
		{check(CheckDefinition{DockerContainerID: "x", Shell: "/bin/sh", Interval: 1}), "docker checks aren't run"},
		{check(CheckDefinition{OSService: "x", Interval: 1}), "OSService checks are for Windows"},
		{check(CheckDefinition{UDP: "x:1"}), "Interval must be > 0"},
		{check(CheckDefinition{TTL: 1, Status: "fine"}), "Status for checks must"},
		{check(CheckDefinition{TTL: 1, FailuresBeforeWarning: 3, FailuresBeforeCritical: 2}), "can't be higher"},
		{check(CheckDefinition{TTL: 1, OutputMaxSize: -1}), "negative"},
		{ServiceDefinition{Name: "web", Checks: []CheckDefinition{{ID: "c", TTL: 1}, {ID: "c", TTL: 1}}}, `have the ID "c"`},
	} {
		s := newState(t, "")
		before, _ := s.Wanted()
		_, err := s.Register(c.d, "", false)
		if err == nil {
			t.Errorf("taken: want %q", c.want)
			continue
		}
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %q, want an ErrInvalid with %q", err, c.want)
		}
		after, _ := s.Wanted()
		if diff := cmp.Diff(before, after, cmpopts.IgnoreUnexported(Wanted{})); diff != "" {
			t.Errorf("%s: refused, and yet applied:\n%s", c.want, diff)
		}
	}
}

// named is an upstream on port 1 with server names.
func named(service string, names ...string) catalog.Upstream {
	list := []any{}
	for _, n := range names {
		list = append(list, n)
	}
	return catalog.Upstream{DestinationName: service, LocalBindPort: 1, Config: catalog.Opaque{"sni": list}}
}

// Several upstreams share a place where server names tell them apart.
func TestUpstreamsByServerName(t *testing.T) {
	s := newState(t, "")
	register(t, s, ServiceDefinition{Name: "web", Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{
		Proxy: &catalog.Proxy{Upstreams: []catalog.Upstream{
			named("api", "a.example", "*.a.example"), {DestinationName: "db", LocalBindPort: 1}, named("x", "b.example"),
		}},
	}}})
}

// An upstream of the same name elsewhere is another service.
func TestNamesakeUpstreamElsewhere(t *testing.T) {
	s := newState(t, "")
	register(t, s, ServiceDefinition{Name: "web", Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{
		Proxy: &catalog.Proxy{Upstreams: []catalog.Upstream{
			{DestinationName: "web", DestinationPeer: "west", LocalBindPort: 1},
			{DestinationName: "web", Datacenter: "dc2", LocalBindPort: 2},
		}},
	}}})
}

// What is known and has no effect is said.
func TestWarnings(t *testing.T) {
	s := newState(t, "")
	w, err := s.Register(ServiceDefinition{Name: "web", Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{
		Proxy: &catalog.Proxy{Mode: "transparent", TransparentProxy: &catalog.TransparentProxy{DialedDirectly: true}, EnvoyExtensions: []catalog.EnvoyExtension{{Name: "builtin/lua"}}},
	}}}, "", false)
	if err != nil || len(w) != 1 {
		t.Errorf("%v, %v", w, err)
	}
	for want, proxy := range map[string]*catalog.Proxy{
		"RateLimits can't be registered":            {RateLimits: &catalog.RateLimits{}},
		"EnvoyExtensions[0]: Name is required":      {EnvoyExtensions: []catalog.EnvoyExtension{{}}},
		"AccessLogs.Path must be set for type file": {AccessLogs: &catalog.AccessLogs{Type: "file"}},
		"LocalIdentity without UIDs":                {LocalIdentity: &catalog.LocalIdentity{}},
		"4294967295 is no user":                     {LocalIdentity: &catalog.LocalIdentity{LocalProcesses: catalog.LocalProcesses{UIDs: []uint32{1, ^uint32(0)}}}},
		`"web" is no unit`:                          {LocalIdentity: &catalog.LocalIdentity{LocalProcesses: catalog.LocalProcesses{Units: []string{"web"}}}},
		`"a/b.service" is no unit`:                  {LocalIdentity: &catalog.LocalIdentity{LocalProcesses: catalog.LocalProcesses{Units: []string{"a/b.service"}}}},
		`"web" is no path of a cgroup`:              {LocalIdentity: &catalog.LocalIdentity{LocalProcesses: catalog.LocalProcesses{Cgroups: []string{"web"}}}},
		`"/" is no path of a cgroup`:                {LocalIdentity: &catalog.LocalIdentity{LocalProcesses: catalog.LocalProcesses{Cgroups: []string{"/"}}}},
		"LocalIdentity.Proxy without UIDs":          {LocalIdentity: &catalog.LocalIdentity{Proxy: &catalog.LocalProcesses{}}},
	} {
		d := ServiceDefinition{Name: "bad", Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{Proxy: proxy}}}
		if _, err := s.Register(d, "", false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
