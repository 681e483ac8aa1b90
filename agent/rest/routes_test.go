// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/memnet"
)

// muxOf is the agent's routes with a configuration.
func muxOf(t *testing.T, c Config) *api.Mux {
	t.Helper()
	m, err := api.NewMux(api.MuxConfig{Side: api.Agent, Node: "n1", Resolver: api.Open{}, Datacenter: "dc1", Handlers: Handlers(c)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestProfiles: with enable_debug, profiles are served.
func TestProfiles(t *testing.T) {
	m := muxOf(t, Config{Debug: true})
	for name, code := range map[string]int{"heap": http.StatusOK, "goroutine": http.StatusOK, "none": http.StatusNotFound} {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/pprof/"+name, http.NoBody))
		if w.Code != code || w.Body.Len() == 0 {
			t.Errorf("%s: %d, %d bytes, want %d", name, w.Code, w.Body.Len(), code)
		}
	}
}

// TestAgentJoinsAndForgets: agent/join has the node join another, force-leave makes that one, which has failed, one that left, and with prune forgets it.
func TestAgentJoinsAndForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // what memberlist has on its way ends
		network := gossip.Memory(memnet.New())
		pool := func(name string, last byte) (*gossip.Pool, func()) {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, last}), 8301)
			p, err := gossip.New(gossip.Config{
				Self: gossip.Self{Name: name, ID: "00000000-0000-4000-8000-00000000000" + string('0'+last), Datacenter: "dc1", Build: "0.1.0"},
				Bind: at, Advertise: at, Network: network, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			<-p.Ready()
			var ended bool
			stop := func() {
				if cancel(); !ended {
					ended = true
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			}
			t.Cleanup(stop)
			return p, stop
		}
		lan, _ := pool("n1", 1)
		_, die := pool("n2", 2)
		m := muxOf(t, Config{LAN: lan, Node: "n1"})
		put := func(path string, code int, want string) {
			t.Helper()
			w := httptest.NewRecorder()
			m.ServeHTTP(w, httptest.NewRequest(http.MethodPut, path, http.NoBody))
			if w.Code != code || w.Body.String() != want {
				t.Errorf("%s: %d %q, want %d %q", path, w.Code, w.Body, code, want)
			}
		}
		other := func(want gossip.Status) {
			t.Helper()
			members := lan.Members()
			i := slices.IndexFunc(members, func(m gossip.Member) bool { return m.Name == "n2" })
			if i < 0 && want != gossip.StatusNone || i >= 0 && members[i].Status != want {
				t.Errorf("n2 isn't %s: %+v", want, members)
			}
		}
		put("/v1/agent/join/10.0.0.2", http.StatusOK, "")
		time.Sleep(time.Second)
		other(gossip.StatusAlive)
		die()
		time.Sleep(time.Minute)
		other(gossip.StatusFailed)
		put("/v1/agent/force-leave/n2", http.StatusOK, "")
		time.Sleep(time.Second)
		other(gossip.StatusLeft)
		put("/v1/agent/force-leave/n2?prune=", http.StatusOK, "")
		time.Sleep(time.Minute)
		other(gossip.StatusNone)
	})
}
