// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// HTTPConfig is what the HTTP API does beside answering.
type HTTPConfig struct {
	// BlockEndpoints are beginnings of paths that are refused.
	BlockEndpoints []string
	// ResponseHeaders are put into every answer.
	ResponseHeaders map[string]string
	// AllowWriteHTTPFrom are the networks that may write; none: all.
	AllowWriteHTTPFrom []netip.Prefix
	// AllowHosts are domains by whose names the API may be called over loopback, beside domain and alt_domain.
	AllowHosts     []string
	MaxHeaderBytes int
	UseCache       *bool // of answers to ?cached; nil: true
}

// Limits are bounds of the HTTP API.
type Limits struct {
	// HTTPMaxConnsPerClient bounds the connections of one address; 0: 200, and more from this host; -1: no bound.
	HTTPMaxConnsPerClient int
	HTTPSHandshakeTimeout time.Duration
	RPCHandshakeTimeout   time.Duration // of the servers' port; 0: 10 s
	// RPCClientTimeout bounds a request that an agent passes on to a server and that waits for no change; 0: nothing does.
	RPCClientTimeout time.Duration
	// RPCMaxConnsPerClient bounds the connections of one address, and of one node, to the servers' port; 0: 200 and 1000, -1: no bound.
	RPCMaxConnsPerClient int
	// KVMaxValueSize bounds a key's value, TxnMaxReqLen a transaction's body, in bytes; 0: 512 KiB.
	KVMaxValueSize int
	TxnMaxReqLen   int
	Rates
}

// Rates bound how often is asked; they can be changed while an agent runs.
type Rates struct {
	// RPCRate is how many requests in a second an agent that is no server passes on to one, -1 (as without it): no bound.
	RPCRate *float64
	// RPCMaxBurst is how many at once; 0: 1000.
	RPCMaxBurst   int
	RequestLimits RequestLimits
}

// RPC is RPCRate and RPCMaxBurst with their defaults.
func (r *Rates) RPC() (perSecond float64, burst int) {
	return orNone(r.RPCRate), cmp.Or(r.RPCMaxBurst, 1000)
}

// RequestLimits bound what a server is asked, by anybody.
type RequestLimits struct {
	Mode                string   // "disabled" (default); "permissive": what is too much is logged; "enforcing": it is refused
	ReadRate, WriteRate *float64 // in a second; -1, as without it: no bound
}

// Rates are both bounds, -1 for none.
func (r *RequestLimits) Rates() (read, write float64) { return orNone(r.ReadRate), orNone(r.WriteRate) }

func orNone(v *float64) float64 {
	if v == nil {
		return -1
	}
	return *v
}

func (r *Rates) validate() error {
	for key, v := range map[string]*float64{
		"limits.rpc_rate": r.RPCRate, "limits.request_limits.read_rate": r.RequestLimits.ReadRate, "limits.request_limits.write_rate": r.RequestLimits.WriteRate,
	} {
		if v := orNone(v); v < 0 && v != -1 {
			return fmt.Errorf("%s: %g: want -1 (no bound) or more than that", key, v)
		}
	}
	if r.RPCMaxBurst < 0 {
		return fmt.Errorf("limits.rpc_max_burst: %d: want 0 (the default) or more", r.RPCMaxBurst)
	}
	switch r.RequestLimits.Mode {
	case "", "disabled", "permissive", "enforcing":
		return nil
	}
	return fmt.Errorf("limits.request_limits.mode: %q: want disabled, permissive or enforcing", r.RequestLimits.Mode)
}

// UnixSockets is whose the sockets of addresses that begin with unix:// are.
type UnixSockets struct {
	User, Group string // names or numbers
	Mode        string // octal, as "0770"
}

// Logging is where logs go beside standard output.
type Logging struct {
	LogFile           string // a file, or a folder with a / at its end
	LogRotateBytes    int64
	LogRotateDuration time.Duration
	LogRotateMaxFiles int // old files that are kept, -1: none, 0: all
	EnableSyslog      bool
	SyslogFacility    string
}

// Owner is the owner, the group (-1: as it is) and the mode of sockets.
func (u *UnixSockets) Owner() (uid, gid int, mode fs.FileMode, err error) {
	uid, gid = -1, -1
	if u.User != "" {
		if uid, err = strconv.Atoi(u.User); err != nil {
			found, err := user.Lookup(u.User)
			if err != nil {
				return 0, 0, 0, fmt.Errorf("unix_sockets.user: %w", err)
			}
			uid, _ = strconv.Atoi(found.Uid)
		}
	}
	if u.Group != "" {
		if gid, err = strconv.Atoi(u.Group); err != nil {
			found, err := user.LookupGroup(u.Group)
			if err != nil {
				return 0, 0, 0, fmt.Errorf("unix_sockets.group: %w", err)
			}
			gid, _ = strconv.Atoi(found.Gid)
		}
	}
	if u.Mode != "" {
		m, err := strconv.ParseUint(u.Mode, 8, 32)
		if err != nil || m > 0o777 {
			return 0, 0, 0, fmt.Errorf("unix_sockets.mode: %q: want octal digits, as \"0770\"", u.Mode)
		}
		mode = fs.FileMode(m)
	}
	return uid, gid, mode, nil
}

// validateWeb finds what can't be in the keys of this file.
func (c *Config) validateWeb() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, e := range c.HTTPConfig.BlockEndpoints {
		if !strings.HasPrefix(e, "/") {
			fault("http_config.block_endpoints: %q: want the beginning of a path, as /v1/agent", e)
		}
	}
	if n := c.HTTPConfig.MaxHeaderBytes; n < 0 || n > 1<<20 {
		fault("http_config.max_header_bytes: %d: want 0 (the default) to %d", n, 1<<20)
	}
	if c.Limits.HTTPMaxConnsPerClient < -1 {
		fault("limits.http_max_conns_per_client: %d: want 0 (the default), -1 (no bound) or more", c.Limits.HTTPMaxConnsPerClient)
	}
	if c.Limits.RPCMaxConnsPerClient < -1 || c.Limits.RPCClientTimeout < 0 {
		fault("limits.rpc_max_conns_per_client, limits.rpc_client_timeout: want 0 (the default) or more (the first: or -1, no bound)")
	}
	if c.Limits.HTTPSHandshakeTimeout < 0 || c.Limits.RPCHandshakeTimeout < 0 || c.LogRotateBytes < 0 || c.LogRotateDuration < 0 || c.LogRotateMaxFiles < -1 {
		fault("limits.https_handshake_timeout, limits.rpc_handshake_timeout, log_rotate_bytes, log_rotate_duration, log_rotate_max_files: want 0 or more (max_files: or -1)")
	}
	_, _, _, err := c.UnixSockets.Owner()
	faults = append(faults, err, c.Limits.validate())
	if c.DiscoveryMaxStale < 0 {
		fault("discovery_max_stale: %s: want 0 (never stale unless asked) or more", c.DiscoveryMaxStale)
	}
	for _, a := range []struct {
		key, list string
		unix      bool
	}{
		{"client_addr", c.ClientAddr, false},
		{"addresses.dns", c.Addresses.DNS, false},
		{"addresses.http", c.Addresses.HTTP, true},
		{"addresses.https", c.Addresses.HTTPS, true},
		{"addresses.grpc", c.Addresses.GRPC, true},
		{"addresses.grpc_tls", c.Addresses.GRPCTLS, true},
	} {
		for addr := range strings.FieldsSeq(a.list) {
			if path, ok := strings.CutPrefix(addr, "unix://"); ok && a.unix && path != "" {
				continue
			}
			if _, err := netip.ParseAddr(addr); err != nil {
				fault("%s: %q isn't an IP address", a.key, addr)
			}
		}
	}
	for i, w := range c.Watches {
		if err := w.Validate(); err != nil {
			fault("watches[%d]: %w", i, err)
		}
	}
	return errors.Join(faults...)
}
