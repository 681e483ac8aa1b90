// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"

	"github.com/weftmesh/weft/internal/decode"
)

// ineffective are Consul's keys that this version takes without acting on them.
var ineffective = []string{
	"advertise_addr_ipv4", "advertise_addr_ipv6",
	"audit", "auto_config", "auto_encrypt", "auto_reload_config", "autopilot", "ca_file", "ca_path", "cache",
	"cert_file", "cloud", "disable_anonymous_signature", "disable_host_node_id",
	"disable_http_unprintable_char_filter", "disable_remote_exec", "disable_update_check",
	"discovery_max_stale", "enable_agent_tls_for_checks",
	"enable_central_service_config", "enable_syslog",
	"experiments", "http_config", "key_file",
	"license_path", "limits", "locality", "log_file", "log_rotate_bytes", "log_rotate_duration",
	"log_rotate_max_files", "max_query_time", "default_query_time", "non_voting_server", "partition", "peering", "performance", "pid_file",
	"primary_datacenter", "primary_gateways", "primary_gateways_interval", "protocol", "raft_boltdb", "raft_logstore",
	"raft_protocol", "raft_snapshot_interval", "raft_snapshot_threshold", "raft_trailing_logs", "read_replica",
	"reporting",
	"rpc", "segment", "segments",
	"session_ttl_min", "syslog_facility",
	"tagged_addresses", "telemetry", "tls", "ui", "ui_config", "ui_content_path", "unix_sockets",
	"use_streaming_backend", "verify_incoming", "verify_incoming_https", "verify_incoming_rpc", "verify_outgoing",
	"verify_server_hostname", "watches", "xds",
	"addresses.https", "addresses.grpc_tls",
	"ports.https", "ports.grpc_tls", "ports.expose_min_port", "ports.expose_max_port",
	"connect.enable_mesh_gateway_wan_federation", "connect.enable_serverless_plugin",
	"connect.ca_config.private_key_type", "connect.ca_config.private_key_bits", "connect.ca_config.csr_max_per_second",
	"connect.ca_config.csr_max_concurrent",
}

// dropIneffective takes the keys without effect out of a document and names each in a warning.
func dropIneffective(doc *decode.Document) (warnings []string) {
	for _, key := range ineffective {
		path := strings.Split(key, ".")
		n := doc.Root
		for _, part := range path[:len(path)-1] {
			n = n.Field(part)
			if n != nil && n.Kind == decode.List && len(n.Items) == 1 {
				n = n.Items[0] // an HCL block
			}
		}
		if line, ok := n.Remove(path[len(path)-1]); ok {
			warnings = append(warnings, fmt.Sprintf("%s:%d: %s is known but has no effect yet", doc.File, line, key))
		}
	}
	return warnings
}
