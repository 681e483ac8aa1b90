// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
)

// A bootstrap with everything is one, by Envoy's own message and rules.
func TestBootstrapIsEnvoys(t *testing.T) {
	keys, err := xds.KeysOf(catalog.Opaque{
		"envoy_extra_static_clusters_json":  `{"name": "zipkin", "connect_timeout": "1s"}, {"name": "collector", "connect_timeout": "1s"}`,
		"envoy_extra_static_listeners_json": `{"name": "more", "address": {"pipe": {"path": "/x"}}}`,
		"envoy_extra_stats_sinks_json":      `{"name": "other"}`, "envoy_stats_flush_interval": "2500ms", "envoy_stats_bind_addr": "127.0.0.1:9103",
		"envoy_stats_tags": []any{"team=shop"}, "envoy_statsd_url": "udp://${HOST_IP}:9125", "envoy_dogstatsd_url": "unix:///var/run/dog.sock",
		"envoy_tracing_json": `{"http": {"name": "envoy.tracers.zipkin"}}`,
	}, func(name string) string { return map[string]string{"HOST_IP": "10.0.0.9"}[name] })
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]xds.BootstrapConfig{
		"least": {},
		"all": {
			Keys: keys, Token: "t", ADSCA: "-----BEGIN CERTIFICATE-----", ADSName: "agent.dc1.consul", ReadyAddress: "127.0.0.1:21101", OmitDeprecatedTags: true,
			Prometheus: xds.PrometheusListener{Address: "127.0.0.1:9102", ScrapePath: "/m", Backend: "127.0.0.1:20100", TLS: &xds.ListenerTLS{CertFile: "/c", KeyFile: "/k", ClientCA: "x"}},
		},
	} {
		c.ProxyID, c.Service, c.ADSAddress, c.AdminAddress, c.Secret = "p", "web", "127.0.0.1:8502", "127.0.0.1:19000", "s"
		data, err := xds.Bootstrap(c)
		if err != nil {
			t.Fatal(err)
		}
		var b bootstrapv3.Bootstrap
		if err := protojson.Unmarshal(data, &b); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, data)
		}
		if err := b.ValidateAll(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := len(b.GetStaticResources().GetListeners()); (name == "all") != (got == 4) {
			t.Errorf("%s: %d listeners", name, got)
		}
		if name != "all" {
			continue
		}
		for _, want := range []string{
			`"name": "zipkin"`, `"name": "collector"`, `"fixed_value": "shop"`, `"address": "10.0.0.9"`, `"port_value": 9125`, `"path": "/var/run/dog.sock"`,
			`"stats_flush_interval": "2.500s"`, `"envoy.tracers.zipkin"`, `"path": "/stats"`,
		} {
			if !strings.Contains(string(data), want) {
				t.Errorf("no %s in the bootstrap\n%s", want, data)
			}
		}
	}
}

func TestBootstrapKeysRefused(t *testing.T) {
	for key, value := range map[string]any{
		"envoy_bootstrap_json_tpl": "{}", "envoy_extra_static_clusters_json": "{", "envoy_tracing_json": 7, "envoy_stats_flush_interval": "-1s",
		"envoy_stats_bind_addr": "localhost", "envoy_statsd_url": "unix:///x", "envoy_dogstatsd_url": "$UNSET", "envoy_stats_tags": []any{"=x"}, "envoy_stats_config_json": "[]",
	} {
		if _, err := xds.KeysOf(catalog.Opaque{key: value}, func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s = %v: %v", key, value, err)
		}
	}
}
