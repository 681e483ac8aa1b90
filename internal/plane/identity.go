// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/weftmesh/weft/internal/seal"
)

// Identity is what a node got when it joined. It is kept in one file of mode 0600, and replaced whole.
type Identity struct {
	Datacenter string
	// CA, Certificate and Key are PEM; CA may be several. Of Certificate's chain the CA is the end.
	CA, Certificate, Key string
	// RetryJoin are the gossip addresses of the servers at that time.
	RetryJoin []string
	// What the servers say of ACLs, and the token of this node's agent; zero: they are off.
	ACL        ACL
	AgentToken string `json:",omitempty"`
	// AuthorityKey is the CA's key, with the server that made it, until the servers have agreed on it.
	AuthorityKey string `json:",omitempty"`
}

// ACL is what a node is told of the cluster's ACLs when it joins.
type ACL struct {
	Enabled                   bool
	DefaultPolicy, DownPolicy string `json:",omitempty"`
}

// NewRequest makes a node's key, as PEM, and a request for its certificate.
func NewRequest(random io.Reader) (keyPEM, csrPEM string, err error) {
	_, key, err := ed25519.GenerateKey(random)
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	request, err := x509.CreateCertificateRequest(random, &x509.CertificateRequest{}, key)
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return text("PRIVATE KEY", der), text(requestType, request), err
}

// IdentityFile is the file's place under data_dir.
func IdentityFile(dataDir string) string { return filepath.Join(dataDir, "plane", "identity.json") }

func identityIn(path string, outer *seal.Outer) seal.File {
	return seal.File{Path: path, Purpose: "weft: a node's identity", Outer: outer, Random: rand.Reader}
}

// ReadIdentity reads the file, which may be sealed by a key from outside; nil if there is none. One in clear is sealed if there is a key now.
func ReadIdentity(path string, outer *seal.Outer) (*Identity, error) {
	data, clear, err := identityIn(path, outer).Read()
	if data == nil || err != nil {
		return nil, err
	}
	id := new(Identity)
	if err := json.Unmarshal(data, id); err != nil {
		return nil, fmt.Errorf("%s isn't what weft wrote: %w; remove it and join anew with a fresh token", path, err)
	}
	if clear {
		err = id.Write(path, outer)
	}
	return id, err
}

// Write writes the file, whole or not at all, sealed where there is a key from outside.
func (id *Identity) Write(path string, outer *seal.Outer) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return identityIn(path, outer).Write(data)
}

// Leaf is the node's certificate.
func (id *Identity) Leaf() (*x509.Certificate, error) { return parseCert([]byte(id.Certificate)) }

// RenewAt is when to ask for another certificate.
func (id *Identity) RenewAt() (time.Time, error) {
	leaf, err := id.Leaf()
	if err != nil {
		return time.Time{}, err
	}
	start := leaf.NotBefore.Add(backdate)
	return start.Add(leaf.NotAfter.Sub(start) / 2), nil
}

// loadIdentity reads the file of a node that has joined.
func (p *Plane) loadIdentity() (*material, error) {
	m := &material{files: map[string]time.Time{}, looked: p.c.Now(), roots: x509.NewCertPool()}
	if _, err := m.read(p.c.Identity); err != nil {
		return nil, err
	}
	id, err := ReadIdentity(p.c.Identity, p.c.Seal)
	if err != nil {
		return nil, err
	}
	if id == nil || !m.roots.AppendCertsFromPEM([]byte(id.CA)) {
		return nil, fmt.Errorf("%s has no CA in it: remove it and join anew with a fresh token", p.c.Identity)
	}
	cert, err := tls.X509KeyPair([]byte(id.Certificate+id.CA), []byte(id.Key))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.c.Identity, err)
	}
	who := peerOf(cert.Leaf, p.c.Datacenter, p.c.Domain)
	if who.Node != p.c.NodeName || who.Datacenter != p.c.Datacenter || who.Server != p.c.Server {
		return nil, fmt.Errorf("%s is of %s, and this is %s: remove it and join anew with a fresh token, or give this node its old name, datacenter and role",
			p.c.Identity, who.uri(), Peer{Server: p.c.Server, Datacenter: p.c.Datacenter, Node: p.c.NodeName}.uri())
	}
	m.cert = &cert
	return m, nil
}
