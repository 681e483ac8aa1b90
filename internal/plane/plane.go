// SPDX-License-Identifier: Apache-2.0

// Package plane is the TLS between nodes: agents and servers, on the servers' port 8300.
//
// It is always TLS 1.3, and what is spoken inside is told by ALPN. Who a node is comes from one of four sources: files of a
// CA of the operator's, with Consul's rules; else what the node got when it joined (Identity): a certificate with its role,
// datacenter and name by the cluster's own CA, whose key only servers have; else the cluster's gossip key, from which every
// node derives the same CA and signs itself such a certificate, so that whoever has the key is in, and nobody else, but can say
// that it is any node; else nothing: then connections are encrypted, but nobody is verified, and the caller must warn of it.
//
// A node joins over the protocol Join, the one of the port for which no certificate is asked: it proves itself by a join
// token, which also tells what the servers' CA is known by.
//
// The package opens files and connections, and owns no goroutine but that of Demux.Run. Certificates and keys that change
// are seen at the next handshake.
package plane

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/weftmesh/weft/internal/seal"
)

// The protocols that are spoken on the port, by ALPN.
const (
	Raft  = "weft-raft"  // between servers
	Reads = "weft-reads" // between servers: who leads, before reads
	GRPC  = "weft-grpc"  // feed, sync, signing, and what servers ask each other
	HTTP  = "weft-http"  // the REST API, forwarded, as HTTP/2
	Join  = "weft-join"  // the way in, as HTTP/1: who connects may be anybody
)

// Mode is where identities come from.
type Mode string

// The modes.
const (
	Files   Mode = "files"   // the operator's CA
	Joined  Mode = "joined"  // the cluster's own CA
	Derived Mode = "derived" // from the gossip key
	Open    Mode = "open"    // nobody is verified
)

// TLSFiles are the keys of Consul's tls.internal_rpc.
type TLSFiles struct {
	CAFile, CAPath, CertFile, KeyFile string
	// VerifyIncoming demands a certificate of the CA from whoever connects, VerifyOutgoing from who is connected to, and
	// VerifyServerHostname, which includes VerifyOutgoing, that servers have the name server.<datacenter>.<domain>.
	VerifyIncoming, VerifyOutgoing, VerifyServerHostname bool
}

// Config is what a Plane is made of.
type Config struct {
	Datacenter, NodeName string
	Domain               string // of names in certificates; "" is "consul"
	Server               bool   // whether this node is a server
	Files                TLSFiles
	// Identity is the file of a node that has joined, "" for none.
	Identity string
	// Seal is the key from outside by which that file is sealed; nil: it is in clear.
	Seal *seal.Outer
	// Secrets are the cluster's gossip keys, the one in use first; nil or none: there is no key. It is asked often.
	Secrets func() [][]byte
	// DialContext opens connections; nil is TCP.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	Now         func() time.Time // nil: the system's clock
	Rand        io.Reader        // nil: the system's source
	Log         *slog.Logger     // nil: nothing is logged
}

// Plane gives TLS configurations and dials. Its methods may be called from any goroutine.
type Plane struct {
	c    Config
	mode Mode

	mu      sync.Mutex
	now     *material
	checked time.Time
}

// New reads the files, or derives the identity, and says what is wrong with them.
func New(c Config) (*Plane, error) {
	if c.Datacenter == "" || c.NodeName == "" {
		return nil, errors.New("plane: Datacenter and NodeName must be set")
	}
	if c.Domain == "" {
		c.Domain = "consul"
	}
	if c.DialContext == nil {
		d := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
		c.DialContext = d.DialContext
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &Plane{c: c, mode: Open}
	switch {
	case c.Files != TLSFiles{}:
		p.mode = Files
	case c.Identity != "":
		p.mode = Joined
	case c.Secrets != nil && len(c.Secrets()) > 0:
		p.mode = Derived
	}
	m, err := p.load()
	if err != nil {
		return nil, err
	}
	p.now, p.checked = m, c.Now()
	return p, nil
}

const (
	dialTimeout = 5 * time.Second
	keepAlive   = 15 * time.Second
	// lookEvery is how often files are looked at for a change.
	lookEvery = 5 * time.Second
)

// Mode says where identities come from.
func (p *Plane) Mode() Mode { return p.mode }

// Verified says whether whoever connects has to prove that it belongs to the cluster.
func (p *Plane) Verified() bool {
	return p.mode == Derived || p.mode == Joined || p.mode == Files && p.c.Files.VerifyIncoming
}

// Reload reads what has changed now, instead of at a later handshake. On an error what was goes on.
func (p *Plane) Reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.load()
	if err != nil {
		return err
	}
	p.now, p.checked = m, p.c.Now()
	return nil
}

// current is the identity in force, looked up anew where it may have changed.
func (p *Plane) current() *material {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.c.Now()
	if !p.now.stale(p, now) {
		return p.now
	}
	m, err := p.load()
	if err != nil {
		p.c.Log.Warn("the changed certificates can't be used, the old ones stay", "error", err)
		p.now.retry = now.Add(lookEvery)
		return p.now
	}
	p.now = m
	return m
}

// Certificate is what this node shows to others, nil for nothing, and whether it is from files, which somebody else renews.
func (p *Plane) Certificate() (cert *x509.Certificate, files bool) {
	m := p.current()
	if m.cert == nil || len(m.cert.Certificate) == 0 {
		return nil, false
	}
	cert, err := x509.ParseCertificate(m.cert.Certificate[0])
	if err != nil {
		return nil, false // it was used, so it can be read
	}
	return cert, p.mode == Files
}

// ServerCertificate is what this node shows, for a listener that isn't the plane's own.
func (p *Plane) ServerCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	m := p.current()
	if m.cert == nil {
		return nil, errors.New("this node has no certificate")
	}
	return m.cert, nil
}

func (p *Plane) load() (*material, error) {
	switch p.mode {
	case Files:
		return p.loadFiles()
	case Joined:
		return p.loadIdentity()
	case Derived:
		return p.derive()
	}
	return p.unverified()
}
