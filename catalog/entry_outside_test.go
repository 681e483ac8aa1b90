// SPDX-License-Identifier: Apache-2.0

package catalog

import "testing"

// What says where something outside the mesh is, and what it can't say.
func TestValidateOutside(t *testing.T) {
	head := EntryHead{Name: "web"}
	for _, c := range []struct {
		entry *ServiceDefaults
		want  string // "" for none
	}{
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"10.0.0.0/8", "fd00::/8", "192.0.2.1"}, Except: []string{"10.0.5.0/24", "10.1.1.1"}}}, ""},
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"API.Example.com.", "*.example.com"}, Ports: []int{80, 443}}}, ""},
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Port: 1}}, "Destination.Addresses must have at least one address, network or DNS name"},
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"a.b"}}}, "Destination.Port must be given for a DNS name (a.b): a name is looked for on the ports that are named"},
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"a.b"}, Port: 70000}}, "Destination.Port 70000 is no port; it must be from 1 to 65535"},
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"a.b"}, Port: 1, Ports: []int{2}}}, "Destination.Port and Destination.Ports exclude each other"},
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"a.b"}, Ports: []int{2, 2}}}, "Destination.Ports[1] 2 is there twice"},
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"a.b", "A.b."}, Port: 1}}, `Destination.Addresses[1] "a.b" is there twice`},
		{
			&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"*"}, Port: 1}},
			`Destination.Addresses[0] "*" is no IP address, network or DNS name (as api.example.com or *.example.com)`,
		},
		{
			&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"10.0.0.256"}, Port: 1}},
			`Destination.Addresses[0] "10.0.0.256" is no IP address, network or DNS name (as api.example.com or *.example.com)`,
		},
		{&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"10.0.0.0/40"}}}, `Destination.Addresses[0] "10.0.0.0/40" isn't a network, as 10.0.0.0/8`},
		{
			&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"10.0.0.1/8"}}},
			`Destination.Addresses[0] "10.0.0.1/8" has bits beyond its length: the network is 10.0.0.0/8`,
		},
		{
			&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"240.0.0.9"}}},
			`Destination.Addresses[0] "240.0.0.9" is in 240.0.0.0/4, which stands for services of the mesh`,
		},
		{
			&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"10.0.0.0/8"}, Except: []string{"11.0.0.0/24"}}},
			`Destination.Except[0] "11.0.0.0/24" is in none of the networks of Destination.Addresses, so there is nothing to leave it out of`,
		},
		{
			&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"10.0.0.0/8"}, Except: []string{"x"}}},
			`Destination.Except[0] "x" isn't an IP address or a network, as 10.0.5.0/24`,
		},
		{
			&ServiceDefaults{EntryHead: head, Destination: &Outside{Addresses: []string{"10.0.0.0/8"}}, UpstreamConfig: &UpstreamDefaults{}},
			"UpstreamConfig and Destination are mutually exclusive: what is outside the mesh calls nobody through it",
		},
	} {
		c.entry.Normalize()
		got := ""
		if err := c.entry.Validate(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v: got %q, want %q", *c.entry.Destination, got, c.want)
		}
	}
}
