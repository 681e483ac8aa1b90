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

// The agent asks an application how it is through the application's proxy.
func protectExposedChecks(t *testing.T, w *World) {
	m := w.mesh(t)
	m.protocol("shy", "http")
	app := newLabBackend(t, "shy")
	i := m.instance("shy", "shy", app.port)
	check := object{"HTTP": fmt.Sprintf("http://%s/how?deep=1", loopback(app.port)), "Interval": "1s"}
	m.put("/v1/agent/service/register", object{"ID": i.ID, "Name": i.Name, "Port": app.port, "Check": check, "Connect": object{"SidecarService": object{
		"Port": i.Public, "Proxy": object{"Expose": object{"Checks": true}},
	}}})
	var port int
	until(t, 20*callWithin, func() error {
		var checks map[string]struct {
			Status, Output string
			ExposedPort    int
		}
		if err := w.do(http.MethodGet, "/v1/agent/checks", nil, &checks); err != nil {
			return err
		}
		got := checks["service:"+i.ID]
		if port = got.ExposedPort; got.Status != "passing" || port == 0 {
			return fmt.Errorf("the check is %+v, want it to pass through the proxy", got)
		}
		return nil
	})
	for path, want := range map[string]int{"/how": http.StatusOK, "/": http.StatusNotFound} {
		g, err := callAt(loopback(port), "GET", path, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := statusIs(want)(g); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
