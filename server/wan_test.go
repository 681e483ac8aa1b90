// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/memnet"
)

// world is the servers of some datacenters, one each, that gossip with each other.
type world struct {
	t   *testing.T
	net *memnet.Network
}

// pool runs a server's place in the WAN.
func (w *world) pool(dc string, addr netip.Addr) *gossip.Pool {
	w.t.Helper()
	at := netip.AddrPortFrom(addr, 8302)
	p, err := gossip.New(gossip.Config{
		WAN: true, Bind: at, Advertise: at, Network: gossip.Memory(w.net),
		Self: gossip.Self{Name: "s1", ID: "id-" + dc, Datacenter: dc, Server: true, ServerPort: 8300},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	<-p.Ready()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return p
}

func (w *world) server(dc, ip string) *running {
	w.t.Helper()
	pool := w.pool(dc, netip.MustParseAddr(ip))
	r := startWith(w.t, Config{
		Datacenter: dc, WAN: pool,
		DialWAN: func(ctx context.Context, address, _, _ string) (net.Conn, error) {
			return w.net.DialContext(ctx, address)
		},
	})
	l, err := w.net.Listen(ip + ":8300")
	if err != nil {
		w.t.Fatal(err)
	}
	web := &http.Server{Handler: r.Handler(), Protocols: new(http.Protocols)}
	web.Protocols.SetUnencryptedHTTP2(true)
	var work sync.WaitGroup
	work.Go(func() {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() {
		_ = web.Close()
		work.Wait()
	})
	return r
}

// A request for another datacenter goes to a server there; for one that nobody knows, the answer says so.
func TestOtherDatacenters(t *testing.T) {
	w := &world{t: t, net: memnet.New()}
	one, two := w.server("dc1", "10.0.0.1"), w.server("dc2", "10.0.0.2")
	one.do("GET", "/v1/kv/a?dc=dc2", "", 500, "No path to datacenter")
	one.do("GET", "/v1/catalog/datacenters", "", 200, `["dc1"]`)
	if n, err := two.c.WAN.Join(t.Context(), []string{"10.0.0.1"}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := one.c.WAN.WaitFor(ctx, func(list []gossip.Member) bool { return len(list) == 2 }); err != nil {
		t.Fatal(err)
	}
	one.do("PUT", "/v1/kv/a?dc=dc2", "there", 200, "true")
	one.do("PUT", "/v1/kv/a?dc=dc1", "here", 200, "true")
	two.do("GET", "/v1/kv/a?raw", "", 200, "there")
	one.do("GET", "/v1/kv/a?raw&dc=DC2", "", 200, "there")
	one.do("GET", "/v1/kv/a?raw", "", 200, "here")
	one.do("GET", "/v1/kv/a?dc=dc3", "", 500, "No path to datacenter")
	one.do("GET", "/v1/catalog/datacenters", "", 200, `["dc1","dc2"]`)
	two.do("GET", "/v1/catalog/datacenters", "", 200, `["dc2","dc1"]`)
	one.do("GET", "/v1/coordinate/datacenters", "", 200, `{"Datacenter":"dc1","AreaID":"wan","Coordinates":[{"Node":"s1"`)
	// What was passed on once isn't passed on again.
	r, _ := http.NewRequest("GET", "/v1/kv/a?dc=dc2", nil)
	r.Header.Set(wanHop, "dc9")
	rec := httptest.NewRecorder()
	one.Handler().ServeHTTP(rec, r)
	if rec.Code != http.StatusLoopDetected {
		t.Errorf("a loop: %d %s", rec.Code, rec.Body)
	}
}

func TestByDistance(t *testing.T) {
	ms := func(n ...int) (out []time.Duration) {
		for _, d := range n {
			out = append(out, time.Duration(d)*time.Millisecond)
		}
		return out
	}
	got := byDistance("home", map[string][]time.Duration{
		"far": ms(90, 80, 1), "near": ms(200, 5, 6), "home": ms(500), "nowhere": nil, "anywhere": nil, "same": ms(80),
	})
	if want := []string{"home", "near", "far", "same", "anywhere", "nowhere"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
