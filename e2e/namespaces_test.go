// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"testing"
)

var namespaceRows = []Row{
	{Name: "one name in two namespaces http", Run: func(t *testing.T, w *World) { twoNamespaces(t, w, "http") }},
	{Name: "one name in two namespaces tcp", Run: func(t *testing.T, w *World) { twoNamespaces(t, w, "tcp") }},
}

// namespace makes a namespace of the row, which is deleted once everything in it is gone.
func (m *Mesh) namespace(s string) string {
	m.t.Helper()
	ns := m.name(s)
	m.put("/v1/namespace", object{"Name": ns})
	m.t.Cleanup(func() {
		until(m.t, callWithin, func() error { return m.w.do(http.MethodDelete, "/v1/namespace/"+ns, nil, nil) })
	})
	return ns
}

// twoNamespaces: two services called api, in two namespaces, which web may call one of; web of the other namespace is another than web.
func twoNamespaces(t *testing.T, w *World, protocol string) {
	m := w.mesh(t)
	red := m.namespace("red")
	here := func(ns string) object { return object{"Namespace": ns} }
	backend := func(name string) *Backend {
		if protocol == "tcp" {
			return tcpBackend(t)
		}
		return httpBackend(t, name)
	}
	for _, ns := range []string{"default", red} {
		body := object{"Kind": "service-defaults", "Name": m.name("api"), "Namespace": ns, "Protocol": protocol}
		m.put("/v1/config", body)
		t.Cleanup(func() {
			if err := w.do(http.MethodDelete, "/v1/config/service-defaults/"+m.name("api")+"?ns="+ns, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	rule := func(action, src, dst string) {
		t.Helper()
		path := "/v1/connect/intentions/exact?source=" + src + "/" + m.name("web") + "&destination=" + dst + "/" + m.name("api")
		m.put(path, object{"Action": action})
		t.Cleanup(func() { _ = w.do(http.MethodDelete, path, nil, nil) }) // twice for one rule: the second finds nothing
	}
	rule("allow", "default", red)
	m.described("api", "api", backend("api of default").Port, nil)
	m.described("api", "api-red", backend("api of red").Port, here(red))
	callers := map[string]map[string]string{} // namespace of web → namespace of api → where
	for _, ns := range []string{"default", red} {
		callers[ns] = map[string]string{}
		var upstreams []object
		for _, of := range []string{"default", red} {
			p := mustPort(t)
			callers[ns][of] = loopback(p)
			upstreams = append(upstreams, object{"DestinationName": m.name("api"), "DestinationNamespace": of, "LocalBindPort": p})
		}
		m.described("web", "web-"+ns, mustPort(t), object{
			"Namespace": ns, "Connect": object{"SidecarService": object{"Port": mustPort(t), "Proxy": object{"Upstreams": upstreams}}},
		})
	}
	// may wants that only this web gets to only this api.
	may := func(src, dst, who string) {
		t.Helper()
		until(t, 3*callWithin, func() error {
			if err := call(protocol, callers[src][dst]); err != nil || protocol == "tcp" {
				return err
			}
			if g, err := callAt(callers[src][dst], "GET", "/", ""); err != nil || g.Body != who {
				return fmt.Errorf("%q answers, %w", g.Body, err)
			}
			return nil
		})
		for _, from := range []string{"default", red} {
			for _, to := range []string{"default", red} {
				if from == src && to == dst {
					continue
				}
				until(t, effect+slack, func() error {
					if err := isDenied(protocol, callers[from][to]); err != nil {
						return fmt.Errorf("web of %s at api of %s: %w", from, to, err)
					}
					return nil
				})
			}
		}
	}
	may("default", red, "api of red")
	rule("deny", "default", red)
	rule("allow", red, "default")
	may(red, "default", "api of default")
}
