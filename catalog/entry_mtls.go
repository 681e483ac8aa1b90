// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"strings"
)

// The modes of mutual TLS towards an instance.
const (
	// MTLSStrict takes mutual TLS only; it holds where nothing is said.
	MTLSStrict = "strict"
	// MTLSPermissive takes plain text too. Who calls so has no identity: only rules about every source are about it.
	MTLSPermissive = "permissive"
	// MTLSOff is weft's: plain text only. Nobody has an identity, and sidecars call in plain text.
	MTLSOff = "off"
)

// PortMutualTLS is the mode for instances whose application listens on a port.
type PortMutualTLS struct {
	Port int
	Mode string
}

// MutualTLS is the mode that holds for an instance of a service whose application listens on port: the port's, else that of
// service-defaults, else that of proxy-defaults. Either entry may be nil.
func MutualTLS(d *ServiceDefaults, p *ProxyDefaults, port int) string {
	if d != nil {
		for _, m := range d.MutualTLSPorts {
			if m.Port == port {
				return m.Mode
			}
		}
		if d.MutualTLSMode != "" {
			return d.MutualTLSMode
		}
	}
	if p != nil && p.MutualTLSMode != "" {
		return p.MutualTLSMode
	}
	return MTLSStrict
}

func mutualTLS(v string) error {
	return oneOf("MutualTLSMode", v, "", MTLSStrict, MTLSPermissive, MTLSOff)
}

func mutualTLSPorts(ports []PortMutualTLS) error {
	seen := map[int]bool{}
	for i, p := range ports {
		f := fmt.Sprintf("MutualTLSPorts[%d]", i)
		if err := firstError(port(f+".Port", p.Port), oneOf(f+".Mode", p.Mode, MTLSStrict, MTLSPermissive, MTLSOff)); err != nil {
			return err
		}
		if seen[p.Port] {
			return invalidf("%s.Port %d: name each port once", f, p.Port)
		}
		seen[p.Port] = true
	}
	return nil
}

func normalizePorts(ports []PortMutualTLS) {
	for i := range ports {
		ports[i].Mode = strings.ToLower(ports[i].Mode)
	}
}

// TakesPlain says which field of an entry has instances take plain text, "" for none.
func TakesPlain(e Entry) string {
	plain := func(mode string) bool { return mode == MTLSPermissive || mode == MTLSOff }
	switch e := e.(type) {
	case *ServiceDefaults:
		if plain(e.MutualTLSMode) {
			return "MutualTLSMode"
		}
		for i, p := range e.MutualTLSPorts {
			if plain(p.Mode) {
				return fmt.Sprintf("MutualTLSPorts[%d].Mode", i)
			}
		}
	case *ProxyDefaults:
		if plain(e.MutualTLSMode) {
			return "MutualTLSMode"
		}
	}
	return ""
}
