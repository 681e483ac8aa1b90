// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

func (h *EntryHead) normalize() {
	h.Partition = cmp.Or(h.Partition, DefaultPartition)
	h.Namespace = cmp.Or(h.Namespace, DefaultNamespace)
	if len(h.Meta) == 0 {
		h.Meta = nil
	}
}

func (m *MeshGatewayMode) normalize() { m.Mode = strings.ToLower(m.Mode) }

func (e *Expose) normalize() {
	for i := range e.Paths {
		e.Paths[i].Protocol = cmp.Or(e.Paths[i].Protocol, ProtocolHTTP)
	}
}

// Normalize lower-cases protocols.
func (e *ServiceDefaults) Normalize() {
	e.normalize()
	e.Protocol = strings.ToLower(e.Protocol)
	e.MutualTLSMode = strings.ToLower(e.MutualTLSMode)
	normalizePorts(e.MutualTLSPorts)
	e.AdaptiveConcurrency.normalize()
	e.ExternalAuthorization.normalize()
	e.MeshGateway.normalize()
	e.Expose.normalize()
	e.Destination.normalize()
	if u := e.UpstreamConfig; u != nil {
		if u.Defaults != nil {
			u.Defaults.normalize()
		}
		for i := range u.Overrides {
			u.Overrides[i].normalize()
		}
	}
}

func (u *UpstreamConfig) normalize() {
	u.Protocol = strings.ToLower(u.Protocol)
	u.MeshGateway.normalize()
}

// Normalize gives the entry its one name if it has none.
func (e *ProxyDefaults) Normalize() {
	e.normalize()
	e.Name = cmp.Or(e.Name, ProxyDefaultsName)
	e.ExternalAuthorization.normalize()
	e.MutualTLSMode = strings.ToLower(e.MutualTLSMode)
	e.MeshGateway.normalize()
	e.Expose.normalize()
}

// Normalize gives the entry its one name, whatever it had.
func (e *Mesh) Normalize() {
	e.normalize()
	e.Name = MeshName
}

// SourcePrecedence is the precedence of a rule by Consul's table: how exact its two names are.
func SourcePrecedence(source, destination Key) int {
	exact := func(k Key) int {
		switch {
		case k.Name != Wildcard:
			return 2
		case k.Namespace != Wildcard:
			return 1
		}
		return 0
	}
	return 3*exact(destination) + exact(source) + 1
}

// Normalize brings the sources into the stored order: by falling precedence, then by name.
func (e *ServiceIntentions) Normalize() {
	e.normalize()
	for i := range e.Sources {
		s := &e.Sources[i]
		s.Type = cmp.Or(s.Type, "consul")
		s.Action = strings.ToLower(s.Action)
		if s.Namespace == "" {
			s.Namespace = e.Namespace
			if s.Namespace == Wildcard {
				s.Namespace = DefaultNamespace
			}
		}
		if s.Partition == "" && s.Peer == "" {
			s.Partition = e.Partition
		}
		s.Precedence = SourcePrecedence(s.key(), e.Key())
		for j := range s.Permissions {
			p := &s.Permissions[j]
			if a := strings.ToLower(p.Action); a != p.Action { // what is stored already may be read at the same time
				p.Action = a
			}
			if p.HTTP != nil {
				upper(p.HTTP.Methods)
			}
		}
	}
	slices.SortStableFunc(e.Sources, func(a, b SourceIntention) int {
		if a.Precedence != b.Precedence {
			return b.Precedence - a.Precedence
		}
		return strings.Compare(join(a.Name, a.Peer, a.Partition, a.Namespace), join(b.Name, b.Peer, b.Partition, b.Namespace))
	})
}

func (s *SourceIntention) key() Key {
	return Key{Scope: Scope{Partition: s.Partition, Namespace: s.Namespace, Peer: s.Peer}, Name: s.Name}
}

func upper(list []string) {
	for i := range list {
		if u := strings.ToUpper(list[i]); u != list[i] {
			list[i] = u
		}
	}
}

// Normalize upper-cases methods.
func (e *ServiceRouter) Normalize() {
	e.normalize()
	for i := range e.Routes {
		if len(e.Routes[i].MatchAny) == 0 {
			e.Routes[i].MatchAny = nil
		}
		if d := e.Routes[i].Destination; d != nil {
			upper(d.RetryMethods)
			if d.CORS != nil {
				upper(d.CORS.AllowMethods)
			}
		}
		for _, m := range e.Routes[i].Matches() {
			if m.HTTP != nil {
				upper(m.HTTP.Methods)
				m.HTTP.Scheme = strings.ToLower(m.HTTP.Scheme)
			}
		}
	}
}

// Normalize rounds weights to two decimals.
func (e *ServiceSplitter) Normalize() {
	e.normalize()
	for i := range e.Splits {
		e.Splits[i].Weight = math.Round(e.Splits[i].Weight*100) / 100
	}
}

// Normalize fills in the entry's scope.
func (e *ServiceResolver) Normalize() { e.normalize() }
