// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// maxProven is how many chains a Memory knows, some hundred bytes each.
const maxProven = 1024

// Memory checks peers against one set of roots, and remembers whose certificates led to one: those who call again show the same, and the two
// signatures or more in them were a twelfth of what a new connection costs both sides. What is remembered follows from the certificates, the roots and the
// time alone, as x509 finds it: it holds for the very same bytes, for the same use, while every certificate of the chain that was found is
// valid. Other roots have another Memory. Whether the peer has the key is proved in each handshake, and what may change meanwhile (whom
// the caller wants, what is revoked) is asked each time. Its methods may be called by any goroutine.
type Memory struct {
	roots *x509.CertPool

	mu   sync.Mutex
	good map[[sha256.Size]byte]proven
}

// proven is a chain that was found, by whose it is.
type proven struct {
	id          Identity
	from, until time.Time // in which all of its certificates are valid, both included
}

// NewMemory makes an empty one. The roots aren't to be changed any more.
func NewMemory(roots *x509.CertPool) *Memory { return &Memory{roots: roots} }

// VerifyChain is the function VerifyChain with the roots, but for the chain, which it doesn't give.
func (m *Memory) VerifyChain(certs []*x509.Certificate, now time.Time, want Want) (Identity, error) {
	if len(certs) == 0 {
		return nil, errNumber(0)
	}
	key := chainKey(certs, want.Use)
	m.mu.Lock()
	known, ok := m.good[key]
	m.mu.Unlock()
	if ok && !now.Before(known.from) && !now.After(known.until) {
		return known.id, want.accept(known.id)
	}
	peer, err := VerifyChain(certs, m.roots, now, want)
	if err != nil {
		return nil, err
	}
	m.keep(key, peer)
	return peer.Identity, nil
}

func (m *Memory) keep(key [sha256.Size]byte, peer Peer) {
	p := proven{id: peer.Identity, from: peer.Leaf.NotBefore, until: peer.Leaf.NotAfter}
	for _, c := range peer.Chain {
		if c.NotBefore.After(p.from) {
			p.from = c.NotBefore
		}
		if c.NotAfter.Before(p.until) {
			p.until = c.NotAfter
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.good == nil {
		m.good = map[[sha256.Size]byte]proven{}
	}
	for other := range m.good { // any: who is asked for again comes back
		if len(m.good) < maxProven {
			break
		}
		delete(m.good, other)
	}
	m.good[key] = p
}

// chainKey is over all that a peer has shown. Each certificate says itself where it ends.
func chainKey(certs []*x509.Certificate, use Use) (key [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte{byte(use)})
	for _, c := range certs {
		h.Write(c.Raw)
	}
	h.Sum(key[:0])
	return key
}
