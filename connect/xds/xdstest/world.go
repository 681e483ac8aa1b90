// SPDX-License-Identifier: Apache-2.0

// Package xdstest is for tests of what connect/xds renders: a World is a small cluster with a certificate authority, and a
// Proxy walks rendered resources as Envoy would and says what becomes of a connection or request, so that tests look at the
// meaning and not at bytes. A Proxy knows what weft renders and nothing more: what it doesn't know is an error. No network,
// no goroutine; keys and certificates use crypto/rand.
package xdstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/xds"
)

// ClusterID is that of every World.
const ClusterID = "11111111-2222-3333-4444-555555555555"

// World is a cluster in one datacenter, dc1.
type World struct {
	Store *catalog.Store
	// DefaultAllow is the answer where no intention speaks.
	DefaultAllow bool
	Abilities    xds.Abilities // of the proxies that are rendered for
	key          *ecdsa.PrivateKey
	root         *x509.Certificate
	serial       int64
	start        time.Time
}

// NewWorld makes an empty cluster whose certificates hold from an hour before now for a day.
func NewWorld(now time.Time) (*World, error) {
	s, err := catalog.New(catalog.Config{Datacenter: "dc1"})
	if err != nil {
		return nil, err
	}
	w := &World{Store: s, start: now.Add(-time.Hour)}
	if w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	tmpl := w.template(&url.URL{Scheme: "spiffe", Host: string(w.TrustDomain())})
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, w.key.Public(), w.key)
	if err != nil {
		return nil, err
	}
	if w.root, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	err = w.Apply(catalog.SetCluster{ID: ClusterID},
		catalog.SetCA{State: catalog.CAState{ClusterID: ClusterID, Roots: []catalog.CARoot{{ID: "r", RootCert: root, Active: true}}, ActiveRootID: "r"}})
	return w, err
}

// TrustDomain is the cluster's.
func (w *World) TrustDomain() identity.TrustDomain { return identity.ForCluster(ClusterID) }

func (w *World) template(uri *url.URL) *x509.Certificate {
	w.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(w.serial), NotBefore: w.start, NotAfter: w.start.Add(25 * time.Hour), URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

// ID is the identity of a service of this cluster.
func (w *World) ID(service string) identity.Service {
	return identity.Service{TrustDomain: w.TrustDomain(), Datacenter: "dc1", Service: service}
}

// Leaf makes a certificate for a service.
func (w *World) Leaf(service string) (*xds.Leaf, error) {
	uri, err := url.Parse(w.ID(service).String())
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, w.template(uri), w.root, key.Public(), w.key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &xds.Leaf{
		CertPEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		KeyPEM:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	}, nil
}

// Apply runs commands, and stops at the first that fails.
func (w *World) Apply(bodies ...catalog.Body) error {
	for _, b := range bodies {
		data, err := catalog.Encode(b)
		if err != nil {
			return err
		}
		if r := w.Store.Apply([]catalog.LogEntry{{Index: w.Store.Position().Index + 1, Data: data}}); r[0].Err != nil {
			return r[0].Err
		}
	}
	return nil
}

// Revoke puts revocations and lists in force in place of those there were.
func (w *World) Revoke(revoked []catalog.Revoked, lists []string) error {
	state, err := w.Store.Read().CA()
	if err != nil {
		return err
	}
	next := *state
	next.Revoked, next.CRLs = revoked, lists
	return w.Apply(catalog.SetCA{State: next, CAS: state.ModifyIndex})
}

// Write writes config entries as the API would.
func (w *World) Write(entries ...catalog.Entry) error {
	for _, e := range entries {
		e.Head().Scope = e.Head().Default("dc1")
		e.Normalize()
		if err := e.Validate(); err != nil {
			return err
		}
		if err := w.Apply(catalog.SetEntry{Entry: catalog.EntryBox{Entry: e}}); err != nil {
			return err
		}
	}
	return nil
}

// Sidecar describes an instance with a sidecar.
type Sidecar struct {
	Node, Address string // "n1" and 127.0.0.1 if empty
	Service       string
	Namespace     string
	Port          int // of the application
	PublicPort    int // of the sidecar
	Meta          map[string]string
	Tags          []string
	Config        catalog.Opaque
	Upstreams     []catalog.Upstream
	Status        string // of the sidecar's check; "" for none
}

// Register puts an instance and its sidecar into the catalog, and gives the sidecar's record.
func (w *World) Register(s Sidecar) (*catalog.Service, error) {
	if s.Node == "" {
		s.Node = "n1"
	}
	if s.Address == "" {
		s.Address = "127.0.0.1"
	}
	id, in := s.Service+"-"+s.Node, catalog.Scope{Namespace: s.Namespace}
	reg := catalog.Register{
		Node: catalog.Node{Node: s.Node, Address: s.Address},
		Services: []catalog.Service{
			{Scope: in, ID: id, Service: s.Service, Port: s.Port, Meta: s.Meta, Tags: s.Tags},
			{
				Scope: in, ID: id + "-sidecar-proxy", Service: s.Service + "-sidecar-proxy", Kind: catalog.KindConnectProxy, Port: s.PublicPort, Meta: s.Meta, Tags: s.Tags,
				Weights: catalog.Weights{Passing: 1, Warning: 1},
				Proxy: &catalog.Proxy{
					DestinationServiceName: s.Service, DestinationServiceID: id, LocalServiceAddress: "127.0.0.1", LocalServicePort: s.Port,
					Config: s.Config, Upstreams: s.Upstreams,
				},
			},
		},
	}
	if s.Status != "" {
		reg.Checks = []catalog.Check{{Scope: in, CheckID: id + ":1", ServiceID: id + "-sidecar-proxy", Status: s.Status}}
	}
	if err := w.Apply(reg); err != nil {
		return nil, err
	}
	all, err := w.Store.Read().ConnectInstances(in.Name(s.Service))
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if i.Service.Node == s.Node {
			return i.Service, nil
		}
	}
	return nil, fmt.Errorf("the sidecar of %s isn't there", s.Service)
}

// Render renders a sidecar's configuration out of what the catalog holds now.
func (w *World) Render(proxy *catalog.Service, leaf *xds.Leaf) (*xds.Output, error) {
	return xds.Render(xds.Input{
		Txn: w.Store.Read(), Proxy: proxy, NodeAddress: "127.0.0.1", Leaf: leaf, DefaultAllow: w.DefaultAllow, Now: w.start.Add(time.Hour),
		Abilities: w.Abilities,
	})
}
