// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto/tls"
	"sync"
	"syscall"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// secured are the connections to a cluster by TLS that may be open, in use or not, to end those whose server's certificate is revoked.
type secured struct {
	mu    sync.Mutex
	conns map[*tls.Conn]string // what the last look gave
	sweep int                  // how many there may be before the closed ones are let go of
}

func (s *secured) add(c *tls.Conn) {
	if _, ok := c.NetConn().(syscall.Conn); !ok {
		return // nobody could say when it is closed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[*tls.Conn]string{}
	}
	if len(s.conns) >= max(s.sweep, 16) {
		for c := range s.conns {
			if closed(c) {
				delete(s.conns, c)
			}
		}
		s.sweep = 2 * len(s.conns)
	}
	s.conns[c] = ""
}

// cut ends the connections to servers that are gone, beneath TLS and at once.
func (s *secured) cut(gone config.Gone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, since := range s.conns {
		out, now := gone(c.ConnectionState().PeerCertificates, since)
		s.conns[c] = now
		if out {
			_ = c.NetConn().Close() // whoever reads or writes there finds out
			delete(s.conns, c)
		}
	}
}

func closed(c *tls.Conn) bool {
	raw, err := c.NetConn().(syscall.Conn).SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}
