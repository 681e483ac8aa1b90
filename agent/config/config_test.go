// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// folder writes files and gives their folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Files are read in the order of their names; what is said later holds, lists grow, what isn't said stays.
func TestMergeOrder(t *testing.T) {
	dir := folder(t, map[string]string{
		"10-base.hcl": `
			datacenter = "dc1"
			node = "first"
			server = true
			ports { http = 9500  grpc = 9502 }
			service { name = "a" }
			service { name = "b" }
			check { name = "disk"  ttl = "1m" }
			config_entries { bootstrap { kind = "proxy-defaults"  name = "global" } }`,
		"20-more.json":   `{"Node": "second", "Ports": {"HTTP": 9600}, "Services": [{"Name": "c"}], "check_update_interval": "10s"}`,
		"30-last.yaml":   "node: third\nconnect:\n  enabled: true\n  ca_config:\n    leaf_cert_ttl: 1h\n",
		"README.md":      "not read",
		"deep/40.hcl":    `node = "deeper folders aren't read"`,
		"15-service.yml": "services: [{name: d, port: 80}]\n",
	})
	c := Default()
	warnings, err := c.Load(dir)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "README.md is skipped") {
		t.Fatalf("%v, %v", warnings, err)
	}
	if c.NodeName != "third" || c.Ports.HTTP != 9600 || c.Ports.GRPC != 9502 || c.Ports.Server != 8300 || !c.Server {
		t.Errorf("merged: %+v", c)
	}
	if c.CheckUpdateInterval != 10*time.Second || !c.Connect.Enabled || c.Connect.CAConfig.LeafCertTTL != time.Hour {
		t.Errorf("merged: %+v", c)
	}
	var names []string
	for _, s := range c.Services {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, ""); got != "abdc" {
		t.Errorf("services %q, want abdc", got)
	}
	if len(c.Checks) != 1 || len(c.ConfigEntries.Bootstrap) != 1 {
		t.Errorf("%d checks, %d entries", len(c.Checks), len(c.ConfigEntries.Bootstrap))
	}
	// A file that is named after a folder overrides it.
	over := filepath.Join(folder(t, map[string]string{"x.hcl": `node = "named"`}), "x.hcl")
	if _, err := c.Load(over); err != nil || c.NodeName != "named" {
		t.Errorf("%q, %v", c.NodeName, err)
	}
}

// A fault names file, line and key; all faults of all files are reported together.
func TestFaults(t *testing.T) {
	dir := folder(t, map[string]string{
		"a.hcl":  "node = \"n\"\n\nnod_name = \"x\"\nports {\n  http = \"many\"\n}\n",
		"b.json": "{\n \"service\": {\"name\": \"web\", \"prot\": 80}\n}",
		"c.yaml": "check_update_interval: soon\n",
		"d.hcl":  "node = \"a\"\nnode = \"b\"\n",
		"e.hcl":  "service {\n  name = \"web\"",
		"f.json": "{\"node\": \"\xff\"}",
		"g.json": "[]",
	})
	c := Default()
	_, err := c.Load(dir, filepath.Join(dir, "none.hcl"), filepath.Join(dir, "x.toml"))
	if err == nil {
		t.Fatal("taken")
	}
	at := func(file string) string { return filepath.Join(dir, file) }
	for _, want := range []string{
		at("a.hcl") + ":3: nod_name: unknown field", at("a.hcl") + ":5: ports.http: want a whole number",
		at("b.json") + ":2: service[0].prot: unknown field", at("c.yaml") + `:1: check_update_interval: invalid duration`,
		`"node" at 2:1 was already set`, at("e.hcl") + ":", at("f.json") + ":1: invalid UTF-8", at("g.json") + ":", "none.hcl: no such file",
		"x.toml: no such file",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	odd := filepath.Join(folder(t, map[string]string{"x.toml": "a = 1"}), "x.toml")
	if _, err := c.Load(odd); err == nil || !strings.Contains(err.Error(), ".hcl, .json, .yaml or .yml") {
		t.Errorf("another format: %v", err)
	}
}

// Consul's keys without effect are taken, each with a warning that says where it stands.
func TestIneffectiveKeys(t *testing.T) {
	dir := folder(t, map[string]string{
		"a.hcl":  "license_path = \"x\"\nui_config {\n  enabled = true\n}\nports {\n  proxy_min_port = 20000\n  http = 9500\n}\n",
		"b.json": `{"UseStreamingBackend": true, "telemetry": {"circonus_api_url": "y", "prometheus_retention_time": "1m"}}`,
	})
	c := Default()
	warnings, err := c.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"a.hcl:1: \"license_path\" is a Consul Enterprise configuration and will have no effect", "a.hcl:2: ui_config is known but has no effect yet",
		"a.hcl:6: ports.proxy_min_port is known but has no effect yet",
		"b.json:1: telemetry.circonus_api_url is known but has no effect yet",
	}
	for i, w := range warnings {
		warnings[i] = strings.TrimPrefix(w, dir+"/")
	}
	slices.Sort(want)
	slices.Sort(warnings)
	if !slices.Equal(warnings, want) {
		t.Errorf("warnings:\n%s\nwant\n%s", strings.Join(warnings, "\n"), strings.Join(want, "\n"))
	}
	if c.Ports.HTTP != 9500 {
		t.Errorf("a key beside one without effect is lost: %d", c.Ports.HTTP)
	}
}

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		hcl, want string
	}{
		"good":                                {"", ""},
		"no listener":                         {"ports { grpc = -1 }", ""},
		"unix":                                {`addresses { http = "unix:///run/weft.sock" }`, ""},
		"datacenter":                          {`datacenter = "DC 1"`, `datacenter: "DC 1": want lower-case`},
		"port":                                {"ports { http = 70000 }", "ports.http: 70000: want 1 to 65535"},
		"range":                               {"ports { sidecar_min_port = 30000 }", "ports.sidecar_max_port: 21255 is below sidecar_min_port 30000"},
		"address":                             {`bind_addr = "somewhere"`, `bind_addr: "somewhere" isn't an IP address`},
		"policy":                              {`default_intention_policy = "maybe"`, `want "allow" or "deny"`},
		"two of an ID":                        {"service {\n name = \"web\"\n}\nservice {\n name = \"x\"\n id = \"web\"\n}", `service "web": two services`},
		"port of a service":                   {"service {\n name = \"web\"\n port = 70000\n}", `service "web": Invalid Port of service "web": want 0 to 65535, got 70000`},
		"own upstream":                        {"service {\n name = \"web\"\n port = 1\n connect {\n sidecar_service {\n proxy {\n upstreams {\n destination_name = \"web\"\n local_bind_port = 2\n}\n}\n}\n}\n}", "can't be an upstream of itself"},
		"check":                               {"check {\n name = \"x\"\n}", `check "x": Invalid check`},
		"proxy of a service that comes later": {"service {\n name = \"p\"\n kind = \"connect-proxy\"\n port = 1\n proxy {\n destination_service_name = \"web\"\n destination_service_id = \"web\"\n}\n}", ""},
		"expect":                              {"server = false\nbootstrap_expect = 3", "requires 'server = true'"},
		"client only":                         {"server = false", ""},
		"no directory":                        {`data_dir = ""`, "data_dir is missing"},
		"a key":                               {`encrypt = "pUqJrVyVRj5jsiYEkM/tFQ=="`, ""},
		"no key":                              {`encrypt = "hello"`, "weft keygen"},
		"a short key":                         {`encrypt = "aGVsbG8="`, "5 bytes"},
		"no gossip":                           {"ports { serf_lan = -1 }", "ports.serf_lan: -1"},
		"joined twice":                        {`retry_join = ["a", "b", "a"]`, `"a" stands there twice`},
		"interval":                            {`retry_interval = "-1s"`, "retry_interval: -1s"},
		"gossip":                              {`gossip_lan { probe_timeout = "-1s" }`, "gossip_lan.probe_timeout"},
		"serf_lan":                            {`serf_lan = "here"`, `serf_lan: "here" isn't an IP address`},
	} {
		conf := Default()
		conf.Server, conf.DataDir = true, "/var/lib/weft"
		if _, err := conf.Load(folder(t, map[string]string{"a.hcl": c.hcl})); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		switch err := conf.Validate(); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Ten thousand services in one file are read at once.
func TestManyServices(t *testing.T) {
	var b strings.Builder
	for i := range 10_000 {
		b.WriteString("service {\n name = \"s\"\n id = \"s" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + "\"\n port = 80\n}\n")
	}
	c := Default()
	start := time.Now()
	if _, err := c.Load(folder(t, map[string]string{"a.hcl": b.String()})); err != nil {
		t.Fatal(err)
	}
	if len(c.Services) != 10_000 || time.Since(start) > 10*time.Second {
		t.Errorf("%d services in %v", len(c.Services), time.Since(start))
	}
}

// Addresses to join of several files are joined; templates become addresses.
func TestGossipKeys(t *testing.T) {
	dir := folder(t, map[string]string{
		"a.hcl":  "retry_join = [\"10.0.0.1\", \"exec=echo 10.0.0.2\"]\nserf_lan = \"{{ printf \\\"127.0.0.1\\\" }}\"\nserf_lan_allowed_cidrs = [\"10.0.0.0/8\"]\n",
		"b.json": `{"retry_join": ["{{ printf \"10.0.0.3 10.0.0.4\" }}"], "start_join": ["10.0.0.5"], "ports": {"serf_lan": 9301}, "gossip_lan": {"probe_interval": "2s"}}`,
		"c.hcl":  "leave_on_terminate = true\nskip_leave_on_interrupt = false\nserver = true\n",
	})
	c := Default()
	if _, err := c.Load(dir); err != nil {
		t.Fatal(err)
	}
	if err := c.ExpandAddresses(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Joins(false), "|"); got != "10.0.0.5|10.0.0.1|exec=echo 10.0.0.2|10.0.0.3|10.0.0.4" {
		t.Errorf("joins %q", got)
	}
	if c.SerfLAN != "127.0.0.1" || c.Ports.SerfLAN != 9301 || c.Ports.SerfWAN != 8302 || c.GossipLAN.ProbeInterval != 2*time.Second ||
		c.RetryInterval != 30*time.Second || len(c.SerfLANAllowedCIDRs) != 1 {
		t.Errorf("%+v", c)
	}
	if terminate, interrupt := c.LeaveOn(); !terminate || !interrupt {
		t.Error("it doesn't leave")
	}
	server, client := Default(), Default()
	server.Server = true
	if terminate, interrupt := server.LeaveOn(); terminate || interrupt {
		t.Error("a server leaves by default")
	}
	if terminate, interrupt := client.LeaveOn(); !terminate || !interrupt {
		t.Error("a client doesn't leave by default")
	}
	lists := Default()
	lists.ClientAddr, lists.Addresses.DNS, lists.BindAddr = `127.0.0.1 {{ printf "10.0.0.1 10.0.0.2" }}`, `{{ printf "10.0.0.3" }}`, `{{ printf "10.0.0.4 10.0.0.5" }}`
	lists.Recursors = []string{"192.0.2.1", `{{ printf "192.0.2.2 192.0.2.3" }}`}
	if err := lists.ExpandAddresses(); err != nil || lists.ClientAddr != "127.0.0.1 10.0.0.1 10.0.0.2" || lists.Addresses.DNS != "10.0.0.3" || lists.BindAddr != "10.0.0.4" ||
		strings.Join(lists.Recursors, " ") != "192.0.2.1 192.0.2.2 192.0.2.3" {
		t.Errorf("%v: %q, %q, %q, %q", err, lists.ClientAddr, lists.Addresses.DNS, lists.BindAddr, lists.Recursors)
	}
	bad := Default()
	bad.BindAddr, bad.ClientAddr = "{{ Get }}", `{{ GetInterfaceIP "none0" }}`
	if err := bad.ExpandAddresses(); err == nil || !strings.Contains(err.Error(), "bind_addr") || !strings.Contains(err.Error(), "client_addr") {
		t.Errorf("bad templates: %v", err)
	}
}

// The certificate authority's provider, in Consul's forms: an object, or a list of one.
func TestAuthority(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"vault": {`connect { ca_provider = "vault"  ca_config { address = "https://v:8200"  token = "canary"  root_pki_path = "pki"  intermediate_pki_path = "int"
			leaf_cert_ttl = "48h"  private_key_bits = 384 } }`, ""},
		"login": {`{"connect":[{"ca_provider":"vault","ca_config":[{"address":"https://v:8200","root_pki_path":"pki","intermediate_pki_path":"int",
			"auth_method":[{"type":"kubernetes","params":[{"role":"mesh"}]}]}]}]}`, ""},
		"command":     {`connect { ca_provider = "command"  ca_config { command = ["/usr/bin/sign", "-x"]  command_timeout = "5s" } }`, ""},
		"turns":       {`connect { ca_config { csr_max_per_second = 50  csr_max_concurrent = 2 } }`, ""},
		"no turns":    {`connect { ca_config { csr_max_concurrent = -2 } }`, "CSRMaxConcurrent"},
		"no provider": {`connect { ca_provider = "acme" }`, "Provider"},
		"aws-pca":     {`connect { ca_provider = "aws-pca"  ca_config { existing_arn = "arn:aws:acm-pca:r:1:certificate-authority/x"  leaf_cert_ttl = "72h" } }`, `Command ["/usr/local/bin/weft-ca-aws", "-arn", "arn:aws:acm-pca:r:1:certificate-authority/x"]`},
		"arn alone":   {`connect { ca_config { existing_arn = "x" } }`, "ExistingARN is a key of the provider"},
		"other keys":  {`connect { ca_config { address = "https://v:8200" } }`, "Address is a key of the provider"},
		"no token":    {`connect { ca_provider = "vault"  ca_config { address = "https://v:8200"  root_pki_path = "pki"  intermediate_pki_path = "int" } }`, "AuthMethod"},
	} {
		c := Default()
		c.Server, c.DataDir = true, "/d"
		if warnings, err := c.LoadText(name, map[bool]string{true: "json", false: "hcl"}[tc.text[0] == '{'], tc.text); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, %v", name, warnings, err)
		}
		err := c.Validate()
		if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v", name, err)
		}
		got, err := c.Connect.Authority()
		if name == "vault" && (err != nil || got.LeafCertTTL != 48*time.Hour || got.PrivateKeyBits != 384 || got.Vault.Token != "canary") {
			t.Errorf("%+v, %v", got, err)
		}
		if name == "turns" && (err != nil || got.CSRMaxPerSecond != 50 || got.CSRMaxConcurrent != 2) {
			t.Errorf("%+v, %v", got, err)
		}
		if name == "login" && (err != nil || got.Vault.AuthMethod.Params["role"] != "mesh") {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// Another primary has the root: nothing here may say whose else it is. The datacenter may be said in another file.
func TestPrimary(t *testing.T) {
	dir := folder(t, map[string]string{"a.hcl": `primary_datacenter = "DC1"`, "b.hcl": `datacenter = "dc2"`})
	c := Default()
	c.DataDir = dir
	if _, err := c.Load(dir); err != nil || c.Primary() != "dc1" || c.Validate() != nil {
		t.Errorf("primary %q, %v, %v", c.Primary(), err, c.Validate())
	}
	c.Connect.CAProvider = "command"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "the root is the primary datacenter's, which is dc1") {
		t.Errorf("with a provider of its own: %v", err)
	}
	c.PrimaryDatacenter = "a b"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "primary_datacenter") {
		t.Errorf("no name: %v", err)
	}
}

// What bounds how often is asked, and how fresh answers are.
func TestRatesAndFreshness(t *testing.T) {
	dir := folder(t, map[string]string{"a.hcl": `
discovery_max_stale = "5s"
primary_datacenter = "DC1"
http_config { use_cache = false }
raft_logstore { backend = "wal" }
enable_agent_tls_for_checks = true
limits {
  rpc_rate = 7.5
  rpc_handshake_timeout = "3s"
  request_limits { mode = "enforcing" read_rate = 100 }
}
`})
	c := Default()
	warnings, err := c.Load(dir)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, %v", warnings, err)
	}
	perSecond, burst := c.Limits.RPC()
	read, write := c.Limits.RequestLimits.Rates()
	if perSecond != 7.5 || burst != 1000 || read != 100 || write != -1 || c.DiscoveryMaxStale != 5*time.Second || *c.HTTPConfig.UseCache ||
		c.Limits.RPCHandshakeTimeout != 3*time.Second || !c.EnableAgentTLSForChecks {
		t.Errorf("%+v, %s", c.Limits, c.DiscoveryMaxStale)
	}
	bad := -2.0
	for want, rates := range map[string]Rates{
		"limits.rpc_rate: -2": {RPCRate: &bad}, "rpc_max_burst: -1": {RPCMaxBurst: -1}, `mode: "on"`: {RequestLimits: RequestLimits{Mode: "on"}},
		"request_limits.write_rate: -2": {RequestLimits: RequestLimits{WriteRate: &bad}},
	} {
		if err := rates.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
