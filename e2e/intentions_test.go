// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"net"
	"net/http"
	"testing"
	"time"
)

var intentionRows = []Row{
	{Name: "default deny", Run: defaultDeny},
	{Name: "default allow", Run: defaultAllow},
	{Name: "precedence", Run: precedence},
	{Name: "intention changed on an open http connection", Run: changedHTTP},
	{
		Name: "intention changed on an open tcp connection", Run: changedTCP,
		Differs: map[Kind]string{
			Envoy: "TCP authorisation stands in the filter chain, and Envoy drains a changed filter chain: the allowed connections of that listener are cut too",
		},
	},
}

// effect is within what a changed intention must hold.
const effect = time.Second

// slack is what a poll and two busy cores may add to that.
const slack = 250 * time.Millisecond

func defaultDeny(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	p.forget("web", "api")
	until(t, effect+slack, func() error { return isDenied("http", p.addr) })
}

func defaultAllow(t *testing.T, shared *World) {
	p := newPair(t, mustWorld(t, shared.Kind, "allow"), "http")
	p.forget("web", "api")
	addr := p.caller("other") // no intention was ever about it
	until(t, callWithin, func() error { return call("http", addr) })
	p.intend("deny", "other", "api")
	until(t, effect+slack, func() error { return isDenied("http", addr) })
	if err := call("http", p.addr); err != nil {
		t.Error(err)
	}
}

// precedence: an exact destination counts more than an exact source, and both exact more than either.
func precedence(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	other := p.caller("other")
	allowed := func(addr string) func() error { return func() error { return call("http", addr) } }
	deniedAt := func(addr string) func() error { return func() error { return isDenied("http", addr) } }

	p.intend("deny", "*", "api") // web -> api is exact, and stays
	until(t, effect+slack, deniedAt(other))
	until(t, 0, allowed(p.addr))

	p.intend("allow", "*", "api")
	until(t, effect+slack, allowed(other))
	p.intend("deny", "web", "api")
	until(t, effect+slack, deniedAt(p.addr))
	until(t, 0, allowed(other))

	p.forget("web", "api")
	until(t, effect+slack, allowed(p.addr)) // by * -> api
	p.intend("deny", "web", "*")            // an exact source counts less than an exact destination
	p.intend("allow", "other", "*")
	p.intend("deny", "*", "api")
	until(t, effect+slack, deniedAt(other))
	p.forget("*", "api")
	until(t, effect+slack, allowed(other)) // by other -> *
	until(t, 0, deniedAt(p.addr))          // by web -> *
}

func changedHTTP(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	client, end := h1()
	defer end()
	url := "http://" + p.addr + "/"
	if _, err := get(client, url, http.StatusOK); err != nil {
		t.Fatal(err)
	}
	// The first connection serves all: what changes is the answer, not the connection.
	change := func(action string, status int) {
		t.Helper()
		p.intend(action, "web", "api")
		took := until(t, effect+slack, func() error {
			reused, err := get(client, url, status)
			if !reused {
				t.Fatal("the request went over a new connection: the old one was closed")
			}
			return err
		})
		t.Logf("%s in effect after %s", action, took.Round(time.Millisecond))
	}
	for range 3 {
		change("deny", http.StatusForbidden)
		change("allow", http.StatusOK)
	}
}

func changedTCP(t *testing.T, w *World) {
	p := newPair(t, w, "tcp")
	p.intend("allow", "other", "api")
	other := p.caller("other")
	until(t, callWithin, func() error { return call("tcp", other) })
	open := func(addr string) net.Conn {
		conn, err := dialTCP(addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := ping(conn); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	stays, cut := open(other), open(p.addr)
	p.intend("deny", "web", "api")
	took := until(t, effect+slack, func() error {
		if ping(cut) == nil {
			return errors.New("the denied connection is still served")
		}
		return nil
	})
	t.Logf("cut after %s", took.Round(time.Millisecond))
	until(t, effect, func() error { return refused(p.addr) })
	if w.Kind != Envoy {
		if err := ping(stays); err != nil {
			t.Errorf("the allowed caller's connection was cut: %v", err)
		}
	}
	until(t, effect, func() error { return call("tcp", other) })
}
