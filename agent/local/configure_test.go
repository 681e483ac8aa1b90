// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// What files named goes when they don't name it any more, over a restart; what the API registered stays.
func TestConfigure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	mesh := func(name string) ServiceDefinition {
		return ServiceDefinition{Name: name, Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}}}
	}
	disk := CheckDefinition{Name: "disk", TTL: time.Minute}
	configure := func(s *State, services []ServiceDefinition, checks ...CheckDefinition) {
		t.Helper()
		if _, err := s.Configure(services, checks, ""); err != nil {
			t.Fatal(err)
		}
	}
	want := func(s *State, want string) {
		t.Helper()
		var got []string
		for _, n := range strings.Split(names(s), ", ") {
			if !strings.HasPrefix(n, "check service:") {
				got = append(got, n)
			}
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	live(t, path, func(s *State) {
		configure(s, []ServiceDefinition{mesh("a"), {Name: "b"}, {Name: "taken"}}, disk)
		register(t, s, ServiceDefinition{Name: "api"})
		register(t, s, ServiceDefinition{Name: "taken", Port: 81}) // from now on the API's
		want(s, "a, a-sidecar-proxy, api, b, check disk, taken")
	})
	live(t, path, func(s *State) {
		want(s, "a, a-sidecar-proxy, api, b, check disk, taken")
		configure(s, []ServiceDefinition{{Name: "b"}, {Name: "c"}})
		want(s, "api, b, c, taken")
	})
	live(t, path, func(s *State) {
		want(s, "api, b, c, taken")
		if err := s.Deregister("c"); err != nil {
			t.Fatal(err)
		}
		configure(s, nil)
		want(s, "api, taken")
	})
}

// Proxies may come before their services in a file; each fault is named, and then nothing is taken.
func TestConfigureOrderAndFaults(t *testing.T) {
	s := newState(t, "")
	proxy := ServiceDefinition{Name: "p", Kind: catalog.KindConnectProxy, Port: 1, Proxy: &catalog.Proxy{DestinationServiceName: "web", DestinationServiceID: "web"}}
	_, err := s.Configure([]ServiceDefinition{proxy, {Name: "web"}, {Name: "bad", Port: -1}}, []CheckDefinition{{Name: "odd"}}, "")
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `service "bad": Invalid Port`) ||
		!strings.Contains(err.Error(), `check "odd": Invalid check`) {
		t.Errorf("%v", err)
	}
	if got := names(s); got != "" {
		t.Errorf("half applied: %s", got)
	}
	if _, err := s.Configure([]ServiceDefinition{proxy, {Name: "web"}}, nil, ""); err != nil {
		t.Error(err)
	}
	if got := names(s); got != "p, web" {
		t.Errorf("%s", got)
	}
}

// Ten thousand services of files are one append.
func TestConfigureMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	var all []ServiceDefinition
	for i := range 10_000 {
		all = append(all, ServiceDefinition{Name: fmt.Sprint("s", i), Port: 80})
	}
	live(t, path, func(s *State) {
		start := time.Now()
		if _, err := s.Configure(all, nil, ""); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
	})
	if w, _ := newState(t, path).Wanted(); len(w.Services) != len(all) {
		t.Errorf("%d services after a restart", len(w.Services))
	}
}
