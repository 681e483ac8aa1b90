// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"slices"
	"strings"
	"testing"

	ucli "github.com/urfave/cli/v2"
)

// Sets of flags that several commands of Consul's have.
const (
	asked   = "http-addr token token-file ca-file ca-path client-cert client-key tls-server-name"
	askedDC = asked + " datacenter stale"
	grants  = "policy-id policy-name service-identity node-identity templated-policy templated-policy-file var"
)

// consulCommands are Consul's commands of tiers 1 and 2 with their flags: what scripts call.
var consulCommands = map[string]string{
	"agent": "advertise advertise-wan allow-write-http-from alt-domain auto-reload-config bind bootstrap bootstrap-expect client config-dir config-file config-format data-dir " +
		"datacenter default-query-time dev disable-host-node-id disable-keyring-file dns-port domain enable-local-script-checks enable-script-checks encrypt grpc-port " +
		"grpc-tls-port hcl http-port https-port join join-wan log-file log-json log-level log-rotate-bytes log-rotate-duration log-rotate-max-files max-query-time node node-id " +
		"node-meta pid-file primary-gateway protocol raft-protocol recursor rejoin retry-interval retry-interval-wan retry-join retry-join-wan retry-max retry-max-wan segment " +
		"serf-lan-allowed-cidrs serf-lan-bind serf-lan-port serf-wan-allowed-cidrs serf-wan-bind serf-wan-port server server-port syslog ui ui-content-path ui-dir " +
		"check_output_max_size read-replica non-voting-server",
	"version": "format", "validate": "quiet config-format",
	"members": asked + " detailed wan status filter segment", "join": asked + " wan", "leave": asked, "force-leave": asked + " prune wan", "reload": asked,
	"info": asked, "monitor": asked + " log-level log-json", "maint": asked + " enable disable reason service",
	"debug": asked + " capture interval duration archive output", "keygen": "",
	"keyring": asked + " list list-primary install use remove relay-factor local-only", "rtt": asked + " wan", "event": askedDC + " name node service tag",
	"watch":  askedDC + " type key prefix service tag passingonly state name filter shell",
	"lock":   askedDC + " n name timeout try monitor-retry pass-stdin child-exit-code shell verbose",
	"kv get": askedDC + " base64 detailed keys recurse separator", "kv put": askedDC + " cas modify-index flags base64 session acquire release",
	"kv delete": askedDC + " recurse cas modify-index", "kv export": askedDC, "kv import": askedDC + " prefix",
	"catalog datacenters": askedDC, "catalog nodes": askedDC + " detailed near node-meta service filter", "catalog services": askedDC + " node node-meta tags",
	"services register": asked + " name id address port socket meta tag tagged-address kind", "services deregister": asked + " id",
	"services export": askedDC + " name consumer-peers",
	"config write":    askedDC + " cas modify-index", "config read": askedDC + " kind name", "config list": askedDC + " kind filter",
	"config delete":    askedDC + " kind name filename cas modify-index",
	"intention create": askedDC + " allow deny file replace meta", "intention check": askedDC, "intention match": askedDC + " source destination",
	"intention get": askedDC, "intention list": askedDC, "intention delete": askedDC,
	"peering generate-token": asked + " name meta server-external-addresses format", "peering establish": asked + " name peering-token meta",
	"peering read": asked + " name format", "peering list": asked + " format", "peering delete": asked + " name", "peering exported-services": asked + " name format",
	"operator raft list-peers": askedDC, "operator raft remove-peer": askedDC + " id address", "operator raft transfer-leader": askedDC + " id",
	"operator autopilot get-config": askedDC, "operator autopilot state": askedDC + " format",
	"operator autopilot set-config": askedDC + " cleanup-dead-servers last-contact-threshold max-trailing-logs min-quorum server-stabilization-time",
	"operator usage instances":      askedDC + " billable connect all-datacenters",
	"troubleshoot proxy":            asked + " envoy-admin-endpoint upstream-envoy-id upstream-ip", "troubleshoot upstreams": asked + " envoy-admin-endpoint", "troubleshoot ports": "host ports",
	"snapshot save": askedDC + " append-filename", "snapshot restore": askedDC, "snapshot inspect": "format kvdetails kvdepth kvfilter", "snapshot decode": "",
	"tls ca create":     "days domain name-constraint additional-name-constraint common-name cluster-id",
	"tls cert create":   "server client cli ca key dc domain node days additional-dnsname additional-ipaddress",
	"acl bootstrap":     asked + " format",
	"acl policy create": asked + " name description rules valid-datacenter meta format",
	"acl policy update": asked + " id name description rules valid-datacenter no-merge meta format",
	"acl policy read":   asked + " id name meta format", "acl policy list": asked + " meta format", "acl policy delete": asked + " id name",
	"acl role create": asked + " name description meta format " + grants,
	"acl role update": asked + " id name description no-merge append-templated-policy replace-templated-policy " +
		"append-templated-policy-file replace-templated-policy-file meta format " + grants,
	"acl role read": asked + " id name meta format", "acl role list": asked + " meta format", "acl role delete": asked + " id name",
	"acl token create": asked + " role-id role-name local expires-ttl accessor secret description meta format " + grants,
	"acl token update": asked + " accessor-id id append-policy-id append-policy-name append-role-id append-role-name append-service-identity append-node-identity " +
		"append-templated-policy replace-templated-policy append-templated-policy-file replace-templated-policy-file merge-policies merge-roles merge-service-identities " +
		"merge-node-identities role-id role-name description meta format " + grants,
	"acl token read": asked + " accessor-id id self expanded meta format", "acl token list": asked + " meta format", "acl token clone": asked + " accessor-id id description meta format",
	"acl token delete":       asked + " accessor-id id",
	"acl auth-method create": asked + " name type config max-token-ttl token-locality token-name-format display-name description kubernetes-host kubernetes-ca-cert kubernetes-service-account-jwt meta format",
	"acl auth-method update": asked + " name config max-token-ttl token-locality token-name-format display-name description kubernetes-host kubernetes-ca-cert kubernetes-service-account-jwt no-merge meta format",
	"acl auth-method read":   asked + " name meta format", "acl auth-method list": asked + " meta format", "acl auth-method delete": asked + " name",
	"acl binding-rule create": asked + " method bind-type bind-name bind-vars selector description meta format",
	"acl binding-rule update": asked + " id bind-type bind-name bind-vars selector description no-merge meta format",
	"acl binding-rule read":   asked + " id meta format", "acl binding-rule list": asked + " method meta format", "acl binding-rule delete": asked + " id",
	"acl templated-policy list": asked + " format", "acl templated-policy read": asked + " name format", "acl templated-policy preview": asked + " name var file format",
	"acl set-agent-token": asked, "login": asked + " type method bearer-token-file token-sink-file oidc-callback-listen-addr meta", "logout": asked,
	"connect envoy": asked + " proxy-id sidecar-for bootstrap envoy-binary ignore-envoy-compatibility admin-bind admin-access-log-path grpc-addr grpc-ca-file grpc-ca-path " +
		"gateway register service address wan-address bind-address expose-servers deregister-after-critical no-central-config omit-deprecated-tags envoy-version " +
		"prometheus-backend-port prometheus-scrape-path prometheus-ca-file prometheus-ca-path prometheus-cert-file prometheus-key-file node-name mesh-gateway " +
		"envoy-ready-bind-address envoy-ready-bind-port enable-config-gen-logging",
	"connect proxy":            asked + " sidecar-for proxy-id service service-addr listen upstream register register-id log-level log-json pprof-addr",
	"connect redirect-traffic": asked + " proxy-id proxy-uid proxy-inbound-port proxy-outbound-port exclude-inbound-port exclude-outbound-port exclude-outbound-cidr exclude-uid consul-dns-ip consul-dns-port netns",
	"connect ca get-config":    askedDC, "connect ca set-config": askedDC + " config-file force-without-cross-signing",
}

// Every command of Consul's tiers 1 and 2 is here, with its flags.
func TestConsulsCommands(t *testing.T) {
	reading.Lock()
	defer reading.Unlock()
	app := newApp(Env{Stdout: io.Discard, Stderr: io.Discard, Stdin: strings.NewReader(""), Getenv: func(string) string { return "" }}, "consul")
	for name, flags := range consulCommands {
		commands, found := app.Commands, (*ucli.Command)(nil)
		for word := range strings.FieldsSeq(name) {
			i := slices.IndexFunc(commands, func(c *ucli.Command) bool { return c.HasName(word) })
			if i < 0 {
				found = nil
				break
			}
			found, commands = commands[i], commands[i].Subcommands
		}
		if found == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		for flag := range strings.FieldsSeq(flags) {
			if !slices.ContainsFunc(found.Flags, func(f ucli.Flag) bool { return slices.Contains(f.Names(), flag) }) {
				t.Errorf("%s -%s is missing", name, flag)
			}
		}
	}
}
