// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

// BenchmarkThousandServices compiles the chains of a thousand services with ten routes each, and renders a proxy that calls all
// of them.
func BenchmarkThousandServices(b *testing.B) {
	w, err := xdstest.NewWorld(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	entries := []catalog.Entry{&catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http"}}}
	caller := xdstest.Sidecar{Service: "web", Port: 8080, PublicPort: 21000}
	for i := range 1000 {
		name := fmt.Sprintf("s%d", i)
		e := &catalog.ServiceRouter{EntryHead: head(name)}
		for k := range 10 {
			e.Routes = append(e.Routes, catalog.ServiceRoute{
				Match: &catalog.ServiceRouteMatch{HTTP: &httpMatch{
					PathPrefix: fmt.Sprintf("/r%d", k), Header: []catalog.ServiceRouteHTTPMatchHeader{{Name: "x-user", Exact: "tester"}},
				}},
				Destination: &catalog.ServiceRouteDestination{RequestTimeout: time.Second, RetryOn: []string{"5xx"}, NumRetries: 2},
			})
		}
		entries = append(entries, e)
		caller.Upstreams = append(caller.Upstreams, catalog.Upstream{DestinationName: name, LocalBindPort: 10000 + i})
		if _, err := w.Register(xdstest.Sidecar{Service: name, Node: "n2", Address: "10.0.0.1", Port: 1, PublicPort: 21000}); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Write(entries...); err != nil {
		b.Fatal(err)
	}
	proxy, err := w.Register(caller)
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := w.Leaf("web")
	if err != nil {
		b.Fatal(err)
	}
	in := xds.Input{Txn: w.Store.Read(), Proxy: proxy, Leaf: leaf, Now: time.Now(), Abilities: xds.Abilities{Weft: true}}
	b.ReportAllocs()
	before := processorTime(b)
	for b.Loop() {
		if _, err := xds.Render(in); err != nil {
			b.Fatal(err)
		}
	}
	used := (processorTime(b) - before).Seconds() / float64(b.N)
	b.ReportMetric(used, "cpu-s/op")
	if used > 1 {
		b.Errorf("%.2f s of a processor for a thousand services, want at most 1", used)
	}
}

// processorTime is what the process has used, whatever else the machine does.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
