// SPDX-License-Identifier: Apache-2.0

package local

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/guard"
)

// ErrInvalid marks a registration that can't be taken; the wrapping text says which field and why.
var ErrInvalid = errors.New("invalid registration")

// ErrUnknown marks a service or check that isn't registered on this agent.
var ErrUnknown = errors.New("not registered on this agent")

// Limits on what a registration may hold, as Consul's.
const (
	maxMetaPairs  = 64
	maxMetaKey    = 128
	maxMetaValue  = 512
	minInterval   = time.Second
	defaultOutput = 4096
)

var metaKey = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// invalid is an error that a person reads: text alone, still an ErrInvalid.
type invalid string

func (e invalid) Error() string        { return string(e) }
func (e invalid) Is(target error) bool { return target == ErrInvalid }

func invalidf(format string, args ...any) error { return invalid(fmt.Sprintf(format, args...)) }

func (d *ServiceDefinition) validate() error {
	if d.Name == "" {
		return invalidf("Missing service name")
	}
	if err := validName("service name", d.Name); err != nil {
		return err
	}
	if err := validName("service ID", d.ID); err != nil {
		return err
	}
	if d.Port < 0 || d.Port > 65535 {
		return invalidf("Invalid Port of service %q: want 0 to 65535, got %d", d.ID, d.Port)
	}
	if d.Address == "0.0.0.0" || d.Address == "::" || d.Address == "[::]" {
		return invalidf("Invalid service address: %q can't be dialled by others; leave it empty for the node's address", d.Address)
	}
	if w := d.Weights; w != nil && (w.Passing < 1 || w.Warning < 0 || w.Passing > 65535 || w.Warning > 65535) {
		return invalidf("Invalid Weights: Passing must be 1 to 65535 and Warning 0 to 65535, got %d and %d", w.Passing, w.Warning)
	}
	if err := validMeta(d.Meta); err != nil {
		return err
	}
	for _, p := range d.Ports {
		if p.Name == "" || p.Port < 1 || p.Port > 65535 {
			return invalidf("Invalid Ports of service %q: want a name and 1 to 65535, got %q and %d", d.ID, p.Name, p.Port)
		}
	}
	if d.SocketPath != "" && d.Port != 0 {
		return invalidf("service %q: Port and SocketPath exclude each other", d.ID)
	}
	return d.validateMesh()
}

func (d *ServiceDefinition) validateMesh() error {
	switch d.Kind {
	case "":
		if d.Proxy != nil {
			return invalidf("service %q: Proxy is only for Kind %q", d.ID, catalog.KindConnectProxy)
		}
	case catalog.KindConnectProxy:
		if d.Proxy == nil || d.Proxy.DestinationServiceName == "" {
			return invalidf("Proxy.DestinationServiceName must be non-empty for Connect proxy services")
		}
		if d.Port == 0 && d.SocketPath == "" {
			return invalidf("Port or SocketPath must be set for a %s: service %q", d.Kind, d.ID)
		}
		if d.Connect != nil {
			return invalidf("service %q: a proxy can't have Connect", d.ID)
		}
		if err := d.Proxy.Validate(); err != nil {
			return invalidf("service %q: %v", d.ID, err)
		}
		return validProxy(d)
	default:
		return invalidf("service %q: Kind %q isn't one that this agent runs: want \"\" or %q", d.ID, d.Kind, catalog.KindConnectProxy)
	}
	if c := d.Connect; c != nil && c.Native && d.Port == 0 {
		return invalidf("service %q: Connect.Native needs a Port", d.ID)
	}
	if c := d.Connect; c != nil && c.Native && c.SidecarService != nil {
		return invalidf("service %q: Connect.Native and Connect.SidecarService exclude each other", d.ID)
	}
	return nil
}

func validProxy(d *ServiceDefinition) error {
	scope := catalog.Scope{Partition: d.Partition, Namespace: d.Namespace}.Default("")
	binds, names := map[string]string{}, map[string]string{}
	for i, u := range d.Proxy.Upstreams {
		at := fmt.Sprintf("Proxy.Upstreams[%d] of service %q", i, d.ID)
		switch {
		case u.DestinationName == "":
			return invalidf("%s: DestinationName is missing", at)
		case u.DestinationType != "" && u.DestinationType != "service":
			return invalidf("%s: DestinationType %q: want \"service\"", at, u.DestinationType)
		case u.Key(scope).Fold() == scope.Name(d.Proxy.DestinationServiceName).Fold() && u.Datacenter == "":
			return invalidf("%s: service %q can't be an upstream of itself", at, u.DestinationName)
		case u.LocalBindPort == 0 && u.LocalBindSocketPath == "" && (d.Proxy.Mode != catalog.ModeTransparent || u.Config[catalog.UpstreamNamesKey] != nil):
			return invalidf("%s: LocalBindPort or LocalBindSocketPath is missing", at)
		case u.LocalBindPort != 0 && u.LocalBindSocketPath != "":
			return invalidf("%s: LocalBindPort and LocalBindSocketPath exclude each other", at)
		case u.LocalBindPort < 0 || u.LocalBindPort > 65535:
			return invalidf("%s: LocalBindPort: want 1 to 65535, got %d", at, u.LocalBindPort)
		}
		if u.LocalBindAddress != "" {
			if _, err := netip.ParseAddr(u.LocalBindAddress); err != nil {
				return invalidf("%s: LocalBindAddress %q isn't an IP address", at, u.LocalBindAddress)
			}
		}
		bind := u.LocalBindSocketPath
		if bind == "" {
			bind = fmt.Sprintf("%s:%d", cmp.Or(u.LocalBindAddress, "127.0.0.1"), u.LocalBindPort)
		}
		sni, err := catalog.UpstreamNames(u.Config)
		if err != nil {
			return invalidf("%s: Config.%v", at, err)
		}
		for _, name := range sni {
			if other, taken := names[bind+" "+name]; taken {
				return invalidf("%s: Config.%s: %q leads to upstream %q already", at, catalog.UpstreamNamesKey, name, other)
			}
			names[bind+" "+name] = u.DestinationName
		}
		// One place is for one upstream, or for one and others that are told apart by server name.
		if sni != nil || u.LocalBindPort == 0 && u.LocalBindSocketPath == "" {
			continue
		}
		if other, taken := binds[bind]; taken {
			return invalidf("%s: listens at the same place as upstream %q", at, other)
		}
		binds[bind] = u.DestinationName
	}
	return nil
}

func validName(what, s string) error {
	if len(s) > 255 {
		return invalidf("%s is longer than 255 bytes", what)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		return invalidf("%s %q has a character that can't be printed at byte %d", what, s, i)
	}
	return nil
}

func validMeta(meta map[string]string) error {
	if len(meta) > maxMetaPairs {
		return invalidf("Invalid Service Meta: Node metadata cannot contain more than %d key/value pairs", maxMetaPairs)
	}
	for k, v := range meta {
		if !metaKey.MatchString(k) || len(k) > maxMetaKey {
			return invalidf("Invalid Service Meta: key %q: want letters, digits, - and _, at most %d", k, maxMetaKey)
		}
		if len(v) > maxMetaValue {
			return invalidf("Invalid Service Meta: the value of %q is longer than %d bytes", k, maxMetaValue)
		}
	}
	return nil
}

func (d *CheckDefinition) validate() error {
	kind := d.Type()
	switch {
	case d.DockerContainerID != "":
		return invalidf("Invalid check: docker checks aren't run: what may use Docker's socket may do everything on the host; " +
			"check the container by HTTP, TCP or GRPC, or by ScriptArgs with `docker exec` where the agent may run that")
	case d.OSService != "":
		return invalidf("Invalid check: OSService checks are for Windows and not implemented here; use ScriptArgs with `systemctl is-active`, say")
	}
	switch {
	case d.Interval != 0 && d.TTL != 0:
		return invalidf("Invalid check: Interval and TTL cannot both be specified")
	case kind == "" && d.Interval != 0:
		return invalidf("Invalid check: nothing to run: give one of HTTP, TCP, UDP, GRPC, H2PING, ScriptArgs, TTL or AliasService")
	case kind == "":
		return invalidf("Invalid check: TTL must be > 0 for TTL checks")
	case kind == TypeAlias && d.Interval != 0:
		return invalidf("Invalid check: Interval cannot be set for Alias checks")
	case kind != TypeTTL && kind != TypeAlias && d.Interval <= 0:
		return invalidf("Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks")
	case d.TTL < 0 || d.Timeout < 0 || d.DeregisterCriticalServiceAfter < 0:
		return invalidf("Invalid check: a negative duration")
	case d.FailuresBeforeCritical != 0 && d.FailuresBeforeWarning > d.FailuresBeforeCritical:
		return invalidf("Invalid check: FailuresBeforeWarning can't be higher than FailuresBeforeCritical")
	case d.SuccessBeforePassing < 0 || d.FailuresBeforeWarning < 0 || d.FailuresBeforeCritical < 0 || d.OutputMaxSize < 0:
		return invalidf("Invalid check: a negative count")
	}
	return validStatus(d.Status)
}

func validStatus(status string) error {
	switch status {
	case "", catalog.HealthPassing, catalog.HealthWarning, catalog.HealthCritical:
		return nil
	}
	return invalidf("Status for checks must 'passing', 'warning', 'critical'; got %q", status)
}

// ScriptPolicy says whose checks may run programs on this host.
type ScriptPolicy struct {
	API   bool // enable_script_checks: those that the API registers too
	Files bool // enable_local_script_checks: those of configuration files
}

// allow refuses checks that would run a program and may not.
func (p ScriptPolicy) allow(configured bool, checks ...CheckDefinition) error {
	for _, c := range checks {
		switch {
		case c.Type() != TypeScript || p.API || configured && p.Files || guard.Off("C118"):
		case configured:
			return invalidf("Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or 'enable_local_script_checks' to true")
		default:
			return invalidf("Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true")
		}
	}
	return nil
}

// allChecks are those of a service and of its sidecar.
func (d *ServiceDefinition) allChecks() []CheckDefinition {
	all := d.Checks
	if d.Check != nil {
		all = append(all[:len(all):len(all)], *d.Check)
	}
	if d.Connect != nil && d.Connect.SidecarService != nil {
		all = append(all[:len(all):len(all)], d.Connect.SidecarService.allChecks()...)
	}
	return all
}
