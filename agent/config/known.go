// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weftmesh/weft/internal/decode"
)

// ineffective are Consul's keys that this version takes without acting on them.
var ineffective = []string{
	"primary_gateways", "primary_gateways_interval",
	"ui", "ui_config", "ui_content_path", "ui_dir",
	"ports.proxy_min_port", "ports.proxy_max_port",
	"telemetry.disable_compat_*", "telemetry.circonus_*", // the first has a dot in it, which isn't a block's
	"connect.enable_mesh_gateway_wan_federation", "connect.enable_serverless_plugin",
}

// enterprise are keys of Consul's paid edition, for which weft has another way, or none.
var enterprise = []string{
	"license_path", "partition", "reporting", "snapshot_agent", "acl.tokens.managed_service_provider",
}

// needless are keys that say what weft does anyway, with the values that do; "*" is any value. Another value has no effect, and that
// is said.
var needless = map[string][]string{
	"cloud": {"*"}, "disable_anonymous_signature": {"*"}, "disable_update_check": {"*"}, // weft calls nobody
	"raft_logstore.backend": {"wal", "default"}, "disable_host_node_id": {"true"}, "disable_remote_exec": {"true"}, "enable_central_service_config": {"true"}, "experiments": {"*"},
	"protocol": {"2", "3"}, "raft_protocol": {"3"}, "rpc": {"*"}, "use_streaming_backend": {"*"}, "acl_enforce_version_8": {"*"}, "version": {"*"},
	"telemetry.prometheus_retention_time":   {"*"}, // the metrics are always there
	"telemetry.retry_failed_connection":     {"true"},
	"disable_http_unprintable_char_filter":  {"false"},
	"performance.enable_xds_load_balancing": {"*"},                                // a proxy's xDS is its own agent's: there is nothing to balance
	"raft_boltdb":                           {"*"}, "raft_logstore.boltdb": {"*"}, // the log is raft-wal's
	"raft_logstore.verification":                  {"*"}, // every entry has a checksum, and servers compare what they have
	"telemetry.disable_per_tenancy_usage_metrics": {"true"},
}

// renamed are older names of keys.
var renamed = map[string]string{"advertise_addr_ipv4": "advertise_addr", "advertise_addr_ipv6": "advertise_addr", "advertise_addr_wan_ipv4": "advertise_addr_wan", "advertise_addr_wan_ipv6": "advertise_addr_wan"}

// refusedKeys can't be taken without an effect: what they say would change what is safe, or who is found.
var refusedKeys = map[string]string{
	"segment": "network segments need a gossip pool of their own, which weft hasn't: remove it", "segments": "network segments need gossip pools of their own, which weft hasn't: remove it",
}

// holder finds the object that a dotted key's last part is in.
func holder(doc *decode.Document, key string) (n *decode.Node, last string) {
	parts := strings.Split(key, ".")
	n = doc.Root
	for _, part := range parts[:len(parts)-1] {
		n = unwrapped(n.Field(part))
	}
	return n, parts[len(parts)-1]
}

func unwrapped(n *decode.Node) *decode.Node {
	if n != nil && n.Kind == decode.List && len(n.Items) == 1 {
		return n.Items[0] // an HCL block
	}
	return n
}

// dropIneffective takes the keys without effect out of a document and names each in a warning.
func dropIneffective(doc *decode.Document) (warnings []string, err error) {
	at := func(line int, format string, args ...any) string {
		where := doc.File
		if line > 0 {
			where = fmt.Sprintf("%s:%d", doc.File, line)
		}
		return where + ": " + fmt.Sprintf(format, args...)
	}
	for key, values := range needless {
		n, last := holder(doc, key)
		v := unwrapped(n.Field(last))
		if line, ok := n.Remove(last); ok && values[0] != "*" && !slices.Contains(values, fmt.Sprint(decode.Any(v))) {
			warnings = append(warnings, at(line, "%s is known but has no effect yet", key))
		}
	}
	for _, key := range enterprise {
		n, last := holder(doc, key)
		if line, ok := n.Remove(last); ok {
			warnings = append(warnings, at(line, "%q is a Consul Enterprise configuration and will have no effect", key))
		}
	}
	for _, key := range ineffective {
		n, last := holder(doc, key)
		for _, name := range matching(n, last) {
			if line, ok := n.Remove(name); ok {
				warnings = append(warnings, at(line, "%s is known but has no effect yet", strings.TrimSuffix(key, last)+name))
			}
		}
	}
	dropOtherwise(doc, func(line int, format string, args ...any) { warnings = append(warnings, at(line, format, args...)) })
	for _, block := range []string{"telemetry", "auto_encrypt", "raft_logstore"} { // nothing of it is left
		if n := unwrapped(doc.Root.Field(block)); n != nil && len(n.Fields) == 0 {
			doc.Root.Remove(block)
		}
	}
	for old, key := range renamed {
		v := doc.Root.Field(old)
		if line, ok := doc.Root.Remove(old); ok && doc.Root.Field(key) == nil {
			doc.Root.Fields = append(doc.Root.Fields, &decode.Field{Name: key, Line: line, Value: v})
		}
	}
	var faults []error
	for key, why := range refusedKeys {
		if line, ok := doc.Root.Remove(key); ok {
			faults = append(faults, errors.New(at(line, "%s: %s", key, why)))
		}
	}
	slices.Sort(warnings)
	return warnings, errors.Join(faults...)
}

// matching are the names of n's fields that a name, which may end in *, stands for.
func matching(n *decode.Node, name string) []string {
	prefix, wild := strings.CutSuffix(name, "*")
	if !wild {
		return []string{name}
	}
	var out []string
	if n != nil {
		for _, f := range n.Fields {
			if strings.HasPrefix(strings.ToLower(f.Name), prefix) {
				out = append(out, f.Name)
			}
		}
	}
	return out
}
