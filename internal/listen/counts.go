// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"net"
	"sync"
)

// counts says how many connections each address and each identity has.
type counts struct {
	mu   sync.Mutex
	held map[holder]int
}

// holder is whom a connection counts for.
type holder struct {
	identity bool // name is a proved identity, not an address
	name     string
}

func newCounts() *counts { return &counts{held: map[holder]int{}} }

// enter counts one more for h, unless it has max already; max < 0 is no limit.
func (c *counts) enter(h holder, max int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if max >= 0 && c.held[h] >= max {
		return false
	}
	c.held[h]++

	return true
}

func (c *counts) leave(h holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[h]--; c.held[h] <= 0 {
		delete(c.held, h)
	}
}

// addressOf says for whom a connection counts before it has proved anything,
// and whether that is an address of this machine.
func addressOf(remote net.Addr) (h holder, local bool) {
	if remote == nil {
		return holder{name: "unknown"}, false
	}
	tcp, ok := remote.(*net.TCPAddr)
	if !ok { // a Unix socket or the in-memory network: one name for all of it
		return holder{name: remote.Network()}, true
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if ip.IsLoopback() {
		return holder{name: ip.String()}, true
	}
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return holder{name: p.String()}, false
		}
	}
	return holder{name: ip.String()}, false
}
