// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDatacenters: two datacenters with one trust. web in dc1 calls api; while nobody of dc1 is healthy dc2 answers, and an intention that
// is written through dc2 holds there too.
func TestDatacenters(t *testing.T) {
	enabled(t)
	w := newTown(t)
	// The one's proxies and the other's are on one host here, each on the address of its agent.
	dc := func(name string, more ...string) *resident {
		return w.agent(name, append([]string{
			"-server", "-bootstrap-expect", "1", "-retry-max", "0", "-datacenter", name, "-hcl", `primary_datacenter = "dc1"`, "-hcl", `default_intention_policy = "deny"`,
		}, more...)...)
	}
	one := dc("dc1")
	two := dc("dc2", "-retry-join-wan", w.net+"1")
	one.ready()
	root := func(r *resident) (id string) {
		until(t, 30*time.Second, func() error {
			var roots struct{ ActiveRootID string }
			out, err := r.do("GET", "/v1/connect/ca/roots", "")
			if err = errors.Join(err, json.Unmarshal([]byte(out), &roots)); err == nil && roots.ActiveRootID == "" {
				err = errors.New("no root yet")
			}
			id = roots.ActiveRootID
			return err
		})
		return id
	}
	if a, b := root(one), root(two); a != b {
		t.Fatalf("dc1 has the root %s, dc2 %s", a, b)
	}
	for _, kind := range []Kind{Builtin, Envoy} {
		t.Run(string(kind), func(t *testing.T) { overDatacenters(t, kind, one, two) })
	}
}

func overDatacenters(t *testing.T, kind Kind, one, two *resident) {
	must := func(r *resident, path, body string) {
		t.Helper()
		if _, err := r.do("PUT", path, body); err != nil {
			t.Fatal(err)
		}
	}
	api, web := "api-"+string(kind), "web-"+string(kind)
	must(two, "/v1/config", `{"Kind":"service-defaults","Name":"`+api+`","Protocol":"http"}`) // it is written in dc1
	must(one, "/v1/config", `{"Kind":"service-resolver","Name":"`+api+`","Failover":{"*":{"Datacenters":["dc2"]}}}`)
	intend := func(action string) {
		t.Helper()
		must(two, "/v1/connect/intentions/exact?source="+web+"&destination="+api, `{"Action":"`+action+`"}`)
	}
	intend("allow")
	for _, r := range []*resident{one, two} {
		sidecarOf(t, kind, r, api, httpBackend(t, r.name).Port, `,"Check":{"CheckID":"own-`+api+`","TTL":"10m","Status":"passing"}`, "")
	}
	port := mustPort(t)
	sidecarOf(t, kind, one, web, mustPort(t), "", fmt.Sprintf(`"Upstreams":[{"DestinationName":%q,"LocalBindAddress":%q,"LocalBindPort":%d}]`, api, one.ip, port))
	client, end := h1()
	defer end()
	answers := func(code int, want string) {
		t.Helper()
		took := until(t, 20*time.Second, func() error {
			resp, err := client.Get("http://" + net.JoinHostPort(one.ip, strconv.Itoa(port)) + "/")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body := make([]byte, 100)
			n, _ := resp.Body.Read(body) // what is missing shows
			if resp.StatusCode != code || !strings.Contains(string(body[:n]), want) {
				return fmt.Errorf("%s %q, want %d %q", resp.Status, body[:n], code, want)
			}
			return nil
		})
		t.Logf("%d %q after %s", code, want, took.Round(time.Millisecond))
	}
	answers(http.StatusOK, "dc1")
	must(one, "/v1/agent/check/fail/own-"+api, "")
	answers(http.StatusOK, "dc2")
	intend("deny")
	answers(http.StatusForbidden, "")
	must(one, "/v1/agent/check/pass/own-"+api, "")
	intend("allow")
	answers(http.StatusOK, "dc1")
}

// sidecarOf registers a service with a sidecar on a resident, and runs that.
func sidecarOf(t *testing.T, kind Kind, r *resident, service string, port int, more, proxy string) {
	t.Helper()
	body := fmt.Sprintf(`{"Name":%q,"Port":%d,"Connect":{"SidecarService":{"Port":%d,"Proxy":{%s}}}%s}`, service, port, mustPort(t), proxy, more)
	if _, err := r.do("PUT", "/v1/agent/service/register", body); err != nil {
		t.Fatal(err)
	}
	args := []string{"connect", "proxy"}
	if kind == Envoy {
		args = []string{"connect", "envoy", "-envoy-binary", envoy()}
	}
	args = append(args, "-http-addr", r.ip+":8500", "-sidecar-for", service, "-admin-bind", loopback(mustPort(t)))
	if kind == Envoy {
		args = append(args, "--", "--concurrency", "1", "-l", "warning")
	}
	log := filepath.Join(t.TempDir(), r.name+"-"+service+".log")
	p, err := start("sidecar of "+service+" in "+r.name, log, binary(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", p.name, tail(log, 15))
		}
	})
}
