// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
)

func protectExposed(t *testing.T, w *World) {
	l := w.traffic(t)
	port := mustPort(t)
	is := func(path string, want int) {
		t.Helper()
		until(t, 2*callWithin, func() error {
			g, err := callAt(loopback(port), "GET", path, "")
			if err != nil {
				return err
			}
			return statusIs(want)(g)
		})
	}
	l.defaults("spare", "http", object{"Expose": object{"Paths": []object{{"Path": "/health", "ListenerPort": port, "LocalPathPort": l.spare.port}}}})
	is("/health", http.StatusOK) // with neither a certificate nor an intention
	is("/health?deep", http.StatusOK)
	is("/", http.StatusNotFound)
	is("/health/more", http.StatusNotFound)
	is("/health/../admin", http.StatusNotFound)
	is("//health", http.StatusOK) // one form before anything is decided
	l.defaults("spare", "http", object{"Expose": object{"Paths": []object{{"Path": "/ready", "ListenerPort": port, "LocalPathPort": l.spare.port}}}})
	is("/ready", http.StatusOK)
	is("/health", http.StatusNotFound)
	l.defaults("spare", "http", nil)
	until(t, 2*callWithin, func() error {
		if _, err := callAt(loopback(port), "GET", "/ready", ""); err != nil {
			return nil
		}
		return errors.New("what isn't exposed any more answers")
	})
}

// The agent asks an application how it is through the application's proxy, as service-defaults say, or its registration.
func protectExposedChecks(t *testing.T, w *World) {
	m := w.mesh(t)
	m.protocol("shy", "http")
	app := newLabBackend(t, "shy")
	i := m.instance("shy", "shy", app.port)
	register := func(proxy object) {
		t.Helper()
		check := object{"HTTP": fmt.Sprintf("http://%s/how?deep=1", loopback(app.port)), "Interval": "1s"}
		m.put("/v1/agent/service/register", object{"ID": i.ID, "Name": i.Name, "Port": app.port, "Check": check, "Connect": object{"SidecarService": object{
			"Port": i.Public, "Proxy": proxy,
		}}})
	}
	through := func(by string) {
		t.Helper()
		port := m.exposedCheck(i)
		for path, want := range map[string]int{"/how": http.StatusOK, "/": http.StatusNotFound} {
			until(t, 2*callWithin, func() error { // the check may have passed before
				g, err := callAt(loopback(port), "GET", path, "")
				if err == nil {
					err = statusIs(want)(g)
				}
				if err != nil {
					err = fmt.Errorf("by %s: %s: %w", by, path, err)
				}
				return err
			})
		}
	}
	register(object{})
	m.put("/v1/config", object{"Kind": "service-defaults", "Name": m.name("shy"), "Protocol": "http", "Expose": object{"Checks": true}})
	through("service-defaults")
	m.protocol("shy", "http")
	until(t, effect+slack, func() error {
		got, err := m.checkOf(i)
		if err == nil && got.ExposedPort != 0 {
			err = fmt.Errorf("%+v, want it to ask the application again", got)
		}
		return err
	})
	register(object{"Expose": object{"Checks": true}})
	through("the registration")
}

type exposedCheck struct {
	Status, Output string
	ExposedPort    int
}

func (m *Mesh) checkOf(i *Instance) (exposedCheck, error) {
	var checks map[string]exposedCheck
	err := m.w.do(http.MethodGet, "/v1/agent/checks", nil, &checks)
	return checks["service:"+i.ID], err
}

// exposedCheck waits until an instance's check passes through its proxy, and gives the port that it asks.
func (m *Mesh) exposedCheck(i *Instance) (port int) {
	m.t.Helper()
	until(m.t, 20*callWithin, func() error {
		got, err := m.checkOf(i)
		if port = got.ExposedPort; err == nil && (got.Status != "passing" || port == 0) {
			err = fmt.Errorf("the check is %+v, want it to pass through the proxy", got)
		}
		return err
	})
	return port
}
