// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// EntryKind is KindIngressEntry.
func (*IngressGateway) EntryKind() string { return KindIngressEntry }

// Normalize lower-cases protocols.
func (e *IngressGateway) Normalize() {
	e.normalize()
	for i := range e.Listeners {
		e.Listeners[i].Protocol = cmp.Or(strings.ToLower(e.Listeners[i].Protocol), ProtocolTCP)
	}
}

// Validate checks ports, protocols, hosts and services.
func (e *IngressGateway) Validate() error {
	if err := firstError(e.validate(), e.exactName(), e.TLS.validate("TLS")); err != nil {
		return err
	}
	ports := map[int]bool{}
	for i, l := range e.Listeners {
		f := fmt.Sprintf("Listeners[%d]", i)
		if ports[l.Port] {
			return invalidf("port %d declared on two listeners", l.Port)
		}
		ports[l.Port] = true
		if err := firstError(port(f+".Port", l.Port), oneOf(f+".Protocol", l.Protocol, ProtocolTCP, ProtocolHTTP, ProtocolHTTP2, ProtocolGRPC)); err != nil {
			return err
		}
		if err := l.validate(f); err != nil {
			return err
		}
	}
	return nil
}

func (l *IngressListener) validate(f string) error {
	if l.TLS != nil {
		if err := l.TLS.validate(f + ".TLS"); err != nil {
			return err
		}
	}
	if len(l.Services) == 0 {
		return invalidf("No service declared for listener with port %d", l.Port)
	}
	if l.Protocol == ProtocolTCP && len(l.Services) > 1 {
		return invalidf("Multiple services per listener are only supported for L7 protocols, 'http', 'grpc', or 'http2' (listener on port %d)", l.Port)
	}
	hosts := map[string]bool{}
	for _, s := range l.Services {
		switch {
		case s.Name == "":
			return invalidf("Service name cannot be blank (listener on port %d)", l.Port)
		case l.Protocol == ProtocolTCP && s.Name == Wildcard:
			return invalidf("Wildcard service name is only valid for protocol = 'http' (listener on port %d)", l.Port)
		case l.Protocol == ProtocolTCP && len(s.Hosts) > 0:
			return invalidf("Associating hosts to a service is not supported for the tcp protocol (listener on port %d)", l.Port)
		case s.Name == Wildcard && len(s.Hosts) > 0:
			return invalidf("Associating hosts to a wildcard service is not supported (listener on port %d)", l.Port)
		}
		for _, h := range s.Hosts {
			if hosts[h] {
				return invalidf("Hosts must be unique within a specific listener (listener on port %d, host %q)", l.Port, h)
			}
			hosts[h] = true
		}
	}
	return nil
}

func (t *GatewayTLS) validate(f string) error {
	return (&TLSRange{TLSMinVersion: t.TLSMinVersion, TLSMaxVersion: t.TLSMaxVersion}).validate(f)
}

// EntryKind is KindTerminatingEntry.
func (*TerminatingGateway) EntryKind() string { return KindTerminatingEntry }

// Normalize brings the scope into its form.
func (e *TerminatingGateway) Normalize() { e.normalize() }

// Validate checks services and their certificates.
func (e *TerminatingGateway) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, s := range e.Services {
		switch {
		case s.Name == "":
			return invalidf("Service name cannot be blank.")
		case seen[s.Name]:
			return invalidf("Service %q was specified more than once within a namespace", s.Name)
		case (s.CertFile == "") != (s.KeyFile == "") || s.CertFile != "" && s.CAFile == "":
			return invalidf("Service %q must have a CertFile, CAFile, and KeyFile specified for TLS origination", s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}

// EntryKind is KindAPIGatewayEntry.
func (*APIGateway) EntryKind() string { return KindAPIGatewayEntry }

// Normalize lower-cases protocols.
func (e *APIGateway) Normalize() {
	e.normalize()
	for i := range e.Listeners {
		e.Listeners[i].Protocol = strings.ToLower(e.Listeners[i].Protocol)
	}
}

// Validate checks that listeners have names and ports, and that those of one port agree.
func (e *APIGateway) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	names, ports := map[string]bool{}, map[int]APIGatewayListener{}
	for i, l := range e.Listeners {
		f := fmt.Sprintf("Listeners[%d]", i)
		if names[l.Name] {
			return invalidf("%s: there are two listeners named %q", f, l.Name)
		}
		names[l.Name] = true
		tlsRange := &TLSRange{TLSMinVersion: l.TLS.MinVersion, TLSMaxVersion: l.TLS.MaxVersion}
		err := firstError(port(f+".Port", l.Port), oneOf(f+".Protocol", l.Protocol, ProtocolHTTP, ProtocolTCP, ProtocolHTTP2, ProtocolGRPC), tlsRange.validate(f+".TLS"))
		if err != nil {
			return err
		}
		if other, ok := ports[l.Port]; ok && (other.Protocol != l.Protocol || other.Hostname != l.Hostname) {
			return invalidf("multiple listeners with the same port %d must have the same protocol and hostname", l.Port)
		}
		ports[l.Port] = l
	}
	return nil
}

// EntryKind is KindBoundAPIGateway.
func (*BoundAPIGateway) EntryKind() string { return KindBoundAPIGateway }

// Normalize brings the scope into its form.
func (e *BoundAPIGateway) Normalize() { e.normalize() }

// Validate refuses: servers write this kind.
func (e *BoundAPIGateway) Validate() error {
	return invalidf("entries of kind %s are written by servers alone", KindBoundAPIGateway)
}

// EntryKind is KindHTTPRoute.
func (*HTTPRoute) EntryKind() string { return KindHTTPRoute }

// Normalize fills in matches, methods and weights.
func (e *HTTPRoute) Normalize() {
	e.normalize()
	normalizeParents(e.Parents)
	for i := range e.Rules {
		r := &e.Rules[i]
		if len(r.Matches) == 0 {
			r.Matches = []HTTPRouteMatch{{}}
		}
		for j := range r.Matches {
			m := &r.Matches[j]
			m.Method = strings.ToUpper(m.Method)
			if m.Path == (HTTPRoutePath{}) {
				m.Path = HTTPRoutePath{"prefix", "/"}
			}
		}
		for j := range r.Services {
			if r.Services[j].Weight == 0 {
				r.Services[j].Weight = 1
			}
		}
	}
}

func normalizeParents(parents []ResourceRef) {
	for i := range parents {
		parents[i].Kind = cmp.Or(parents[i].Kind, KindAPIGatewayEntry)
	}
}

func validateParents(parents []ResourceRef) error {
	for i, p := range parents {
		if p.Kind != KindAPIGatewayEntry {
			return invalidf("Parents[%d].Kind %q must be %s", i, p.Kind, KindAPIGatewayEntry)
		}
		if p.Name == "" {
			return invalidf("Parents[%d].Name must be set", i)
		}
	}
	return nil
}

// Validate checks hosts, matches and services.
func (e *HTTPRoute) Validate() error {
	if err := firstError(e.validate(), e.exactName(), validateParents(e.Parents)); err != nil {
		return err
	}
	for _, h := range e.Hostnames {
		if h == "" || strings.Contains(h, Wildcard) {
			return invalidf("host %q must not be a wildcard", h)
		}
	}
	for i, r := range e.Rules {
		for j, m := range r.Matches {
			f := fmt.Sprintf("Rules[%d].Matches[%d]", i, j)
			err := oneOf(f+".Path.Match", m.Path.Match, "exact", "prefix", "regex")
			if err == nil && m.Path.Match != "regex" && !strings.HasPrefix(m.Path.Value, "/") {
				err = invalidf("%s.Path.Value %q must begin with '/'", f, m.Path.Value)
			}
			for _, v := range slices.Concat(m.Headers, m.Query) {
				err = firstError(err, oneOf(f+".Match", v.Match, "exact", "prefix", "suffix", "present", "regex"))
			}
			if err != nil {
				return err
			}
		}
		for j, s := range r.Services {
			if s.Name == "" || s.Weight < 0 {
				return invalidf("Rules[%d].Services[%d] must have a Name, and a Weight that isn't negative", i, j)
			}
		}
	}
	return nil
}

// EntryKind is KindTCPRoute.
func (*TCPRoute) EntryKind() string { return KindTCPRoute }

// Normalize names the parents' kind.
func (e *TCPRoute) Normalize() {
	e.normalize()
	normalizeParents(e.Parents)
}

// Validate checks that there is one service at most.
func (e *TCPRoute) Validate() error {
	if err := firstError(e.validate(), e.exactName(), validateParents(e.Parents)); err != nil {
		return err
	}
	if len(e.Services) > 1 {
		return invalidf("tcp-route currently only supports one service")
	}
	return nil
}

// EntryKind is KindInlineCertificate.
func (*InlineCertificate) EntryKind() string { return KindInlineCertificate }

// Normalize brings the scope into its form.
func (e *InlineCertificate) Normalize() { e.normalize() }

// Validate checks that certificate and key are a pair.
func (e *InlineCertificate) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	if _, err := tls.X509KeyPair([]byte(e.Certificate.Certificate), []byte(e.PrivateKey)); err != nil {
		return invalidf("Certificate and PrivateKey aren't a pair in PEM: %v", err)
	}
	return nil
}

// EntryKind is KindFileCertificate.
func (*FileCertificate) EntryKind() string { return KindFileCertificate }

// Normalize brings the scope into its form.
func (e *FileCertificate) Normalize() { e.normalize() }

// Validate checks that both paths are there.
func (e *FileCertificate) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	if e.Certificate.Certificate == "" || e.PrivateKey == "" {
		return invalidf("Certificate and PrivateKey must be paths")
	}
	return nil
}

// EntryKind is KindExportedServices.
func (*ExportedServices) EntryKind() string { return KindExportedServices }

// Normalize gives the entry its one name if it has none.
func (e *ExportedServices) Normalize() {
	e.normalize()
	e.Name = cmp.Or(e.Name, ExportedServicesName)
}

// Validate checks services and consumers.
func (e *ExportedServices) Validate() error {
	if err := e.validate(); err != nil {
		return err
	}
	if e.Name != ExportedServicesName {
		return invalidf("exported-services Name must be %q", ExportedServicesName)
	}
	for i, s := range e.Services {
		if s.Name == "" {
			return invalidf("Services[%d]: service name cannot be empty", i)
		}
		if len(s.Consumers) == 0 {
			return invalidf("Services[%d]: must have at least one consumer", i)
		}
		for j, c := range s.Consumers {
			n := 0
			for _, v := range []string{c.Partition, c.Peer, c.SamenessGroup} {
				if v != "" {
					n++
				}
				if v == Wildcard {
					return invalidf("Services[%d].Consumers[%d]: exporting to all partitions or peers (wildcard) is not supported", i, j)
				}
			}
			if n != 1 {
				return invalidf("Services[%d].Consumers[%d]: must define exactly one of Peer, Partition and SamenessGroup", i, j)
			}
		}
	}
	return nil
}

// EntryKind is KindSamenessGroup.
func (*SamenessGroup) EntryKind() string { return KindSamenessGroup }

// Normalize brings the scope into its form.
func (e *SamenessGroup) Normalize() { e.normalize() }

// Validate checks that each member is one thing.
func (e *SamenessGroup) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	for i, m := range e.Members {
		if (m.Partition == "") == (m.Peer == "") {
			return invalidf("Members[%d] must have exactly one of Partition and Peer", i)
		}
	}
	return nil
}

// EntryKind is KindRequestLimit.
func (*RequestLimit) EntryKind() string { return KindRequestLimit }

// Normalize brings the scope into its form.
func (e *RequestLimit) Normalize() { e.normalize() }

// Validate checks mode and rates.
func (e *RequestLimit) Validate() error {
	if err := firstError(e.validate(), e.exactName(), oneOf("Mode", e.Mode, "permissive", "enforcing", "disabled")); err != nil {
		return err
	}
	if e.ReadRate < 0 || e.WriteRate < 0 {
		return invalidf("ReadRate and WriteRate must not be negative")
	}
	return nil
}
