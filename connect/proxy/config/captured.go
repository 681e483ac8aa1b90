// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Captured are the listeners, without sockets of their own, of connections that were captured on their way elsewhere: by where they were
// going.
type Captured struct {
	Exact  map[netip.Addr]*Listener
	Ranges []CapturedRange // the longest prefix first
	// Otherwise has what none of them is for; nil: nobody has.
	Otherwise *Listener
	// Choose is in place of all that, where more than the address is looked at. Peek bounds the wait for the server name that a TLS client
	// asks for: who says nothing asks for none.
	Choose *Choice
	Peek   time.Duration
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

// Look is what a choice looks at.
type Look uint8

// The looks.
const (
	LookNowhere Look = iota // it is the end: the choice's Listener, nil for nobody
	LookAddress
	LookPort
	LookName // the server name that TLS asks for, in lower case
	LookTLS  // "tls", or anything else
)

// Choice is a step on the way to a captured connection's listener.
type Choice struct {
	Look     Look
	Listener *Listener
	// What is looked at leads on by Exact; an address else by the longest of Networks, a name else by the first of Domains, each as
	// ".example.com". What nothing is for goes by Otherwise.
	Exact     map[string]*Choice
	Networks  []NetworkChoice
	Domains   []DomainChoice
	Otherwise *Choice
}

// NetworkChoice is what becomes of a network; the longest stand first.
type NetworkChoice struct {
	Prefix netip.Prefix
	Then   *Choice
}

// DomainChoice is what becomes of all names below a domain.
type DomainChoice struct {
	Suffix string
	Then   *Choice
}

// For finds the listener, nil if there is none. What TLS says is asked for only where it counts.
func (c *Choice) For(to netip.AddrPort, hello func() (name string, tls bool)) *Listener {
	for c != nil && c.Look != LookNowhere {
		switch c.Look {
		case LookAddress:
			c = c.network(to.Addr().Unmap())
		case LookPort:
			c = c.exact(strconv.Itoa(int(to.Port())))
		case LookTLS:
			if _, tls := hello(); tls {
				c = c.exact("tls")
			} else {
				c = c.exact("raw_buffer")
			}
		default:
			name, _ := hello()
			c = c.name(name)
		}
	}
	if c == nil {
		return nil
	}
	return c.Listener
}

func (c *Choice) exact(key string) *Choice {
	if then, ok := c.Exact[key]; ok {
		return then
	}
	return c.Otherwise
}

func (c *Choice) network(a netip.Addr) *Choice {
	if then, ok := c.Exact[a.String()]; ok {
		return then
	}
	for _, n := range c.Networks {
		if n.Prefix.Contains(a) {
			return n.Then
		}
	}
	return c.Otherwise
}

func (c *Choice) name(name string) *Choice {
	if name == "" {
		return c.Otherwise
	}
	for _, d := range c.Domains {
		if strings.HasSuffix(name, d.Suffix) {
			return d.Then
		}
	}
	return c.exact(name)
}

// Listeners calls f for each listener that the choice can lead to, some of them more than once.
func (c *Choice) Listeners(f func(*Listener)) {
	if c == nil {
		return
	}
	if c.Listener != nil {
		f(c.Listener)
	}
	for _, then := range c.Exact {
		then.Listeners(f)
	}
	for _, n := range c.Networks {
		n.Then.Listeners(f)
	}
	for _, d := range c.Domains {
		d.Then.Listeners(f)
	}
	c.Otherwise.Listeners(f)
}
