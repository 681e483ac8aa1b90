// SPDX-License-Identifier: Apache-2.0

package config

import "net/netip"

// Captured are the listeners, without sockets of their own, of connections that were captured on their way elsewhere: by where they were
// going.
type Captured struct {
	Exact  map[netip.Addr]*Listener
	Ranges []CapturedRange // the longest prefix first
	// Otherwise has what none of them is for; nil: nobody has.
	Otherwise *Listener
}

// CapturedRange is the listener of many destinations.
type CapturedRange struct {
	Prefix   netip.Prefix
	Listener *Listener
}

// For is the listener of a destination, nil if there is none.
func (c *Captured) For(to netip.Addr) *Listener {
	to = to.Unmap()
	if l := c.Exact[to]; l != nil {
		return l
	}
	for _, r := range c.Ranges {
		if r.Prefix.Contains(to) {
			return r.Listener
		}
	}
	return c.Otherwise
}
