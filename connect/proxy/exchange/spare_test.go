// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h1"
)

// Streams of one client that wait until it may have one more connection made take those that come back meanwhile, but for the last, which others
// find (C62, C66).
func TestTheLastIdleConnectionIsLeftToOthers(t *testing.T) {
	v := clusterOf(t, &config.Cluster{Endpoints: endpointsOf(1)})
	ep := v.endpoints[0]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	comesBack := func() {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		now := time.Now()
		ep.mu.Lock()
		defer ep.mu.Unlock()
		ep.idle = append(ep.idle, &single{client: h1.NewClient(conn, h1.ClientConfig{}), identity: v.identity, born: now, since: now})
		ep.tellSpareLocked()
	}
	way := slow{context: func() context.Context { return t.Context() }, makers: newMakers()}
	for range maxMaking { // as many as may are in the making
		<-way.makers.slots
	}
	got := make(chan *single, 3)
	for range 3 {
		go func() {
			s, err := way.enter(v, ep)
			if err != nil {
				t.Error(err)
			}
			got <- s
		}()
	}
	for range 3 {
		comesBack()
	}
	for range 2 {
		if s := <-got; s == nil {
			t.Error("one more is made, though one is")
		}
	}
	way.makers.left()
	if s := <-got; s != nil {
		t.Error("the last was taken")
	}
	if s := ep.take(v, 0); s == nil {
		t.Error("another client finds none")
	}
}
