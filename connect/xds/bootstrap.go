// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// EnvoyArgs are what Envoy is started with besides its configuration: a listener that changes closes its old connections
// at once, so that a denied TCP caller is cut well within a second; see the package comment.
var EnvoyArgs = []string{"--drain-time-s", "0", "--drain-strategy", "immediate"}

// BootstrapConfig is what Envoy has to know before it asks.
type BootstrapConfig struct {
	ProxyID, Service string
	// ADSAddress is host:port, or unix:/path.
	ADSAddress    string
	Secret, Token string
	AdminAddress  string // host:port
	// AdminAccessLogPath is where accesses to the admin page are logged.
	AdminAccessLogPath string
	// PrometheusBindAddress is host:port of a listener with Envoy's metrics, "" for none.
	PrometheusBindAddress string
}

type object = map[string]any

// Bootstrap is Envoy's bootstrap as JSON. It holds the proxy's secret: who can read it can be the proxy.
func Bootstrap(c BootstrapConfig) ([]byte, error) {
	ads, err := address(c.ADSAddress)
	if err != nil {
		return nil, fmt.Errorf("xDS address: %w", err)
	}
	admin, err := address(c.AdminAddress)
	if err != nil {
		return nil, fmt.Errorf("admin address: %w", err)
	}
	metadata := []object{{"key": "x-weft-proxy-secret", "value": c.Secret}}
	if c.Token != "" {
		metadata = append(metadata, object{"key": "x-consul-token", "value": c.Token})
	}
	endpoint := func(a object) []object {
		return []object{{"lb_endpoints": []object{{"endpoint": object{"address": a}}}}}
	}
	static := object{"clusters": []object{{
		"name": "local_agent", "type": "STATIC", "connect_timeout": "1s", "ignore_health_on_host_removal": false,
		"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
			"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": object{"http2_protocol_options": object{"connection_keepalive": object{"interval": "30s", "timeout": "10s"}}},
		}},
		"load_assignment": object{"cluster_name": "local_agent", "endpoints": endpoint(ads)},
	}}}
	if c.PrometheusBindAddress != "" {
		if err := prometheus(static, c.PrometheusBindAddress, admin, endpoint); err != nil {
			return nil, err
		}
	}
	source := object{"ads": object{}, "resource_api_version": "V3"}
	return json.MarshalIndent(object{
		"node": object{"id": c.ProxyID, "cluster": c.Service},
		"admin": object{"address": admin, "access_log": []object{{"name": "file", "typed_config": object{
			"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": orText(c.AdminAccessLogPath, "/dev/null"),
		}}}},
		"static_resources": static,
		"dynamic_resources": object{
			"lds_config": source, "cds_config": source,
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
				"grpc_services": object{"initial_metadata": metadata, "envoy_grpc": object{
					"cluster_name": "local_agent",
					// An agent on this host is asked often: a proxy that hears of new roots late can't be called by those that heard in
					// time. By default Envoy waits up to 30 s.
					"retry_policy": object{"retry_back_off": object{"base_interval": "0.050s", "max_interval": "0.500s"}},
				}},
			},
		},
		"stats_config": object{"stats_tags": statsTags(c.Service), "use_all_default_tags": true},
		"layered_runtime": object{"layers": []object{{"name": "base", "static_layer": object{
			"re2.max_program_size.error_level": 1048576,
		}}}},
	}, "", "  ")
}

func orText(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func address(a string) (object, error) {
	if path, ok := strings.CutPrefix(a, "unix:"); ok {
		return object{"pipe": object{"path": strings.TrimPrefix(path, "//")}}, nil
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q isn't one", port)
	}
	if net.ParseIP(host) == nil {
		return nil, fmt.Errorf("%q isn't an IP address", host)
	}
	return object{"socket_address": object{"address": host, "port_value": n}}, nil
}

// statsTags take the parts of a cluster's name, [subset.]service.namespace.datacenter.internal.trust-domain, out of the
// statistics' names into tags.
func statsTags(service string) []object {
	return []object{
		{"tag_name": "local_cluster", "fixed_value": service},
		{"tag_name": "consul.source.service", "fixed_value": service},
		{"tag_name": "consul.destination.service", "regex": `^cluster\.(?:[^.]+\.)?(([^.]+)\.)[^.]+\.[^.]+\.internal\.[^.]+\.consul\.`},
		{"tag_name": "consul.destination.datacenter", "regex": `^cluster\.(?:[^.]+\.)?[^.]+\.[^.]+\.(([^.]+)\.)internal\.[^.]+\.consul\.`},
		{"tag_name": "consul.upstream.service", "regex": `^(?:tcp|http)\.upstream\.(([^.]+)\.)`},
	}
}

// prometheus adds a listener that shows Envoy's own metrics and nothing else of its admin page.
func prometheus(static object, bind string, admin object, endpoint func(object) []object) error {
	addr, err := address(bind)
	if err != nil {
		return fmt.Errorf("envoy_prometheus_bind_addr: %w", err)
	}
	clusters, _ := static["clusters"].([]object)
	static["clusters"] = append(clusters, object{
		"name": "own_admin", "type": "STATIC", "connect_timeout": "1s",
		"load_assignment": object{"cluster_name": "own_admin", "endpoints": endpoint(admin)},
	})
	static["listeners"] = []object{{
		"name": "own_metrics", "address": addr,
		"filter_chains": []object{{"filters": []object{{
			"name": "envoy.filters.network.http_connection_manager",
			"typed_config": object{
				"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
				"stat_prefix": "own_metrics", "codec_type": "HTTP1",
				"route_config": object{"name": "own_metrics", "virtual_hosts": []object{{
					"name": "own_metrics", "domains": []string{"*"},
					"routes": []object{
						{"match": object{"path": "/metrics"}, "route": object{"cluster": "own_admin", "prefix_rewrite": "/stats/prometheus"}},
						{"match": object{"prefix": "/"}, "direct_response": object{"status": 404}},
					},
				}}},
				"http_filters": []object{{"name": "envoy.filters.http.router", "typed_config": object{
					"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
				}}},
			},
		}}}},
	}}
	return nil
}
