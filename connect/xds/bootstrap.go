// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
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
	Namespace        string // of the service; "" is the default one
	// ADSAddress is host:port, or unix:/path.
	ADSAddress    string
	Secret, Token string
	// FromEnvironment says that these are the names of environment variables, from where Envoy takes them: its admin port shows what stands in the
	// bootstrap.
	FromEnvironment bool
	AdminAddress    string // host:port
	// AdminAccessLogPath is where accesses to the admin page are logged.
	AdminAccessLogPath string
	// ADSCA are the certificates, in PEM, of which that of ADSAddress must come; "" is plain text. ADSName is the name that it must
	// be for, "" any.
	ADSCA, ADSName string
	// Prometheus is a listener with metrics, ReadyAddress host:port of one that answers GET /ready; "" for none.
	Prometheus   PrometheusListener
	ReadyAddress string
	// OmitDeprecatedTags leaves out the statistics' tags by their names before Consul 1.9.
	OmitDeprecatedTags bool
	// Keys are what the proxy's config adds.
	Keys Keys
}

type object = map[string]any

// addHeaders adds headers, whose values are the names of environment variables, to what is sent to a cluster. What a gRPC service says itself of
// its headers, Envoy takes as it stands.
func addHeaders(headers []object) []object {
	var mutations []object
	for _, h := range headers {
		mutations = append(mutations, object{"append": object{
			"header": object{"key": h["key"], "value": fmt.Sprintf("%%ENVIRONMENT(%s)%%", h["value"])}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
		}})
	}
	return []object{
		{"name": "envoy.filters.http.header_mutation", "typed_config": object{
			"@type":     "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
			"mutations": object{"request_mutations": mutations},
		}},
		{"name": "envoy.filters.http.upstream_codec", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}},
	}
}

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
	speaks := object{
		"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
		"explicit_http_config": object{"http2_protocol_options": object{"connection_keepalive": object{"interval": "30s", "timeout": "10s"}}},
	}
	if c.FromEnvironment {
		speaks["http_filters"], metadata = addHeaders(metadata), []object{}
	}
	local := object{
		"name": "local_agent", "type": "STATIC", "connect_timeout": "1s", "ignore_health_on_host_removal": false,
		"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": speaks},
		"load_assignment":                  object{"cluster_name": "local_agent", "endpoints": endpoints(ads)},
	}
	if c.ADSCA != "" {
		local["transport_socket"] = adsTLS(c.ADSCA, c.ADSName)
	}
	static, err := staticResources(c, local, admin)
	if err != nil {
		return nil, err
	}
	source := object{"ads": object{}, "resource_api_version": "V3"}
	bootstrap := object{
		"node": object{"id": c.ProxyID, "cluster": c.Service},
		"admin": object{"address": admin, "access_log": []object{{"name": "file", "typed_config": object{
			"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": cmp.Or(c.AdminAccessLogPath, "/dev/null"),
		}}}},
		"static_resources": static,
		"dynamic_resources": object{
			"lds_config": source, "cds_config": source,
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
				"grpc_services": []object{{"initial_metadata": metadata, "envoy_grpc": object{
					"cluster_name": "local_agent",
					// An agent on this host is asked often: a proxy that hears of new roots late can't be called by those that heard in
					// time. By default Envoy waits up to 30 s.
					"retry_policy": object{"retry_back_off": object{"base_interval": "0.050s", "max_interval": "0.500s"}},
				}}},
			},
		},
		"stats_config": object{"stats_tags": statsTags(c.Service, c.Namespace, c.OmitDeprecatedTags), "use_all_default_tags": true},
		"layered_runtime": object{"layers": []object{{"name": "base", "static_layer": object{
			"re2.max_program_size.error_level": 1048576,
		}}}},
	}
	c.Keys.over(bootstrap)
	return json.MarshalIndent(bootstrap, "", "  ")
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
func statsTags(service, namespace string, omitDeprecated bool) []object {
	const (
		destination = `^cluster\.(?:[^.]+\.)?(([^.]+)\.)[^.]+\.[^.]+\.internal\.[^.]+\.consul\.`
		datacenter  = `^cluster\.(?:[^.]+\.)?[^.]+\.[^.]+\.(([^.]+)\.)internal\.[^.]+\.consul\.`
	)
	tags := []object{
		{"tag_name": "local_cluster", "fixed_value": service},
		{"tag_name": "consul.source.service", "fixed_value": service},
		{"tag_name": "consul.destination.service", "regex": destination},
		{"tag_name": "consul.destination.datacenter", "regex": datacenter},
		{"tag_name": "consul.upstream.service", "regex": `^(?:tcp|http)\.upstream\.(([^.]+)\.)`},
	}
	if namespace != "" {
		tags = append(tags, object{"tag_name": "consul.source.namespace", "fixed_value": namespace},
			object{"tag_name": "consul.destination.namespace", "regex": `^cluster\.(?:[^.]+\.)?[^.]+\.(([^.]+)\.)[^.]+\.internal\.[^.]+\.consul\.`})
	}
	if !omitDeprecated {
		tags = append(tags, object{"tag_name": "consul.service", "regex": destination}, object{"tag_name": "consul.datacenter", "regex": datacenter})
	}
	return tags
}
