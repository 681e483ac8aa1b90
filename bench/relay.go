// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pki is a CA with an intermediate and one certificate, as weft's chains are (P-256), for the contenders that have no mesh.
type pki struct{ dir string }

func newPKI(dir string) (*pki, error) {
	root, rootKey, err := certify(nil, nil, "race root", true)
	if err != nil {
		return nil, err
	}
	mid, midKey, err := certify(root, rootKey, "race intermediate", true)
	if err != nil {
		return nil, err
	}
	leaf, leafKey, err := certify(mid, midKey, "localhost", false)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return nil, err
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	chain := append(block("CERTIFICATE", leaf.Raw), block("CERTIFICATE", mid.Raw)...)
	key := block("PRIVATE KEY", der)
	return &pki{dir}, errors.Join(
		os.WriteFile(filepath.Join(dir, "ca.pem"), block("CERTIFICATE", root.Raw), 0o600),
		os.WriteFile(filepath.Join(dir, "chain.pem"), chain, 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600),
		os.WriteFile(filepath.Join(dir, "both.pem"), append(chain, key...), 0o600))
}

func certify(parent *x509.Certificate, parentKey *ecdsa.PrivateKey, name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign
	} else {
		t.DNSNames = []string{name}
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if parent == nil {
		parent, parentKey = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// relay copies bytes between plain and mutual TLS connections and does nothing else: "out" dials with TLS, "in" is dialled.
func relay(ctx context.Context, side, from, to, pki string) error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(pki, "chain.pem"), filepath.Join(pki, "key.pem"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(filepath.Join(pki, "ca.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conf := &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, RootCAs: roots, ClientCAs: roots,
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "localhost",
	}
	l, err := net.Listen("tcp", from)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil // the listener was closed
		}
		go func() {
			defer c.Close()
			d, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer d.Close()
			if side == "in" {
				c = tls.Server(c, conf)
			} else {
				d = tls.Client(d, conf)
			}
			done := make(chan struct{}, 2)
			for _, way := range [][2]net.Conn{{c, d}, {d, c}} {
				go func() {
					buf := make([]byte, 16<<10)
					for {
						n, err := way[0].Read(buf)
						if n > 0 {
							if _, err := way[1].Write(buf[:n]); err != nil {
								break
							}
						}
						if err != nil {
							break
						}
					}
					done <- struct{}{}
				}()
			}
			<-done
		}()
	}
}
