// SPDX-License-Identifier: Apache-2.0

// Package config reads an agent's configuration: files and folders in HCL, JSON or YAML with Consul's keys and a few of
// weft's own, merged in Consul's order. It opens files and does nothing else; it owns no goroutine.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/agent/dns"
	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/agent/telemetry"
	"github.com/weftmesh/weft/agent/watch"
	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/decode"
)

// Config is an agent's configuration. The zero value of a field means "not said"; Default fills in what must be there.
type Config struct {
	Datacenter string
	// PrimaryDatacenter is the one whose servers have the root of all datacenters' certificates, and where config entries and intentions
	// are written; "" is Datacenter.
	PrimaryDatacenter string
	NodeName          string `decode:"node"`
	NodeID            string
	NodeMeta          map[string]string
	DataDir           string
	Server            bool
	Bootstrap         bool
	// Locked is weft's own: a server that founds a cluster makes a CA for its nodes, a gossip key, and ACLs that deny by default.
	Locked bool
	// JoinToken lets this node into a locked cluster, once; @path is a file that holds it.
	JoinToken         string
	AutoConfig        AutoConfig
	BootstrapExpect   int
	BindAddr          string
	AdvertiseAddr     string
	ClientAddr        string
	Domain            string
	AltDomain         string
	Recursors         []string
	DNSConfig         dns.Settings
	TranslateWANAddrs bool
	TaggedAddresses   map[string]string
	Addresses         Addresses
	// DiscoveryMaxStale is how old an answer of catalog and health may be where a request says nothing of it; 0: not at all.
	DiscoveryMaxStale time.Duration
	HTTPConfig        HTTPConfig
	Limits            Limits
	// SessionTTLMin is the shortest time to live that a session may have; 0: 10 seconds.
	SessionTTLMin time.Duration
	// DefaultQueryTime is how long a blocking query waits that doesn't say, MaxQueryTime how long one may; 0: 5 and 10 minutes.
	DefaultQueryTime, MaxQueryTime time.Duration
	UnixSockets                    UnixSockets
	TLS                            TLS
	Watches                        []watch.Definition
	// Cache bounds how answers to ?cached are kept true.
	Cache   Cache
	Peering Peering
	XDS     XDS
	// Telemetry is where metrics are sent, beside being there to be read.
	Telemetry              telemetry.Settings
	Locality               *catalog.Locality
	PIDFile                string `decode:"pid_file"`
	Ports                  Ports
	AutoReloadConfig       bool
	LogLevel               string
	LogJSON                bool
	EnableDebug            bool
	DefaultIntentionPolicy string
	CheckUpdateInterval    time.Duration
	CheckOutputMaxSize     int
	DiscardCheckOutput     bool
	// EnableScriptChecks lets checks run programs; EnableLocalScriptChecks only those of configuration files.
	EnableScriptChecks bool
	// EnableAgentTLSForChecks has checks over TLS show the agent's own certificate and believe its CA (tls.internal_rpc).
	EnableAgentTLSForChecks bool
	EnableLocalScriptChecks bool
	Connect                 Connect
	ACL                     ACL
	Audit                   Audit
	Seal                    Seal
	ConfigEntries           ConfigEntries
	Services                []local.ServiceDefinition `decode:"service"`
	Checks                  []local.CheckDefinition   `decode:"check"`
	Gossip
	Servers
	Logging
	OldTLS
	// Proxy is weft's own: how proxies of this host are run.
	Proxy Proxy

	// Dev is -dev: server and agent in one, nothing on disk.
	Dev bool `decode:"-"`
}

// Addresses are where listeners are bound, each instead of ClientAddr: IP addresses, or (not for DNS) unix:///path, with spaces
// between them.
type Addresses struct {
	DNS     string
	HTTP    string
	HTTPS   string
	GRPC    string
	GRPCTLS string `decode:"grpc_tls"`
}

// Ports are the listeners' ports; -1 means "don't listen".
type Ports struct {
	DNS            int
	HTTP           int
	HTTPS          int
	GRPC           int
	GRPCTLS        int `decode:"grpc_tls"`
	Server         int
	SerfLAN        int
	SerfWAN        int // of a server; -1 takes it out of the WAN
	SidecarMinPort int
	SidecarMaxPort int
	ExposeMinPort  int
	ExposeMaxPort  int
}

// Connect is the mesh's configuration.
type Connect struct {
	Enabled    bool
	CAProvider string
	CAConfig   ca.Settings
}

// Cache bounds how often one answer that is kept true is asked for anew.
type Cache struct {
	EntryFetchRate     *float64 // in a second; nil or below 0: no bound
	EntryFetchMaxBurst int      // 0: 2
}

// Fetches are both with their defaults, -1 for no bound.
func (c *Cache) Fetches() (perSecond float64, burst int) {
	return orNone(c.EntryFetchRate), cmp.Or(c.EntryFetchMaxBurst, 2)
}

// Peering is whether clusters can be made peers.
type Peering struct {
	Enabled *bool // nil: true; false has the servers refuse all of /v1/peering
}

// XDS bounds what proxies are sent.
type XDS struct {
	// UpdateMaxPerSecond is how many configurations in a second this agent makes for all its proxies together; 0: as many as there are.
	UpdateMaxPerSecond float64
}

// ConfigEntries are config entries that a server writes when it first becomes leader, if they aren't there.
type ConfigEntries struct {
	Bootstrap []map[string]any
}

// Proxy is how proxies of this host are run.
type Proxy struct {
	// Shared runs one host proxy for all the services of this host.
	Shared bool
	// OfflineMaxAge is for how long proxies are served from what the agent knows while no server can be reached, over restarts
	// too; after that they deny every caller. 72 hours if it isn't said; 0 is for ever.
	OfflineMaxAge time.Duration
	// Binary is the weft binary that the host proxy is started from, "" for the agent's own.
	Binary string
}

// Default is the configuration of an agent to which nothing was said.
func Default() Config {
	return Config{
		Datacenter: "dc1", BindAddr: "0.0.0.0", ClientAddr: "127.0.0.1", LogLevel: "info",
		Domain: "consul.", DNSConfig: dns.DefaultSettings(), CheckUpdateInterval: 5 * time.Minute, Proxy: Proxy{OfflineMaxAge: 72 * time.Hour}, CheckOutputMaxSize: 4096,
		Ports:  Ports{DNS: 8600, HTTP: 8500, HTTPS: -1, GRPC: 8502, GRPCTLS: -1, Server: 8300, SerfLAN: 8301, SerfWAN: 8302, SidecarMinPort: 21000, SidecarMaxPort: 21255, ExposeMinPort: 21500, ExposeMaxPort: 21755},
		Gossip: Gossip{RetryInterval: 30 * time.Second, RetryIntervalWAN: 30 * time.Second},
	}
}

// maxFile bounds a configuration file.
const maxFile = 64 << 20

// Load reads files and folders (their .hcl, .json, .yaml and .yml files in the order of their names, not those of folders
// inside) over c. Later files override earlier ones; lists are appended to. Warnings name keys that have no effect yet.
// All faults of all files are reported together.
func (c *Config) Load(paths ...string) (warnings []string, err error) { return c.LoadAs("", paths...) }

// LoadAs is Load for files of one format (hcl, json or yaml), whatever their names end in; "" goes by the names.
func (c *Config) LoadAs(format string, paths ...string) (warnings []string, err error) {
	switch format {
	case "", "hcl", "json", "yaml":
	default:
		return nil, fmt.Errorf("configuration: there is no format %q: want hcl, json or yaml", format)
	}
	var faults []error
	for _, path := range paths {
		files, other, err := expand(path, format)
		warnings = append(warnings, other...)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for _, file := range files {
			w, err := c.loadFile(file, format)
			warnings = append(warnings, w...)
			if err != nil {
				faults = append(faults, err)
			}
		}
	}
	return warnings, errors.Join(faults...)
}

// LoadText lays one piece of configuration over c; name says where it is from.
func (c *Config) LoadText(name, format, text string) (warnings []string, err error) {
	doc, err := decode.ParseAs(name, format, []byte(text))
	if err != nil {
		return nil, err
	}
	return c.take(doc)
}

// LoadKeys lays keys over c, as those of one document; name says where they are from.
func (c *Config) LoadKeys(name string, keys map[string]any) (warnings []string, err error) {
	return c.take(&decode.Document{File: name, Root: decode.FromAny(keys)})
}

// expand gives the files of a folder, and warnings that name what is left out of it.
func expand(path, format string) (files, warnings []string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	for _, e := range entries {
		file := filepath.Join(path, e.Name())
		if info, err := os.Stat(file); err != nil || info.IsDir() { // links are followed
			continue
		}
		switch ext := strings.ToLower(filepath.Ext(e.Name())); {
		case format != "" || ext == ".hcl" || ext == ".json" || ext == ".yaml" || ext == ".yml":
			files = append(files, file)
		default:
			warnings = append(warnings, file+" is skipped: its name ends in none of .hcl, .json, .yaml and .yml")
		}
	}
	slices.Sort(files)
	return files, warnings, nil
}

func (c *Config) loadFile(file, format string) ([]string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if info.Size() > maxFile {
		return nil, &decode.Error{File: file, Text: fmt.Sprintf("larger than %d MiB", maxFile>>20)}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil // as Consul takes it, in JSON too
	}
	doc, err := decode.ParseAs(file, format, data)
	if err != nil {
		return nil, err
	}
	return c.take(doc)
}

// take lays a document over c.
func (c *Config) take(doc *decode.Document) (warnings []string, err error) {
	warnings, err = dropIneffective(doc)
	err = errors.Join(err, doc.Over(c))
	c.settleTLS()
	return warnings, err
}

func (c *Config) validatePrimary(fault func(string, ...any)) {
	p := c.Primary()
	if !nameOK(p, "_-") {
		fault("primary_datacenter: %q: want lower-case letters, digits, - and _", c.PrimaryDatacenter)
	}
	if p != c.Datacenter && (cmp.Or(c.Connect.CAProvider, ca.BuiltinName) != ca.BuiltinName || c.Connect.CAConfig.RootCert != "") {
		fault("connect.ca_provider and ca_config.root_cert: the root is the primary datacenter's, which is %s: say them there", p)
	}
}

// Primary is the primary datacenter.
func (c *Config) Primary() string { return strings.ToLower(cmp.Or(c.PrimaryDatacenter, c.Datacenter)) }

func (p *Ports) validate(fault func(string, ...any)) {
	for _, l := range []struct {
		key  string
		port int
	}{
		{"dns", p.DNS},
		{"http", p.HTTP},
		{"https", p.HTTPS},
		{"grpc", p.GRPC},
		{"grpc_tls", p.GRPCTLS},
		{"server", p.Server},
		{"serf_lan", p.SerfLAN},
		{"serf_wan", p.SerfWAN},
		{"sidecar_min_port", p.SidecarMinPort},
		{"sidecar_max_port", p.SidecarMaxPort},
		{"expose_min_port", p.ExposeMinPort},
		{"expose_max_port", p.ExposeMaxPort},
	} {
		if l.port < -1 || l.port > 65535 {
			fault("ports.%s: %d: want 1 to 65535, or -1 for no listener", l.key, l.port)
		}
	}
	for _, r := range []struct {
		key      string
		min, max int
	}{{"sidecar", p.SidecarMinPort, p.SidecarMaxPort}, {"expose", p.ExposeMinPort, p.ExposeMaxPort}} {
		if r.max < r.min {
			fault("ports.%s_max_port: %d is below %s_min_port %d", r.key, r.max, r.key, r.min)
		}
	}
}

// Validate finds what contradicts itself, after everything was merged.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !nameOK(c.Datacenter, "_-") {
		fault("datacenter: %q: want lower-case letters, digits, - and _", c.Datacenter)
	}
	c.validatePrimary(fault)
	c.Ports.validate(fault)
	for _, l := range []struct {
		key string
		n   int
	}{{"kv_max_value_size", c.Limits.KVMaxValueSize}, {"txn_max_req_len", c.Limits.TxnMaxReqLen}} {
		if l.n < 0 || l.n > api.DefaultMaxBody {
			fault("limits.%s: %d: want 0 to %d bytes", l.key, l.n, api.DefaultMaxBody)
		}
	}
	if c.Server || c.Dev {
		_, err := c.Connect.Authority()
		faults = append(faults, err)
	}
	if c.XDS.UpdateMaxPerSecond < 0 {
		fault("xds.update_max_per_second: %g: want 0 (no bound) or more", c.XDS.UpdateMaxPerSecond)
	}
	if c.Cache.EntryFetchMaxBurst < 0 || c.Cache.EntryFetchRate != nil && *c.Cache.EntryFetchRate == 0 {
		fault("cache: want entry_fetch_rate above 0, or below it for no bound, and entry_fetch_max_burst 1 or more")
	}
	if c.SessionTTLMin < 0 || c.SessionTTLMin > catalog.MaxSessionTTL {
		fault("session_ttl_min: %s: want 0 to %s", c.SessionTTLMin, catalog.MaxSessionTTL)
	}
	if c.DefaultQueryTime < 0 || c.MaxQueryTime < 0 {
		fault("default_query_time and max_query_time must not be negative")
	}
	for _, a := range []struct{ key, addr string }{
		{"bind_addr", c.BindAddr},
		{"advertise_addr", c.AdvertiseAddr},
		{"advertise_addr_wan", c.AdvertiseAddrWAN},
		{"serf_lan", c.SerfLAN},
		{"serf_wan", c.SerfWAN},
	} {
		if a.addr == "" {
			continue
		}
		if _, err := netip.ParseAddr(a.addr); err != nil {
			fault("%s: %q isn't an IP address", a.key, a.addr)
		}
	}
	faults = append(faults, c.validateWeb(), c.validateTLS(), c.Telemetry.Validate())
	if c.CheckOutputMaxSize < 1 {
		fault("check_output_max_size: %d: want 1 or more", c.CheckOutputMaxSize)
	}
	zones := c.Zones()
	faults = append(faults, zones.Validate())
	if err := c.ACL.validate(); err != nil {
		faults = append(faults, err)
	}
	if c.Proxy.OfflineMaxAge < 0 {
		fault("proxy.offline_max_age: %v is negative: want a time, or 0 for ever", c.Proxy.OfflineMaxAge)
	}
	if p := c.DefaultIntentionPolicy; p != "" && p != "allow" && p != "deny" {
		fault("default_intention_policy: %q: want \"allow\" or \"deny\"", p)
	}
	if !c.Dev && c.DataDir == "" {
		fault("data_dir is missing: give it in a file or as -data-dir, or use -dev, which keeps nothing")
	}
	if c.BootstrapExpect > 0 && !c.Server {
		fault("'bootstrap_expect > 0' requires 'server = true'")
	}
	if c.BootstrapExpect < 0 {
		fault("bootstrap_expect: %d: want 1 or more", c.BootstrapExpect)
	}
	if c.Bootstrap && c.BootstrapExpect > 1 {
		fault("bootstrap and bootstrap_expect %d: say only how many servers found the cluster", c.BootstrapExpect)
	}
	c.validateLocked(fault)
	c.validateAudit(fault)
	c.validateGossip(fault)
	c.validateServers(fault)
	node := catalog.Node{Scope: catalog.Scope{}.Default(c.Datacenter), Node: c.NodeName}
	faults = append(faults, local.Validate(c.Local(node), c.Services, c.Checks))
	return errors.Join(faults...)
}

// Local is the configuration of this host's registrations.
func (c *Config) Local(node catalog.Node) local.Config {
	return local.Config{
		Node: node, SidecarMin: c.Ports.SidecarMinPort, SidecarMax: c.Ports.SidecarMaxPort, ExposeMin: c.Ports.ExposeMinPort, ExposeMax: c.Ports.ExposeMaxPort,
		Scripts:   local.ScriptPolicy{API: c.EnableScriptChecks, Files: c.EnableLocalScriptChecks},
		Locality:  c.Locality,
		MaxOutput: c.CheckOutputMaxSize, DiscardOutput: c.DiscardCheckOutput,
	}
}

// Zones is what DNS answers for, and how.
func (c *Config) Zones() dns.Zones {
	return dns.Zones{
		Settings: c.DNSConfig, Domain: c.Domain, AltDomain: c.AltDomain, Recursors: c.Recursors, TranslateWAN: c.TranslateWANAddrs,
	}
}

func nameOK(s, also string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(also, r)
	})
}
