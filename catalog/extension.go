// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

// TransparentProxy is how a proxy takes connections that weren't made to it.
type TransparentProxy struct {
	OutboundListenerPort int `json:",omitempty"`
	// DialedDirectly says that callers' transparent proxies know the addresses of its instances for it too.
	DialedDirectly bool `json:",omitempty"`
}

// ModeTransparent is the mode of a proxy that gets all that its service sends, wherever it goes.
const ModeTransparent = "transparent"

// DefaultOutboundPort is where a transparent proxy takes what its service sends, if nothing else is said.
const DefaultOutboundPort = 15001

// Transparency says how a proxy is transparent, its port filled in; nil says that it isn't. The registration's word counts before that
// of its service's defaults, and that before proxy-defaults'; both may be nil.
func Transparency(p *Proxy, d *ServiceDefaults, global *ProxyDefaults) *TransparentProxy {
	if d == nil {
		d = &ServiceDefaults{}
	}
	if global == nil {
		global = &ProxyDefaults{}
	}
	if cmp.Or(p.Mode, d.Mode, global.Mode) != ModeTransparent {
		return nil
	}
	t := TransparentProxy{OutboundListenerPort: DefaultOutboundPort}
	return p.TransparentProxy.Over(d.TransparentProxy).Over(global.TransparentProxy).Over(&t)
}

// EnvoyExtension is one of Consul's extensions of Envoy.
type EnvoyExtension struct {
	Name          string
	Required      bool
	Arguments     Opaque `json:",omitempty"`
	ConsulVersion string
	EnvoyVersion  string
}

var envoyExtensions = []string{
	"builtin/aws/lambda", "builtin/ext-authz", "builtin/lua", "builtin/otel-access-logging", "builtin/property-override", "builtin/wasm",
}

func (t *TransparentProxy) validate() error {
	if t == nil {
		return nil
	}
	if t.OutboundListenerPort < 0 || t.OutboundListenerPort > 65535 {
		return invalidf("TransparentProxy.OutboundListenerPort is %d, want 0 to 65535", t.OutboundListenerPort)
	}
	return nil
}

// Over is what holds where t is said first and other where t says nothing.
func (t *TransparentProxy) Over(other *TransparentProxy) *TransparentProxy {
	if t == nil || other == nil {
		return cmp.Or(t, other)
	}
	return &TransparentProxy{cmp.Or(t.OutboundListenerPort, other.OutboundListenerPort), t.DialedDirectly || other.DialedDirectly}
}

// Over is what holds where e is said first and other where e says nothing: the paths are those of one of them.
func (e Expose) Over(other Expose) Expose {
	e.Checks = e.Checks || other.Checks
	if len(e.Paths) == 0 {
		e.Paths = slices.Clone(other.Paths)
	}
	return e
}

func validExtensions(list []EnvoyExtension) error {
	for i, e := range list {
		if e.Name == "" {
			return invalidf("EnvoyExtensions[%d]: Name is required", i)
		}
		if err := oneOf(fmt.Sprintf("EnvoyExtensions[%d].Name", i), e.Name, envoyExtensions...); err != nil {
			return err
		}
		if _, err := plain(map[string]any(e.Arguments), 0); err != nil {
			return fmt.Errorf("EnvoyExtensions[%d].Arguments: %w", i, err)
		}
	}
	return nil
}

func (a *AccessLogs) validate() error {
	switch {
	case a == nil:
		return nil
	case a.JSONFormat != "" && a.TextFormat != "":
		return invalidf("AccessLogs: JSONFormat and TextFormat exclude each other")
	case a.Type == "file" && a.Path == "":
		return invalidf("AccessLogs.Path must be set for type file")
	case a.Type != "file" && a.Path != "":
		return invalidf("AccessLogs.Path is for type file only")
	}
	return oneOf("AccessLogs.Type", a.Type, "", "stdout", "stderr", "file")
}

// Validate checks what a registration says of its proxy beside ports and names.
func (p *Proxy) Validate() error {
	if p.RateLimits != nil {
		return invalidf("Proxy.RateLimits can't be registered: write them into the service-defaults of %q", p.DestinationServiceName)
	}
	return firstError(p.TransparentProxy.validate(), p.Expose.validate(), validExtensions(p.EnvoyExtensions), p.AccessLogs.validate(), p.LocalIdentity.validate())
}

// maxLocal bounds lists that are gone through for each connection.
const maxLocal = 64

func (l *LocalIdentity) validate() error {
	switch {
	case l == nil:
		return nil
	case l.None() && l.Proxy == nil:
		return invalidf("Proxy.LocalIdentity without UIDs, Units and Cgroups: name the processes that the service is")
	case l.Proxy != nil && l.Proxy.None():
		return invalidf("Proxy.LocalIdentity.Proxy without UIDs, Units and Cgroups: name the processes that the proxy is")
	}
	err := l.LocalProcesses.validate("Proxy.LocalIdentity")
	if err == nil && l.Proxy != nil {
		err = l.Proxy.validate("Proxy.LocalIdentity.Proxy")
	}
	return err
}

func (l *LocalProcesses) validate(what string) error {
	if n := max(len(l.UIDs), len(l.Units), len(l.Cgroups)); n > maxLocal {
		return invalidf("%s has a list of %d, more than %d", what, n, maxLocal)
	}
	if slices.Contains(l.UIDs, ^uint32(0)) {
		return invalidf("%s.UIDs: %d is no user", what, ^uint32(0))
	}
	for _, u := range l.Units {
		if dot := strings.LastIndexByte(u, '.'); dot < 1 || !slices.Contains([]string{"service", "scope", "slice"}, u[dot+1:]) || strings.Contains(u, "/") {
			return invalidf("%s.Units: %q is no unit with processes: want its whole name, as web.service", what, u)
		}
	}
	for _, c := range l.Cgroups {
		if c == "/" || path.Clean(c) != c || !path.IsAbs(c) {
			return invalidf("%s.Cgroups: %q is no path of a cgroup: want it as in /proc/PID/cgroup after 0::, as /system.slice/web.service", what, c)
		}
	}
	return nil
}

// Ineffective names what is kept of a proxy and has no effect yet, as in a configuration file.
func (p *Proxy) Ineffective() (keys []string) {
	if len(p.EnvoyExtensions) > 0 {
		keys = append(keys, "envoy_extensions")
	}
	return keys
}

// IneffectiveFields names the fields of an entry that are kept and have no effect yet.
func IneffectiveFields(e Entry) (fields []string) {
	var extensions []EnvoyExtension
	switch e := e.(type) {
	case *ServiceDefaults:
		extensions = e.EnvoyExtensions
	case *ProxyDefaults:
		extensions = e.EnvoyExtensions
	}
	return append(fields, ineffectiveExtensions(extensions)...)
}

// ineffectiveExtensions names those that have no effect: all but the first ext-authz that can be taken for ExternalAuthorization.
func ineffectiveExtensions(list []EnvoyExtension) (fields []string) {
	taken, others := false, false
	for i, e := range list {
		a, err := e.Authorization()
		switch {
		case err != nil:
			fields = append(fields, fmt.Sprintf("EnvoyExtensions[%d] (%s: %v; ExternalAuthorization says what weft can do)", i, e.Name, err))
		case a == nil || taken:
			others = true
		default:
			taken = true
		}
	}
	if others {
		fields = append(fields, "EnvoyExtensions")
	}
	return fields
}
