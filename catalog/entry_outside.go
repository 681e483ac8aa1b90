// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Outside says that a service isn't of the mesh: where it is, for the sidecars of those that call it.
type Outside struct {
	// Addresses are IP addresses and DNS names; weft's are networks, as "10.0.0.0/8", and all names below one, as "*.example.com".
	Addresses []string `json:",omitempty"`
	Port      int      `json:",omitempty"`
	// Ports is weft's, in place of Port: several. Without either it is every port, of addresses and networks.
	Ports []int `json:",omitempty"`
	// Except is weft's: addresses and networks that are left out of the networks.
	Except []string `json:",omitempty"`
}

// maxOutside bounds lists that become matches of each transparent proxy.
const maxOutside = 256

// Networks are the addresses and networks, in the form of networks.
func (o *Outside) Networks() []netip.Prefix { return networks(o.Addresses) }

// Excepted are the networks that are left out.
func (o *Outside) Excepted() []netip.Prefix { return networks(o.Except) }

// Names are the DNS names, in lower case, also those that begin with "*.".
func (o *Outside) Names() (names []string) {
	for _, a := range o.Addresses {
		if _, err := network(a); err != nil {
			names = append(names, a)
		}
	}
	return names
}

// AllPorts are those that it is about; none: every port.
func (o *Outside) AllPorts() []int {
	if o.Port != 0 {
		return []int{o.Port}
	}
	return o.Ports
}

func networks(all []string) (out []netip.Prefix) {
	for _, a := range all {
		if p, err := network(a); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// network reads an address or a network.
func network(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// normalize lower-cases names, and has addresses in the one form that they are compared in.
func (o *Outside) normalize() {
	if o == nil {
		return
	}
	for _, list := range [][]string{o.Addresses, o.Except} {
		for i, a := range list {
			p, err := network(a)
			switch {
			case err != nil:
				list[i] = strings.TrimSuffix(strings.ToLower(a), ".")
			case p.IsSingleIP():
				list[i] = p.Addr().String()
			}
		}
	}
}

func (o *Outside) validate() error {
	if o == nil {
		return nil
	}
	switch {
	case len(o.Addresses) == 0:
		return invalidf("Destination.Addresses must have at least one address, network or DNS name")
	case len(o.Addresses) > maxOutside || len(o.Except) > maxOutside || len(o.Ports) > maxOutside:
		return invalidf("Destination: Addresses, Ports and Except have at most %d each: make several services of it", maxOutside)
	}
	if err := firstError(eachOf(o.Addresses, o.address), eachOf(o.Except, o.exception)); err != nil {
		return err
	}
	switch {
	case o.Port != 0 && len(o.Ports) > 0:
		return invalidf("Destination.Port and Destination.Ports exclude each other")
	case o.Port != 0:
		if err := port("Destination.Port", o.Port); err != nil {
			return err
		}
	case len(o.Ports) == 0 && len(o.Names()) > 0:
		return invalidf("Destination.Port must be given for a DNS name (%s): a name is looked for on the ports that are named", o.Names()[0])
	}
	for i, p := range o.Ports {
		f := fmt.Sprintf("Destination.Ports[%d]", i)
		if err := port(f, p); err != nil {
			return err
		}
		if slices.Contains(o.Ports[:i], p) {
			return invalidf("%s %d is there twice", f, p)
		}
	}
	return nil
}

func eachOf(list []string, valid func(i int, s string) error) error {
	for i, s := range list {
		if err := valid(i, s); err != nil {
			return err
		}
	}
	return nil
}

func (o *Outside) address(i int, a string) error {
	f := fmt.Sprintf("Destination.Addresses[%d]", i)
	if slices.Contains(o.Addresses[:i], a) {
		return invalidf("%s %q is there twice", f, a)
	}
	p, err := network(a)
	switch {
	case err != nil && strings.Contains(a, "/"):
		return invalidf("%s %q isn't a network, as 10.0.0.0/8", f, a)
	case err != nil && (!serverName(a) || strings.Trim(a, "0123456789.") == ""):
		return invalidf("%s %q is no IP address, network or DNS name (as api.example.com or *.example.com)", f, a)
	case err == nil && p != p.Masked():
		return invalidf("%s %q has bits beyond its length: the network is %s", f, a, p.Masked())
	case err == nil && p.Bits() >= VirtualRange.Bits() && VirtualRange.Contains(p.Addr()):
		return invalidf("%s %q is in %s, which stands for services of the mesh", f, a, VirtualRange)
	}
	return nil
}

func (o *Outside) exception(i int, a string) error {
	f := fmt.Sprintf("Destination.Except[%d]", i)
	p, err := network(a)
	if err != nil || p != p.Masked() {
		return invalidf("%s %q isn't an IP address or a network, as 10.0.5.0/24", f, a)
	}
	for _, n := range o.Networks() {
		if n.Bits() < p.Bits() && n.Contains(p.Addr()) {
			return nil
		}
	}
	return invalidf("%s %q is in none of the networks of Destination.Addresses, so there is nothing to leave it out of", f, a)
}
