// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/config"
)

// agentFlag is a flag that stands for a key of the configuration.
type agentFlag struct {
	name, key string
	kind      any // of its value: "", 0, false, or a list
	usage     string
}

// agentFlagList is Consul's list, and weft's own at the end. A flag means what its key in a file would.
var agentFlagList = []agentFlag{
	{"server", "server", false, "be a server too"},
	{"bootstrap", "bootstrap", false, "found a cluster of this server alone"},
	{"bootstrap-expect", "bootstrap_expect", 0, "how many servers found a cluster together"},
	{"locked", "locked", false, "found a cluster with ACLs, TLS between nodes and encrypted gossip"},
	{"join-token", "join_token", "", "lets this node into a locked cluster (weft plane token makes one); @path is a file"},
	{"data-dir", "data_dir", "", "where state is kept"},
	{"node", "node_name", "", "this node's name, by default the host's"},
	{"node-id", "node_id", "", "this node's UUID, by default one that is made and kept"},
	{"node-meta", "node_meta", map[string]any{}, "key:value that describes this node (repeatable)"},
	{"disable-host-node-id", "disable_host_node_id", false, "true is what weft does"},
	{"datacenter", "datacenter", "", "this node's datacenter (dc1)"},
	{"bind", "bind_addr", "", "address for traffic between nodes"},
	{"advertise", "advertise_addr", "", "address that others reach this node by"},
	{"advertise-wan", "advertise_addr_wan", "", "address that servers of other datacenters reach this one by"},
	{"client", "client_addr", "", "addresses of the HTTP API, DNS and xDS (127.0.0.1), with spaces between them"},
	{"server-port", "ports.server", 0, "port of the servers (8300)"},
	{"http-port", "ports.http", 0, "port of the HTTP API (8500)"},
	{"https-port", "ports.https", 0, "port of the HTTP API over TLS (none)"},
	{"grpc-port", "ports.grpc", 0, "port of xDS (8502)"},
	{"grpc-tls-port", "ports.grpc_tls", 0, "port of xDS over TLS (none)"},
	{"dns-port", "ports.dns", 0, "port of DNS (8600)"},
	{"serf-lan-port", "ports.serf_lan", 0, "port of gossip (8301)"},
	{"serf-wan-port", "ports.serf_wan", 0, "port of gossip with other datacenters (8302), -1 for none"},
	{"serf-lan-bind", "serf_lan", "", "address of gossip, instead of -bind"},
	{"serf-wan-bind", "serf_wan", "", "address of gossip with other datacenters, instead of -bind"},
	{"serf-lan-allowed-cidrs", "serf_lan_allowed_cidrs", []any{}, "network that members may be in (repeatable)"},
	{"serf-wan-allowed-cidrs", "serf_wan_allowed_cidrs", []any{}, "the same for servers of other datacenters (repeatable)"},
	{"retry-join", "retry_join", []any{}, "address, name, exec=command or provider=… to join, until one answers (repeatable)"},
	{"retry-join-wan", "retry_join_wan", []any{}, "the same for servers of other datacenters (repeatable)"},
	{"join", "start_join", []any{}, "an older name of -retry-join"},
	{"join-wan", "start_join_wan", []any{}, "an older name of -retry-join-wan"},
	{"retry-interval", "retry_interval", "", "between tries to join (30s)"},
	{"retry-interval-wan", "retry_interval_wan", "", "between tries to join the WAN (30s)"},
	{"retry-max", "retry_max", 0, "tries to join before giving up, 0 is never"},
	{"retry-max-wan", "retry_max_wan", 0, "tries to join the WAN before giving up, 0 is never"},
	{"rejoin", "rejoin_after_leave", false, "join again what was known before this node left"},
	{"primary-gateway", "primary_gateways", []any{}, "mesh gateway of the primary datacenter (repeatable)"},
	{"encrypt", "encrypt", "", "gossip key in base64 (weft keygen makes one)"},
	{"disable-keyring-file", "disable_keyring_file", false, "keep no gossip keys on disk"},
	{"domain", "domain", "", "domain that DNS answers for (consul.)"},
	{"alt-domain", "alt_domain", "", "a second domain that DNS answers for"},
	{"recursor", "recursors", []any{}, "address of a DNS server for other names (repeatable)"},
	{"allow-write-http-from", "http_config.allow_write_http_from", []any{}, "network that may write by the HTTP API (repeatable)"},
	{"default-query-time", "default_query_time", "", "how long a blocking query waits that doesn't say"},
	{"max-query-time", "max_query_time", "", "how long a blocking query waits at most"},
	{"check_output_max_size", "check_output_max_size", 0, "how much of a check's output is kept (4096 bytes)"},
	{"enable-script-checks", "enable_script_checks", false, "let checks run programs, also those that the API registers"},
	{"enable-local-script-checks", "enable_local_script_checks", false, "let checks of configuration files run programs"},
	{"auto-reload-config", "auto_reload_config", false, "reload files that change"},
	{"log-level", "log_level", "", "trace, debug, info, warn or error"},
	{"log-json", "log_json", false, "logs as JSON"},
	{"log-file", "log_file", "", "file, or with a / at its end folder, that logs go to as well"},
	{"log-rotate-bytes", "log_rotate_bytes", 0, "size from which on a new log file is begun"},
	{"log-rotate-duration", "log_rotate_duration", "", "age from which on a new log file is begun (24h)"},
	{"log-rotate-max-files", "log_rotate_max_files", 0, "old log files that are kept: 0 all, -1 none"},
	{"syslog", "enable_syslog", false, "logs to syslog as well"},
	{"pid-file", "pid_file", "", "file that the process's number is written to"},
	{"ui", "ui", false, "serve the web UI"},
	{"ui-dir", "ui_dir", "", "folder of another web UI"},
	{"ui-content-path", "ui_content_path", "", "path of the web UI"},
	{"protocol", "protocol", 0, "Consul's protocol version"},
	{"raft-protocol", "raft_protocol", 0, "Raft's protocol version; 3 is the only one"},
	{"segment", "segment", "", "of Consul Enterprise"},
	{"read-replica", "read_replica", false, "be a server that never votes"},
	{"non-voting-server", "non_voting_server", false, "an older name of -read-replica"},
	{"sidecar-min-port", "ports.sidecar_min_port", 0, "first port of generated sidecars (21000)"},
	{"sidecar-max-port", "ports.sidecar_max_port", 0, "last port of generated sidecars (21255)"},
}

func agentFlags() []ucli.Flag {
	files := ucli.NewStringSlice() // of both flags, in the order in which they were given
	flags := []ucli.Flag{
		&ucli.BoolFlag{Name: "dev", Usage: "server and agent in one, nothing on disk, bound to this machine"},
		&ucli.StringSliceFlag{Name: "config-dir", Destination: files, Usage: "folder of configuration files (repeatable)"},
		&ucli.StringSliceFlag{Name: "config-file", Destination: files, Usage: "configuration file (repeatable)"},
		&ucli.StringFlag{Name: "config-format", Usage: "hcl, json or yaml, whatever the files' names end in"},
		&ucli.StringSliceFlag{Name: "hcl", Usage: "a piece of configuration, after all others (repeatable)"},
	}
	for _, f := range agentFlagList {
		switch f.kind.(type) {
		case string:
			flags = append(flags, &ucli.StringFlag{Name: f.name, Usage: f.usage})
		case int:
			flags = append(flags, &ucli.IntFlag{Name: f.name, Usage: f.usage})
		case bool:
			flags = append(flags, &ucli.BoolFlag{Name: f.name, Usage: f.usage})
		default:
			flags = append(flags, &ucli.StringSliceFlag{Name: f.name, Usage: f.usage})
		}
	}
	return flags
}

// given are the flags that were given, as keys: lists, or the others.
func given(c *ucli.Context, lists bool) (map[string]any, error) {
	keys := map[string]any{}
	for _, f := range agentFlagList {
		if !c.IsSet(f.name) {
			continue
		}
		var v any
		switch f.kind.(type) {
		case string:
			v = c.String(f.name)
		case int:
			v = int64(c.Int(f.name))
		case bool:
			v = c.Bool(f.name)
		case []any:
			var list []any
			for _, s := range c.StringSlice(f.name) {
				list = append(list, s)
			}
			if lists {
				putKey(keys, f.key, list)
			}
			continue
		default:
			m := map[string]any{}
			for _, s := range c.StringSlice(f.name) {
				k, val, ok := strings.Cut(s, ":")
				if !ok {
					return nil, usage("-%s %q: want key:value", f.name, s)
				}
				m[k] = val
			}
			v = m
		}
		if !lists {
			putKey(keys, f.key, v)
		}
	}
	return keys, nil
}

// putKey sets a dotted key.
func putKey(keys map[string]any, key string, v any) {
	block, last, nested := strings.Cut(key, ".")
	if !nested {
		keys[key] = v
		return
	}
	inner, ok := keys[block].(map[string]any)
	if !ok {
		inner = map[string]any{}
		keys[block] = inner
	}
	inner[last] = v
}

// settingsOf merges, in Consul's order: defaults, those of -dev, flags that are lists, files, the other flags, pieces of -hcl.
func settingsOf(c *ucli.Context) (config.Config, []string, error) {
	s := config.Default()
	if c.Bool("dev") {
		s.Dev, s.Server, s.BindAddr, s.AdvertiseAddr = true, true, "127.0.0.1", "127.0.0.1"
	}
	var warnings []string
	take := func(w []string, err error) error {
		warnings = append(warnings, w...)
		return err
	}
	lists, err := given(c, true)
	if err != nil {
		return s, nil, err
	}
	scalars, err := given(c, false)
	if err != nil {
		return s, nil, err
	}
	if err := take(s.LoadKeys("flags", lists)); err != nil {
		return s, warnings, err
	}
	if err := take(s.LoadAs(c.String("config-format"), c.StringSlice("config-file")...)); err != nil {
		return s, warnings, err
	}
	if err := take(s.LoadKeys("flags", scalars)); err != nil {
		return s, warnings, err
	}
	for i, text := range c.StringSlice("hcl") {
		if err := take(s.LoadText(fmt.Sprintf("-hcl %d", i+1), "hcl", text)); err != nil {
			return s, warnings, err
		}
	}
	if s.Dev {
		s.DataDir = ""
	}
	if a := &s.AutoConfig; a.Enabled && a.IntroToken == "" {
		a.IntroToken = os.Getenv("CONSUL_INTRO_TOKEN")
	}
	if err := s.ExpandAddresses(); err != nil {
		return s, warnings, err
	}
	return s, warnings, s.Validate()
}
