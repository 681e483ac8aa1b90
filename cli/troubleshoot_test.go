// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/http/httptest"
	"strings"
	"testing"
)

const (
	envoyPage = `{"cluster_statuses":[
		{"name":"local_app","host_statuses":[]},
		{"name":"v2.api.default.dc1.internal.td.consul","host_statuses":[{"health_status":{"eds_health_status":"HEALTHY"}},{"health_status":{"eds_health_status":"UNHEALTHY"}}]},
		{"name":"db.default.dc1.internal.td.consul","host_statuses":[{"health_status":{"eds_health_status":"HEALTHY","failed_outlier_check":true}}]}]}`
	ownPage = `{"web-sidecar-proxy":{"Clusters":[{"Name":"api.default.dc1.internal.td.consul","Endpoints":[{"Healthy":true},{"Healthy":true,"Draining":true}]}]}}`
)

// What a proxy's own admin page says of its upstreams, Envoy's and weft's.
func TestTroubleshootAdmin(t *testing.T) {
	agent := map[string]string{
		"GET /v1/agent/connect/proxies": `[{"ProxyID":"p","Service":"web","Connected":true}]`, "GET /v1/agent/connect/certificates": `[]`,
		"GET /v1/catalog/services":    `{"api":[],"db":[]}`,
		"GET /v1/catalog/connect/api": `[{"Address":"10.0.0.1","ServiceTaggedAddresses":{"consul-virtual":{"Address":"240.0.0.1"}}}]`,
		"GET /v1/catalog/connect/db":  `[{"Address":"10.0.0.1","ServiceAddress":"10.0.0.9"}]`,
	}
	envoy := httptest.NewServer(&fake{answers: map[string]string{"GET /ready": "LIVE", "GET /clusters": envoyPage}})
	defer envoy.Close()
	own := httptest.NewServer(&fake{answers: map[string]string{"GET /ready": "ready", "GET /config": ownPage}})
	defer own.Close()
	for _, c := range []struct {
		admin, args string
		code        int
		out, err    string
	}{
		{envoy.URL, "proxy -upstream-envoy-id api", 0, "==> ✓ upstream api: 1 of 2 instances can be called (v2.api.", ""},
		{envoy.URL, "proxy -upstream-envoy-id db.default.dc1.internal.td.consul", 1, "==> ! upstream db.default.dc1.internal.td.consul: 0 of 1", ""},
		{envoy.URL, "proxy -upstream-envoy-id v2", 1, "==> ! the proxy has no upstream v2", ""},
		{envoy.URL, "proxy -upstream-ip 240.0.0.1", 0, "upstream api: 1 of 2", ""},
		{envoy.URL, "proxy -upstream-ip 10.0.0.9", 1, "upstream db: 0 of 1", ""},
		{envoy.URL, "proxy -upstream-ip 10.0.0.7", 1, "", "no service of the mesh has the address 10.0.0.7"},
		{envoy.URL, "proxy -upstream-ip odd", 1, "", "isn't an IP address"},
		{own.URL, "proxy -upstream-envoy-id api", 0, "==> ✓ upstream api: 1 of 2 instances", ""},
		{own.URL, "upstreams", 0, "api       api.default.dc1.internal.td.consul  2          1\n", ""},
		{envoy.URL, "upstreams", 1, "api       v2.api.default.dc1.internal.td.consul  2          1\n", "no healthy instance"},
		{envoy.URL, "upstreams -proxy-id p", 1, "", "leave -proxy-id out"},
		{"http://127.0.0.1:1", "upstreams", 1, "", "was it started with -admin-bind?"},
	} {
		args := append([]string{"troubleshoot"}, strings.Fields(c.args)...)
		r := weft(t, &fake{answers: agent}, "", nil, append(args, "-envoy-admin-endpoint", strings.TrimPrefix(c.admin, "http://"))...)
		if r.code != c.code || !strings.Contains(r.out, c.out) || !strings.Contains(r.errout, c.err) {
			t.Errorf("%s: %d, want %d, %q, %q\n%s%s", c.args, r.code, c.code, c.out, c.err, r.out, r.errout)
		}
	}
}
