// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/catalog"
)

func readsUpstreams(t *catalog.Txn, proxy *catalog.Service) error {
	for _, u := range proxy.Proxy.Upstreams {
		if _, err := t.ConnectInstances(proxy.Scope.Name(u.DestinationName)); err != nil {
			return err
		}
	}
	return nil
}

type running struct {
	*Server
	t    *testing.T
	stop func() error
}

// start runs a server until the test ends or stop is called, and waits until it leads.
func start(t *testing.T, dir string) *running {
	t.Helper()
	return startWith(t, Config{DataDir: dir})
}

func startWith(t *testing.T, c Config) *running {
	t.Helper()
	c.NodeName, c.Closure = "s1", readsUpstreams
	if c.Datacenter == "" {
		c.Datacenter = "dc1"
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once bool
	r := &running{Server: s, t: t, stop: func() error {
		if once {
			return nil
		}
		once = true
		cancel()
		return <-done
	}}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatalf("Run: %v", err)
	}
	return r
}

// do makes a request, and checks the answer's status and body (a part of it).
func (r *running) do(method, path, body string, status int, want string) http.Header {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	if w.Code != status || !strings.Contains(w.Body.String(), want) {
		r.t.Errorf("%s %s: %d %s\nwant %d with %s", method, path, w.Code, w.Body, status, want)
	}
	return w.Header()
}

const web = `{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"web1","Service":"web","Port":80,"Tags":["a"]},
	"Checks":[{"Name":"alive","Status":"passing","ServiceID":"web1","ServiceName":"web"}]}`

func TestRoutes(t *testing.T) {
	r := start(t, "")
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/status/leader", "", 200, `"127.0.0.1:8300"`},
		{"GET", "/v1/status/peers", "", 200, `["127.0.0.1:8300"]`},
		{"GET", "/v1/catalog/datacenters", "", 200, `["dc1"]`},
		{"PUT", "/v1/catalog/register", `{"Address":"1.1.1.1"}`, 500, `Must provide node`},
		{"PUT", "/v1/catalog/register", `{"Node":"n1"}`, 500, `Must provide address if SkipNodeUpdate is not set`},
		{"PUT", "/v1/catalog/register", `{"Node":"n1","Adress":"1"}`, 400, `Request decode failed: `},
		{"PUT", "/v1/catalog/register", `{`, 400, `Request decode failed: `},
		{"PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"Service":"web","Port":70000}}`, 400, `Port is 70000`},
		{"PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Check":{"Name":"c","Status":"fine"}}`, 400, `want passing`},
		{"PUT", "/v1/catalog/register", web, 200, `true`},
		{"PUT", "/v1/catalog/register", `{"node":"n2","address":"10.0.0.2","service":{"service":"api","port":81,"connect":{"native":true}}}`, 200, `true`},
		{"GET", "/v1/catalog/nodes", "", 200, `"Address":"10.0.0.1"`},
		{"GET", "/v1/catalog/nodes?filter=Node==n2", "", 200, `[{"ID":"","Node":"n2"`},
		{"GET", "/v1/catalog/nodes?filter=Nope==n2", "", 500, ``},
		{"GET", "/v1/catalog/services", "", 200, `"web":["a"]`},
		{"GET", "/v1/catalog/service/web?tag=A", "", 200, `"ServiceID":"web1"`},
		{"GET", "/v1/catalog/service/web?tag=b", "", 200, `[]`},
		{"GET", "/v1/catalog/connect/api", "", 200, `"ServiceID":"api"`},
		{"GET", "/v1/catalog/node/n1", "", 200, `"Services":{"web1":`},
		{"GET", "/v1/catalog/node/none", "", 200, `null`},
		{"GET", "/v1/catalog/node-services/n1", "", 200, `"Services":[{"ID":"web1"`},
		{"GET", "/v1/health/node/n1", "", 200, `"CheckID":"alive"`},
		{"GET", "/v1/health/checks/web", "", 200, `"CheckID":"alive"`},
		{"GET", "/v1/health/service/web?passing", "", 200, `"Port":80`},
		{"GET", "/v1/health/service/web?passing=x", "", 400, `Invalid value for ?passing`},
		{"GET", "/v1/health/connect/api", "", 200, `"Service":"api"`},
		{"GET", "/v1/health/state/any", "", 200, `"CheckID":"alive"`},
		{"GET", "/v1/health/state/odd", "", 400, `Invalid state`},
		{"GET", "/v1/health/service/web?stale&consistent", "", 400, `Cannot specify ?stale with ?consistent, conflicting semantics.`},
		{"GET", "/v1/health/service/web?index=x", "", 400, `Invalid index`},
		{"GET", "/v1/health/service/web?wait=x", "", 400, `Invalid wait time`},
		{"GET", "/v1/health/service/web?dc=other", "", 500, `No path to datacenter`},

		{"PUT", "/v1/config", `{"Name":"web"}`, 400, `Request decoding failed: `},
		{"PUT", "/v1/config", `{"Kind":"odd","Name":"web"}`, 400, `invalid config entry kind: odd`},
		{"PUT", "/v1/config", `{"Kind":"service-defaults","Name":"api","Protokoll":"http"}`, 400, `Request decoding failed: `},
		{"PUT", "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"odd"}`, 500, `odd`},
		{"PUT", "/v1/config", `{"Kind":"service-router","Name":"api"}`, 500, `does not permit advanced routing`},
		{"PUT", "/v1/config", `{"kind":"service-defaults","name":"api","protocol":"http"}`, 200, `true`},
		{"PUT", "/v1/config", `{"Kind":"service-router","Name":"api"}`, 200, `true`},
		{"PUT", "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"tcp"}`, 500, `does not permit advanced routing`},
		{"DELETE", "/v1/config/service-defaults/api", "", 500, `does not permit advanced routing`},
		{"PUT", "/v1/config?cas=1", `{"Kind":"service-defaults","Name":"api","Protocol":"grpc"}`, 200, `false`},
		{"GET", "/v1/config/service-defaults", "", 200, `"Kind":"service-defaults"`},
		{"GET", "/v1/config/service-defaults/api", "", 200, `"Protocol":"http"`},
		{"GET", "/v1/config/service-defaults/none", "", 404, `Config entry not found for "service-defaults" / "none"`},
		{"DELETE", "/v1/config/service-router/api", "", 200, `{}`},
		{"DELETE", "/v1/config/service-router/api?cas=7", "", 200, `false`},
		{"GET", "/v1/discovery-chain/api", "", 200, `"Protocol":"http"`},

		{"PUT", "/v1/connect/intentions/exact?source=web&destination=api", `{"Action":"deny"}`, 200, `true`},
		{"PUT", "/v1/connect/intentions/exact?source=web", `{"Action":"deny"}`, 500, `required query parameter 'destination' not set`},
		{"PUT", "/v1/connect/intentions/exact?source=web&destination=api", `{"Action":"maybe"}`, 400, `maybe`},
		{"GET", "/v1/connect/intentions/exact?source=web&destination=api", "", 200, `"Precedence":9`},
		{"GET", "/v1/connect/intentions/exact?source=x&destination=api", "", 404, `Intention not found`},
		{"GET", "/v1/connect/intentions", "", 200, `"SourceName":"web"`},
		{"GET", "/v1/connect/intentions/match?by=destination&name=api", "", 200, `{"api":[{`},
		{"GET", "/v1/connect/intentions/match?by=x&name=api", "", 500, `'by' parameter`},
		{"GET", "/v1/connect/intentions/check?source=web&destination=api", "", 200, `{"Allowed":false}`},
		{"GET", "/v1/connect/intentions/check?source=web&destination=db", "", 200, `{"Allowed":false}`},
		{"DELETE", "/v1/connect/intentions/exact?source=web&destination=api", "", 200, `true`},
		{"POST", "/v1/connect/intentions", `{"SourceName":"web","DestinationName":"db","Action":"allow"}`, 200, `{"ID":"`},
		{"POST", "/v1/connect/intentions", `{"SourceName":"web","DestinationName":"db","Action":"allow"}`, 500, `duplicate intention`},
		{"GET", "/v1/connect/intentions/check?source=web&destination=db", "", 200, `{"Allowed":true}`},
		{"GET", "/v1/connect/intentions/0f", "", 404, `Intention not found`},

		{"GET", "/v1/connect/ca/roots", "", 200, `"TrustDomain":"`},
		{"GET", "/v1/connect/ca/roots?pem=true", "", 200, `-----BEGIN CERTIFICATE-----`},
		{"GET", "/v1/connect/ca/configuration", "", 200, `"LeafCertTTL":"72h0m0s"`},
		{"PUT", "/v1/connect/ca/configuration", `{"Provider":"vault"}`, 400, `vault`},
		{"PUT", "/v1/connect/ca/configuration", `{"Config":{"LeafCertTTL":"1s"}}`, 400, `LeafCertTTL`},
		{"PUT", "/v1/connect/ca/configuration", `{"Config":{"PrivateKeyBits":384}}`, 200, ``},
		{"GET", "/v1/weft/proxies", "", 200, `[]`},

		{"PUT", "/v1/catalog/deregister", `{}`, 500, `Must provide node`},
		{"PUT", "/v1/catalog/deregister", `{"Node":"n1","ServiceID":"web1"}`, 200, `true`},
		{"GET", "/v1/health/service/web", "", 200, `[]`},
		{"GET", "/v1/health/service/", "", 400, `Missing service name`},
		{"GET", "/v1/catalog/node/", "", 400, `Missing node name`},
		{"GET", "/v1/health/state/", "", 400, `Missing check state`},
		{"PUT", "/v1/session/renew/", "", 400, `Missing session`},
		{"GET", "/v1/health/service/a/b", "", 200, `[]`},
		{"GET", "/v1/none", "", 404, `Invalid URL path: not a recognized HTTP API endpoint`},
		{"POST", "/v1/config", "", 405, `method POST not allowed`},
		{"PUT", "/v1/catalog/register", `{"Node":"` + strings.Repeat("n", 9<<20) + `"}`, 413, ``},
	} {
		h := r.do(c.method, c.path, c.body, c.status, c.want)
		if c.status == 405 && h.Get("Allow") == "" {
			t.Errorf("%s: no Allow header", c.path)
		}
		if h.Get("X-Consul-Index") == "0" {
			t.Errorf("%s: index 0", c.path)
		}
	}
	h := r.do("GET", "/v1/health/service/web", "", 200, "")
	for name, want := range map[string]string{
		"X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0", "X-Consul-Effective-Consistency": "leader",
		"X-Consul-Default-ACL-Policy": "allow", "Content-Type": "application/json",
	} {
		if h.Get(name) != want {
			t.Errorf("%s = %q, want %q", name, h.Get(name), want)
		}
	}
}

// A rotation gives a second root, which is the active one, and both stay trusted.
func TestRotation(t *testing.T) {
	r := start(t, "")
	before, _ := r.store.Read().CA()
	r.do("PUT", "/v1/connect/ca/configuration", `{"Config":{"Rotate":true}}`, 200, "")
	after, _ := r.store.Read().CA()
	if len(after.Roots) != 2 || after.ActiveRootID == before.ActiveRootID {
		t.Errorf("%d roots, active %s, was %s", len(after.Roots), after.ActiveRootID, before.ActiveRootID)
	}
}

// The clock that is handed in dates certificates and what is written.
func TestClockIsHandedIn(t *testing.T) {
	at := time.Date(2041, 5, 6, 7, 8, 9, 0, time.UTC)
	r := startWith(t, Config{Now: func() time.Time { return at }})
	r.do("GET", "/v1/connect/ca/roots", "", 200, `"NotBefore":"2041-05-06T`)
	r.do("POST", "/v1/connect/intentions", `{"SourceName":"web","DestinationName":"db","Action":"allow"}`, 200, `{"ID":"`)
	r.do("GET", "/v1/connect/intentions", "", 200, `"CreatedAt":"2041-05-06T07:08:09Z"`)
}

func TestBlocking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, "")
		r.do("PUT", "/v1/catalog/register", web, 200, "true")
		index := r.do("GET", "/v1/health/service/web", "", 200, "").Get("X-Consul-Index")
		began, woken := time.Now(), make(chan time.Duration, 1)
		go func() {
			r.do("GET", "/v1/health/service/web?wait=60s&index="+index, "", 200, `"critical"`)
			woken <- time.Since(began)
		}()
		time.Sleep(5 * time.Second)
		r.do("PUT", "/v1/catalog/register", `{"Node":"n2","Address":"10.0.0.2","Service":{"Service":"other"}}`, 200, "true")
		synctest.Wait()
		select {
		case d := <-woken:
			t.Fatalf("another service's change woke it after %v", d)
		default:
		}
		time.Sleep(5 * time.Second)
		r.do("PUT", "/v1/catalog/register", strings.Replace(web, "passing", "critical", 1), 200, "true")
		if d := <-woken; d > 11*time.Second {
			t.Errorf("woken after %v", d)
		}

		// Nothing happens: the answer comes when the wait is over, with the same index.
		index = r.do("GET", "/v1/health/service/web", "", 200, "").Get("X-Consul-Index")
		began = time.Now()
		h := r.do("GET", "/v1/health/service/web?wait=16s&index="+index, "", 200, `"critical"`)
		if d := time.Since(began); d < 16*time.Second || d > 17*time.Second || h.Get("X-Consul-Index") != index {
			t.Errorf("after %v index %s, want %s", d, h.Get("X-Consul-Index"), index)
		}
		// An index of another history doesn't block.
		began = time.Now()
		r.do("GET", "/v1/health/service/web?wait=60s&index=99999", "", 200, `"critical"`)
		if d := time.Since(began); d > time.Second {
			t.Errorf("an index that was never reached blocked for %v", d)
		}
		// What isn't there can be waited for.
		index = r.do("GET", "/v1/config/service-defaults/web", "", 404, "").Get("X-Consul-Index")
		go func() {
			time.Sleep(2 * time.Second)
			r.do("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, 200, "true")
		}()
		r.do("GET", "/v1/config/service-defaults/web?wait=60s&index="+index, "", 200, `"Protocol":"http"`)
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestRestartKeepsData(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	r.do("PUT", "/v1/catalog/register", web, 200, "true")
	if err := r.raft.Load().Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	r.do("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, 200, "true")
	ca, _ := r.store.Read().CA()
	digest := string(r.store.Digest())
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	r = start(t, dir)
	r.do("GET", "/v1/health/service/web", "", 200, `"Port":80`)
	r.do("GET", "/v1/config/service-defaults/web", "", 200, `"Protocol":"http"`)
	again, _ := r.store.Read().CA()
	if again.ActiveRootID != ca.ActiveRootID || string(r.store.Digest()) != digest {
		t.Error("the restarted server's tables differ")
	}
	r.do("PUT", "/v1/connect/ca/configuration", `{"Config":{"Rotate":true}}`, 200, "")
}

func TestNewerDataDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "server"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server", "VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{DataDir: dir, Datacenter: "dc1", NodeName: "s1", Closure: readsUpstreams})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("Run: %v", err)
	}
}

func TestWithoutLeader(t *testing.T) {
	s, err := New(Config{Datacenter: "dc1", NodeName: "s1", Closure: readsUpstreams})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, t: t}
	r.do("PUT", "/v1/catalog/register", web, 500, "No cluster leader")
	r.do("GET", "/v1/status/leader", "", 200, `""`)
}
