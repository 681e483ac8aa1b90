// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"strings"

	"github.com/weftmesh/weft/internal/guard"
)

// Parse reads a SPIFFE URI. It takes only the canonical spelling of the six forms: no query, fragment, port, userinfo,
// percent-encoding, empty or dot segment, upper case outside service, account and node names, or spelled-out default
// partition, and at most MaxURILength bytes. So Parse(s) succeeding means that String gives s back.
// Errors wrap ErrInvalid.
func Parse(uri string) (Identity, error) {
	if len(uri) > MaxURILength {
		return nil, fmt.Errorf("%w: URI has %d bytes, at most %d are allowed", ErrInvalid, len(uri), MaxURILength)
	}
	rest, ok := strings.CutPrefix(uri, scheme)
	if !ok {
		return nil, fmt.Errorf("%w: %q doesn't begin with spiffe://", ErrInvalid, clip(uri))
	}
	domain, path, hasPath := strings.Cut(rest, "/")
	td := TrustDomain(domain)
	var id Identity = Signing{TrustDomain: td}
	if hasPath {
		if id, ok = parsePath(td, strings.Split(path, "/")); !ok {
			return nil, fmt.Errorf("%w: the path of %q is not that of a service, service account, agent, server or gateway", ErrInvalid, clip(uri))
		}
	}
	if err := id.Validate(); err != nil && !guard.Off("C85") {
		return nil, fmt.Errorf("%w (in %q)", err, clip(uri))
	}
	if id.String() != uri && !guard.Off("C83") {
		return nil, fmt.Errorf("%w: %q is not the canonical form, which is %q", ErrInvalid, clip(uri), clip(id.String()))
	}
	return id, nil
}

// parsePath recognises the forms by their fixed segments and checks no names.
func parsePath(td TrustDomain, seg []string) (Identity, bool) {
	partition := Default
	partitioned := len(seg) >= 2 && seg[0] == "ap"
	if partitioned {
		partition, seg = seg[1], seg[2:]
	}
	switch {
	case matches(seg, "ns", "", "dc", "", "svc", ""):
		return Service{TrustDomain: td, Partition: partition, Namespace: seg[1], Datacenter: seg[3], Service: seg[5]}, true
	case matches(seg, "ns", "", "sa", ""):
		return ServiceAccount{TrustDomain: td, Partition: partition, Namespace: seg[1], Name: seg[3]}, true
	case matches(seg, "agent", "client", "dc", "", "id", ""):
		return Agent{TrustDomain: td, Partition: partition, Datacenter: seg[3], Node: seg[5]}, true
	case matches(seg, "agent", "server", "dc", "") && !partitioned:
		return Server{TrustDomain: td, Datacenter: seg[3]}, true
	case matches(seg, "gateway", "mesh", "dc", ""):
		return MeshGateway{TrustDomain: td, Partition: partition, Datacenter: seg[3]}, true
	}
	return nil, false
}

// matches compares segments with a pattern in which "" stands for any one segment.
func matches(seg []string, pattern ...string) bool {
	if len(seg) != len(pattern) {
		return false
	}
	for i, want := range pattern {
		if want != "" && seg[i] != want {
			return false
		}
	}
	return true
}

// Validate checks every part; see Identity.
func (s Service) Validate() error {
	return check(s, s.TrustDomain, part{"partition", orDefault(s.Partition), true}, part{"namespace", orDefault(s.Namespace), true},
		part{"datacenter", s.Datacenter, true}, part{"service", s.Service, false})
}

// Validate checks every part; see Identity.
func (s ServiceAccount) Validate() error {
	return check(s, s.TrustDomain, part{"partition", orDefault(s.Partition), true}, part{"namespace", orDefault(s.Namespace), true},
		part{"service account", s.Name, false})
}

// Validate checks every part; see Identity.
func (a Agent) Validate() error {
	return check(a, a.TrustDomain, part{"partition", orDefault(a.Partition), true}, part{"datacenter", a.Datacenter, true},
		part{"node", a.Node, false})
}

// Validate checks every part; see Identity.
func (s Server) Validate() error {
	return check(s, s.TrustDomain, part{"datacenter", s.Datacenter, true})
}

// Validate checks every part; see Identity.
func (g MeshGateway) Validate() error {
	return check(g, g.TrustDomain, part{"partition", orDefault(g.Partition), true}, part{"datacenter", g.Datacenter, true})
}

// Validate checks the trust domain; see Identity.
func (s Signing) Validate() error { return check(s, s.TrustDomain) }

// part is one name in an identity. A label also stands between dots in an SNI, so it takes neither dots nor upper case.
type part struct {
	what  string
	value string
	label bool
}

func check(id Identity, td TrustDomain, parts ...part) error {
	if err := td.Validate(); err != nil {
		return err
	}
	for _, p := range parts {
		if err := p.validate(); err != nil {
			return err
		}
	}
	if n := len(id.String()); n > MaxURILength {
		return fmt.Errorf("%w: URI would have %d bytes, at most %d are allowed", ErrInvalid, n, MaxURILength)
	}
	return nil
}

func (p part) validate() error {
	if p.value == "" {
		return fmt.Errorf("%w: %s is empty", ErrInvalid, p.what)
	}
	if p.value == "." || p.value == ".." {
		return fmt.Errorf("%w: %s is %q, which is a path step and not a name", ErrInvalid, p.what, p.value)
	}
	for i := range len(p.value) {
		c := p.value[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case !p.label && ('A' <= c && c <= 'Z' || c == '.'):
		case p.label:
			return fmt.Errorf("%w: %s %q: only lower-case letters, digits, dash and underscore are allowed", ErrInvalid, p.what, clip(p.value))
		default:
			return fmt.Errorf("%w: %s %q: only letters, digits, dot, dash and underscore are allowed", ErrInvalid, p.what, clip(p.value))
		}
	}
	return nil
}
