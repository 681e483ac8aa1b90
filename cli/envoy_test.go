// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

const aCertificate = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"

// Each flag of connect envoy shows in the bootstrap, or is refused with the reason.
func TestEnvoyFlags(t *testing.T) {
	const plain, scraped = `{"ProxyID":"p","Service":"web","ADSAddress":"127.0.0.1:8502","Secret":"s"}`,
		`{"ProxyID":"p","Service":"web","ADSAddress":"127.0.0.1:8502","Secret":"s","Config":{"envoy_prometheus_bind_addr":"127.0.0.1:9102"}}`
	pem, key := write(t, "ca.pem", aCertificate), write(t, "key.pem", "k")
	defaults := map[string]string{"GET /v1/config/proxy-defaults/global": `{"Config":{"envoy_prometheus_bind_addr":"127.0.0.1:9100"}}`}
	tls := " -prometheus-ca-file " + pem + " -prometheus-cert-file " + pem + " -prometheus-key-file " + key
	for _, c := range []struct {
		name, proxy, args string
		answers           map[string]string
		code              int
		has, hasnt        string // in the bootstrap, without spaces
		err               string
	}{
		{name: "plain", proxy: plain, has: `"tag_name":"consul.service"`, hasnt: `"listeners"`},
		{name: "without deprecated tags", proxy: plain, args: "-omit-deprecated-tags", has: `"tag_name":"consul.destination.service"`, hasnt: `"tag_name":"consul.service"`},
		{name: "central config", proxy: plain, answers: defaults, has: `"port_value":9100`},
		{name: "no central config", proxy: plain, answers: defaults, args: "-no-central-config", hasnt: `"port_value":9100`},
		{name: "own config over central", proxy: scraped, answers: defaults, has: `"port_value":9102`, hasnt: `"port_value":9100`},
		{name: "central config that may not be read", proxy: plain, answers: map[string]string{"GET /v1/config/proxy-defaults/global": "!403 Permission denied"}, err: "Warning: proxy-defaults can't be read", has: `"id":"p"`},
		{name: "central config while no server is there", proxy: plain, answers: map[string]string{"GET /v1/config/proxy-defaults/global": "!503 no server can be reached"}, err: "Warning: proxy-defaults can't be read now", has: `"id":"p"`},
		{name: "metrics", proxy: scraped, args: "-prometheus-scrape-path /m", has: `"path":"/m"`, hasnt: `"path":"/metrics"`},
		{name: "metrics of a backend", proxy: scraped, args: "-prometheus-backend-port 20100", has: `"cluster":"prometheus_backend","prefix_rewrite":"/stats/prometheus"`, hasnt: "own_admin"},
		{name: "a backend's odd port", proxy: scraped, args: "-prometheus-backend-port x", code: 1, err: "prometheus backend"},
		{name: "an odd path", proxy: scraped, args: "-prometheus-scrape-path m", code: 1, err: "begins with /"},
		{name: "a path without a listener", proxy: plain, args: "-prometheus-scrape-path /m", code: 1, err: "envoy_prometheus_bind_addr"},
		{name: "metrics over TLS", proxy: scraped, args: strings.TrimSpace(tls), has: `"require_client_certificate":true`},
		{name: "metrics over TLS by half", proxy: scraped, args: "-prometheus-cert-file " + pem, code: 1, err: "-prometheus-key-file"},
		{name: "readiness", proxy: plain, args: "-envoy-ready-bind-address 127.0.0.1 -envoy-ready-bind-port 21101", has: `"name":"envoy_ready"`},
		{name: "readiness by half", proxy: plain, args: "-envoy-ready-bind-port 21101", code: 1, err: "give both"},
		{name: "xDS over TLS", proxy: plain, args: "-grpc-addr https://127.0.0.1:8503 -grpc-ca-file " + pem, has: `"inline_string":"-----BEGINCERTIFICATE-----\nMA==`},
		{name: "xDS over TLS by a name", proxy: plain, args: "-grpc-ca-path " + filepath.Dir(pem) + " -tls-server-name agent.dc1.consul", has: `"sni":"agent.dc1.consul"`},
		{name: "xDS over TLS of anybody", proxy: plain, args: "-grpc-addr https://127.0.0.1:8503", code: 1, err: "-grpc-ca-file or -grpc-ca-path"},
		{name: "xDS over TLS by what is no certificate", proxy: plain, args: "-grpc-ca-file " + key, code: 1, err: "no certificate in PEM"},
		{name: "the own node", proxy: plain, answers: map[string]string{"GET /v1/agent/self": `{"Config":{"NodeName":"n1"}}`}, args: "-node-name n1", has: `"id":"p"`},
		{name: "another node", proxy: plain, answers: map[string]string{"GET /v1/agent/self": `{"Config":{"NodeName":"n1"}}`}, args: "-node-name n2", code: 1, err: `this agent's node is "n1"`},
		{name: "a version", proxy: plain, args: "-envoy-version 1.40.1", has: `"id":"p"`},
		{name: "an old version", proxy: plain, args: "-envoy-version 1.20.0", code: 1, err: "weft is tested with"},
		{name: "an old version on purpose", proxy: plain, args: "-envoy-version 1.20.0 -ignore-envoy-compatibility", has: `"id":"p"`},
		{name: "no version", proxy: plain, args: "-envoy-version new", code: 1, err: "want a version"},
		{name: "with notes", proxy: plain, args: "-enable-config-gen-logging", has: `"id":"p"`, err: "bootstrap: proxy p of service web, xDS at 127.0.0.1:8502"},
		{name: "a gateway", proxy: plain, args: "-gateway mesh", code: 1, err: "-gateway is about gateways, and weft renders none yet"},
		{name: "registering a gateway", proxy: plain, args: "-register -service gw", code: 1, err: "-register is about gateways"},
		{name: "a gateway's address", proxy: plain, args: "-bind-address wan=192.0.2.1:443", code: 1, err: "-bind-address is about gateways"},
	} {
		answers := map[string]string{"GET /v1/agent/connect/proxy/p": c.proxy}
		for k, v := range c.answers {
			answers[k] = v
		}
		args := append([]string{"connect", "envoy", "-proxy-id", "p", "-bootstrap"}, strings.Fields(c.args)...)
		r := weft(t, &fake{answers: answers}, "", nil, args...)
		flat := strings.Join(strings.Fields(r.out), "")
		if r.code != c.code || !strings.Contains(flat, c.has) || (c.hasnt != "" && strings.Contains(flat, c.hasnt)) || !strings.Contains(r.errout, c.err) {
			t.Errorf("%s: %d, want %d, %q and not %q, %q\n%s\n%s", c.name, r.code, c.code, c.has, c.hasnt, c.err, r.out, r.errout)
		}
		if c.code == 0 && !json.Valid([]byte(r.out)) {
			t.Errorf("%s: not JSON:\n%s", c.name, r.out)
		}
	}
	r := weft(t, &fake{answers: map[string]string{"GET /v1/agent/connect/proxy/p": plain}}, "",
		map[string]string{"CONSUL_GRPC_ADDR": "https://127.0.0.9:8503", "CONSUL_GRPC_CACERT": pem}, "connect", "envoy", "-proxy-id", "p", "-bootstrap")
	if r.code != 0 || !strings.Contains(r.out, "127.0.0.9") || !strings.Contains(r.out, "UpstreamTlsContext") {
		t.Errorf("by the environment: %d\n%s%s", r.code, r.out, r.errout)
	}
}
