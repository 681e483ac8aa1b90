// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// defaults writes a service's service-defaults, until the row ends.
func (l *Lab) defaults(service, protocol string, fields object) {
	l.t.Helper()
	body := object{"Kind": "service-defaults", "Name": l.name(service), "Protocol": protocol}
	l.t.Cleanup(func() { l.put("/v1/config", body) })
	with := object{}
	for _, m := range []object{body, fields} {
		for k, v := range m {
			with[k] = v
		}
	}
	l.put("/v1/config", with)
}

// plain calls an instance in plain text, past every sidecar of the caller's.
func plain(i *Instance, want int) func() error {
	return func() error {
		g, err := callAt(loopback(i.Public), "GET", "/", "")
		if err != nil {
			return err
		}
		return statusIs(want)(g)
	}
}

// refusesPlain wants that a plain call gets to nobody: the connection ends, or TLS's answer comes.
func refusesPlain(i *Instance) func() error {
	return func() error {
		g, err := callAt(loopback(i.Public), "GET", "/", "")
		if err == nil && g.Status != http.StatusBadRequest {
			return fmt.Errorf("%d in plain text, want no answer", g.Status)
		}
		return nil
	}
}

func protectMTLS(t *testing.T, w *World) {
	l := w.traffic(t)
	named := object{"Sources": []object{{"Name": l.name("web"), "Action": "allow"}}}
	all := object{"Sources": []object{{"Name": "*", "Action": "allow"}}}
	web := func(want int) func() error {
		return func() error {
			g, err := l.call("GET", "/")
			if err != nil {
				return err
			}
			return statusIs(want)(g)
		}
	}
	both := func(what string, fs ...func() error) {
		t.Helper()
		until(t, 2*callWithin, func() error {
			for range 3 { // every instance
				for _, f := range fs {
					if err := f(); err != nil {
						return fmt.Errorf("%s: %w", what, err)
					}
				}
			}
			return nil
		})
	}
	both("strict", refusesPlain(l.api1), web(200))
	l.defaults("api", "http", object{"MutualTLSMode": "permissive"})
	both("permissive, web is named", plain(l.api1, 403), web(200))
	l.rules(all)
	both("permissive, all are allowed", plain(l.api1, 200), web(200))
	l.rules(object{"Sources": []object{{"Name": l.name("web"), "Action": "deny"}, {"Name": "*", "Action": "allow"}}})
	both("permissive, web is denied", plain(l.api1, 200), web(403))
	l.rules(named)
	l.defaults("api", "http", object{"MutualTLSMode": "off"})
	both("off, web is named", plain(l.api1, 403), web(403))
	l.rules(all)
	both("off, all are allowed", plain(l.api1, 200), web(200))
	l.defaults("api", "http", object{})
	l.rules(named)
	both("strict again", refusesPlain(l.api1), web(200))
	// Connections: the first byte tells TLS from the rest.
	greeting := func(want bool) func() error {
		return func() error {
			conn, err := dialTCP(loopback(l.raw1.Public))
			if err != nil {
				return err
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(conn, "hello")
			b := make([]byte, 1)
			if _, err = io.ReadFull(conn, b); (err == nil && b[0] == '1') != want {
				return fmt.Errorf("%q (%w), want the application's greeting: %t", b, err, want)
			}
			return nil
		}
	}
	both("tcp strict", greeting(false))
	l.defaults("raw", "tcp", object{"MutualTLSMode": "permissive"})
	l.intend("allow", "*", "raw")
	both("tcp permissive", greeting(true), func() error {
		conn, err := dialTCP(l.rawAddr)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n != 1 {
			return errors.Join(err, errors.New("no greeting over mutual TLS"))
		}
		return nil
	})
}

func protectPort(t *testing.T, w *World) {
	l := w.traffic(t)
	l.rules(object{"Sources": []object{{"Name": "*", "Action": "allow"}}})
	l.defaults("api", "http", object{"MutualTLSPorts": []object{{"Port": l.v1.port, "Mode": "off"}}})
	until(t, 2*callWithin, plain(l.api1, 200))
	until(t, callWithin, refusesPlain(l.api1b))
	l.everywhere("/", statusIs(200)) // web calls the one in plain text, the others by mutual TLS
	if got := l.counts(30); got["v1"] < 5 || got["v1b"] < 5 {
		t.Errorf("%v, want calls at both", got)
	}
}
