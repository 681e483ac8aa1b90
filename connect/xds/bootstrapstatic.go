// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// PrometheusListener is a listener that shows metrics and nothing else of the admin page.
type PrometheusListener struct {
	Address string // host:port; "" is no listener
	// ScrapePath is what is asked for, "" is /metrics.
	ScrapePath string
	// Backend is host:port of what has the metrics, at /stats/prometheus; "" is Envoy's admin page.
	Backend string
	// TLS is nil for plain text.
	TLS *ListenerTLS
}

// ListenerTLS is how a static listener proves who it is, and who may call it.
type ListenerTLS struct {
	CertFile, KeyFile string // which Envoy reads
	ClientCA          string // certificates in PEM of which a caller's must come
}

func endpoints(a object) []object {
	return []object{{"lb_endpoints": []object{{"endpoint": object{"address": a}}}}}
}

// adsTLS is TLS to a server whose certificate comes of ca and, unless it is "", is for a name.
func adsTLS(ca, name string) object {
	validation := object{"trusted_ca": object{"inline_string": ca}}
	tls := object{
		"@type":              "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
		"common_tls_context": object{"alpn_protocols": []string{"h2"}, "validation_context": validation},
	}
	if name != "" {
		tls["sni"] = name
		validation["match_typed_subject_alt_names"] = []object{{"san_type": "DNS", "matcher": object{"exact": name}}}
	}
	return object{"name": "tls", "typed_config": tls}
}

// staticResources are the cluster of ADS, and the listeners that Envoy has before it asks, with what they need.
func staticResources(c BootstrapConfig, ads, admin object) (object, error) {
	clusters, listeners := []object{ads}, []object{}
	cluster := func(name string, at object) {
		clusters = append(clusters, object{
			"name": name, "type": "STATIC", "connect_timeout": "1s",
			"load_assignment": object{"cluster_name": name, "endpoints": endpoints(at)},
		})
	}
	p := c.Prometheus
	if p.Address == "" && (p.ScrapePath != "" || p.Backend != "" || p.TLS != nil) {
		return nil, errors.New("metrics at a path, of a backend or over TLS need a listener: envoy_prometheus_bind_addr in the proxy's config")
	}
	if p.Address != "" && p.Backend == "" || c.ReadyAddress != "" || c.Keys.statsAddress != "" {
		cluster("own_admin", admin)
	}
	if p.Address != "" {
		from := "own_admin"
		if p.Backend != "" {
			at, err := address(p.Backend)
			if err != nil {
				return nil, fmt.Errorf("prometheus backend: %w", err)
			}
			from = "prometheus_backend"
			cluster(from, at)
		}
		path := cmp.Or(p.ScrapePath, "/metrics")
		if !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("prometheus scrape path %q: want one that begins with /", path)
		}
		l, err := adminListener("own_metrics", p.Address, path, from, "/stats/prometheus", p.TLS)
		if err != nil {
			return nil, fmt.Errorf("envoy_prometheus_bind_addr: %w", err)
		}
		listeners = append(listeners, l)
	}
	if c.ReadyAddress != "" {
		l, err := adminListener("envoy_ready", c.ReadyAddress, "/ready", "own_admin", "/ready", nil)
		if err != nil {
			return nil, fmt.Errorf("ready address: %w", err)
		}
		listeners = append(listeners, l)
	}
	if at := c.Keys.statsAddress; at != "" {
		l, err := adminListener("own_stats", at, "/stats", "own_admin", "/stats", nil)
		if err != nil {
			return nil, fmt.Errorf("envoy_stats_bind_addr: %w", err)
		}
		listeners = append(listeners, l)
	}
	static := object{"clusters": clusters}
	if len(listeners) > 0 {
		static["listeners"] = listeners
	}
	return static, nil
}

// adminListener answers one path by a cluster's, and all others with 404.
func adminListener(name, bind, path, cluster, behind string, tls *ListenerTLS) (object, error) {
	addr, err := address(bind)
	if err != nil {
		return nil, err
	}
	chain := object{"filters": []object{{
		"name": "envoy.filters.network.http_connection_manager",
		"typed_config": object{
			"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
			"stat_prefix": name, "codec_type": "HTTP1",
			"route_config": object{"name": name, "virtual_hosts": []object{{
				"name": name, "domains": []string{"*"},
				"routes": []object{
					{"match": object{"path": path}, "route": object{"cluster": cluster, "prefix_rewrite": behind}},
					{"match": object{"prefix": "/"}, "direct_response": object{"status": 404}},
				},
			}}},
			"http_filters": []object{{"name": "envoy.filters.http.router", "typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
			}}},
		},
	}}}
	if tls != nil {
		chain["transport_socket"] = object{"name": "tls", "typed_config": object{
			"@type":                      "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
			"require_client_certificate": true,
			"common_tls_context": object{
				"tls_certificates":   []object{{"certificate_chain": object{"filename": tls.CertFile}, "private_key": object{"filename": tls.KeyFile}}},
				"validation_context": object{"trusted_ca": object{"inline_string": tls.ClientCA}},
			},
		}}
	}
	return object{"name": name, "address": addr, "filter_chains": []object{chain}}, nil
}
