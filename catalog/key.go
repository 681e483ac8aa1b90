// SPDX-License-Identifier: Apache-2.0

package catalog

import "strings"

// The values that an empty field of a Scope stands for. The datacenter has no fixed default: it is the agent's own.
const (
	DefaultPartition = "default"
	DefaultNamespace = "default"
)

// Scope is where a name is valid. Empty Partition and Namespace mean "default", an empty Peer means this cluster.
// Records always hold the filled-in form (see Default).
type Scope struct {
	Datacenter string
	Partition  string
	Namespace  string
	Peer       string
}

// Default fills in what is empty, with dc for the datacenter.
func (s Scope) Default(dc string) Scope {
	if s.Datacenter == "" {
		s.Datacenter = dc
	}
	if s.Partition == "" {
		s.Partition = DefaultPartition
	}
	if s.Namespace == "" {
		s.Namespace = DefaultNamespace
	}
	return s
}

// Global is where what holds for all namespaces of this scope is: proxy-defaults, the mesh entry, providers of JWTs.
func (s Scope) Global() Scope {
	s.Namespace = DefaultNamespace
	return s
}

// Name gives the key of a name in this scope.
func (s Scope) Name(name string) Key { return Key{Scope: s, Name: name} }

// Key names one thing in the catalog. Names are compared without regard to case where Consul's are (nodes, services);
// see Fold.
type Key struct {
	Scope
	Name string
}

// Fold is the key with the name in the form that comparisons use.
func (k Key) Fold() Key {
	k.Name = strings.ToLower(k.Name)
	return k
}

// String is the key for logs and errors: the name alone where the rest is the default.
func (k Key) String() string {
	var b strings.Builder
	for _, part := range []struct{ label, v, def string }{
		{"peer", k.Peer, ""}, {"partition", k.Partition, DefaultPartition}, {"namespace", k.Namespace, DefaultNamespace},
	} {
		if part.v != "" && part.v != part.def {
			b.WriteString(part.label + "=" + part.v + " ")
		}
	}
	b.WriteString(k.Name)
	return b.String()
}
