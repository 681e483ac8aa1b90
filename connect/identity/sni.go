// SPDX-License-Identifier: Apache-2.0

package identity

import "strings"

// SNI gives the server name that leads to the service, which is also the name of the upstream's cluster:
// "<service>.<namespace>.<dc>.internal.<td>", or for a partition other than the default one
// "<service>.<namespace>.<partition>.<dc>.internal-v1.<td>".
func (s Service) SNI() string { return s.SubsetSNI("") }

// SubsetSNI is SNI with the name of a subset and a dot in front. The empty subset is the whole service.
func (s Service) SubsetSNI(subset string) string {
	if s.Partition == "" || s.Partition == Default {
		return join(subset, s.Service, orDefault(s.Namespace), s.Datacenter, "internal", string(s.TrustDomain))
	}
	return join(subset, s.Service, orDefault(s.Namespace), s.Partition, s.Datacenter, "internal-v1", string(s.TrustDomain))
}

// PeerSNI gives the server name of a service that another cluster exports:
// "<service>.<namespace>.<partition>.<peer>.external.<td>", with that cluster's trust domain. The peer is the name under
// which the calling side knows the exporting one.
func PeerSNI(td TrustDomain, partition, namespace, peer, service string) string {
	return join(service, orDefault(namespace), orDefault(partition), peer, "external", string(td))
}

// QuerySNI gives the server name of a prepared query: "<name>.default.<dc>.query.<td>".
func QuerySNI(td TrustDomain, dc, name string) string {
	return join(name, Default, dc, "query", string(td))
}

// SNI gives the server name of the datacenter's mesh gateways: "<dc>.internal.<td>", or for a partition other than the
// default one "<partition>.<dc>.internal-v1.<td>".
func (g MeshGateway) SNI() string {
	if g.Partition == "" || g.Partition == Default {
		return join(g.Datacenter, "internal", string(g.TrustDomain))
	}
	return join(g.Partition, g.Datacenter, "internal-v1", string(g.TrustDomain))
}

// PeeringSNI gives the server name of the datacenter's servers as peered clusters reach them: "server.<dc>.peering.<td>".
func (s Server) PeeringSNI() string {
	return join("server", s.Datacenter, "peering", string(s.TrustDomain))
}

// join puts dots between the parts that aren't empty.
func join(parts ...string) string {
	kept := parts[:0]
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, ".")
}
