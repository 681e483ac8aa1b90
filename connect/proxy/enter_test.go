// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"testing"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// A listener with a bound takes as many connections as that, whatever others have, and another for each that has ended.
func TestConnectionsOfAListener(t *testing.T) {
	p := &Proxy{conns: map[*connection]struct{}{}, perListener: map[string]int{}}
	two, any := &config.Listener{Name: "two", MaxConnections: 2}, &config.Listener{Name: "any"}
	of := func(l *config.Listener) *connection { return &connection{p: p, listener: l.Name} }
	a, b, c := of(two), of(two), of(two)
	for i, step := range []struct {
		c    *connection
		l    *config.Listener
		want bool
	}{{a, two, true}, {of(any), any, true}, {of(any), any, true}, {b, two, true}, {c, two, false}} {
		if got := p.enter(step.c, step.l); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	p.leave(a)
	if !p.enter(c, two) || p.enter(of(two), two) {
		t.Error("one has ended, and not one more is taken in")
	}
	for left := range p.conns {
		p.leave(left)
	}
	if len(p.conns)+len(p.perListener) > 0 {
		t.Errorf("%d are left, %v", len(p.conns), p.perListener)
	}
}
