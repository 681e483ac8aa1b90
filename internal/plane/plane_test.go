// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/memnet"
)

var key1, key2 = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)

func secrets(keys ...[]byte) func() [][]byte { return func() [][]byte { return keys } }

// port is a server's port on a network of its own, split by protocol until the test ends.
func port(t *testing.T, p *Plane) (*memnet.Network, *Demux) {
	t.Helper()
	network := memnet.New()
	door, err := listen.New(listen.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := door.MemStream(network, listen.Spec{Name: "server", Address: "s:8300", TLS: p.ServerTLS, Identity: p.Identity})
	if err != nil {
		t.Fatal(err)
	}
	d := NewDemux(l, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return network, d
}

// serve answers each connection with "hello" and its protocol, on a network of its own, until the test ends.
func serve(t *testing.T, p *Plane) *memnet.Network {
	t.Helper()
	network, d := port(t, p)
	for _, proto := range []string{Raft, GRPC, HTTP} {
		go func() {
			for {
				c, err := d.Listener(proto).Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.WriteString(c, "hello "+proto+"\n")
				}()
			}
		}()
	}
	return network
}

// hello dials and reads what is said.
func hello(p *Plane, network *memnet.Network, proto string) (string, error) {
	p.c.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		return network.DialContext(ctx, address)
	}
	c, err := p.Dial(context.Background(), "s:8300", "", proto)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func node(t *testing.T, c Config) *Plane {
	t.Helper()
	if c.Datacenter == "" {
		c.Datacenter = "dc1"
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestC93_WhoIsIn(t *testing.T) {
	ca := newCA(t)
	for name, c := range map[string]struct {
		server, client Config
		proto          string
		ok             bool
	}{
		"same key":                  {Config{Secrets: secrets(key1)}, Config{Secrets: secrets(key1)}, GRPC, true},
		"another key":               {Config{Secrets: secrets(key1)}, Config{Secrets: secrets(key2)}, GRPC, false},
		"no key":                    {Config{Secrets: secrets(key1)}, Config{}, GRPC, false},
		"a key where none is asked": {Config{}, Config{Secrets: secrets(key1)}, GRPC, false},
		"no key on both sides":      {Config{}, Config{}, HTTP, true},
		"an old key":                {Config{Secrets: secrets(key2, key1)}, Config{Secrets: secrets(key1, key2)}, HTTP, true},
		"a server replicates":       {Config{Secrets: secrets(key1)}, Config{Secrets: secrets(key1), Server: true}, Raft, true},
		"an agent doesn't":          {Config{Secrets: secrets(key1)}, Config{Secrets: secrets(key1)}, Raft, false},
		"another datacenter's server doesn't": {
			Config{Secrets: secrets(key1)}, Config{Secrets: secrets(key1), Server: true, Datacenter: "dc2"}, Raft, false,
		},
		"an unknown protocol": {Config{}, Config{}, "h2", false},
		"files":               {Config{Files: ca.issue("server.dc1.consul", true)}, Config{Files: ca.issue("client.dc1.consul", true)}, GRPC, true},
		"files, an agent doesn't replicate": {
			Config{Files: ca.issue("server.dc1.consul", true)}, Config{Files: ca.issue("client.dc1.consul", true)}, Raft, false,
		},
		"files, a server replicates": {
			Config{Files: ca.issue("server.dc1.consul", true)}, Config{Files: ca.issue("server.dc1.consul", true), Server: true}, Raft, true,
		},
		"files, an agent poses as a server": {
			Config{Files: ca.issue("client.dc1.consul", true)}, Config{Files: ca.issue("client.dc1.consul", true)}, GRPC, false,
		},
		"files, a derived certificate": {Config{Files: ca.issue("server.dc1.consul", true)}, Config{Secrets: secrets(key1)}, GRPC, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.server.Server, c.server.NodeName, c.client.NodeName = true, "s1", "n1"
			network := serve(t, node(t, c.server))
			client := node(t, c.client)
			if c.client.Datacenter == "dc2" { // dials the other one
				client.c.Datacenter = "dc1"
			}
			got, err := hello(client, network, c.proto)
			if c.ok != (err == nil && got == "hello "+c.proto+"\n") {
				t.Errorf("%q, %v; want success: %v", got, err, c.ok)
			}
		})
	}
}

// A node's certificate outlives nothing: months later a new one is shown, with nobody restarted.
func TestOwnCertificateIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := node(t, Config{NodeName: "s1", Server: true, Secrets: secrets(key1)})
		first := p.current().cert
		time.Sleep(ownLife / 4)
		if p.current().cert != first {
			t.Error("renewed long before its time")
		}
		time.Sleep(ownLife)
		again := p.current()
		if again.cert == first {
			t.Fatal("not renewed")
		}
		leaf, err := x509.ParseCertificate(again.cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		peer, err := again.verify(p, []*x509.Certificate{leaf})
		if err != nil || peer != (Peer{Server: true, Datacenter: "dc1", Node: "s1", Subject: "weft-node://dc1/server/s1"}) {
			t.Errorf("%+v, %v", peer, err)
		}
	})
}

// A keyring that changes changes who is in.
func TestKeyring(t *testing.T) {
	keys := [][]byte{key1}
	p := node(t, Config{NodeName: "s1", Server: true, Secrets: func() [][]byte { return keys }})
	network := serve(t, p)
	other := node(t, Config{NodeName: "n1", Secrets: secrets(key2)})
	if _, err := hello(other, network, GRPC); err == nil {
		t.Error("a key that isn't in the ring was taken")
	}
	keys = [][]byte{key1, key2}
	stranger := node(t, Config{NodeName: "n1", Secrets: secrets(key2, key1)})
	if _, err := hello(stranger, network, GRPC); err != nil {
		t.Error(err)
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	old, fresh := newCA(t), newCA(t)
	files := old.issue("server.dc1.consul", true)
	server := node(t, Config{NodeName: "s1", Server: true, Files: files})
	network := serve(t, server)
	if _, err := hello(node(t, Config{NodeName: "n1", Files: fresh.issue("client.dc1.consul", true)}), network, GRPC); err == nil {
		t.Error("another CA's certificate was taken")
	}
	next := fresh.issue("server.dc1.consul", true)
	for from, to := range map[string]string{next.CAFile: files.CAFile, next.CertFile: files.CertFile, next.KeyFile: files.KeyFile} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	next.CAFile = files.CAFile
	if err := server.Reload(); err != nil {
		t.Fatal(err)
	}
	client := fresh.issue("client.dc1.consul", true)
	client.CAFile = files.CAFile
	if _, err := hello(node(t, Config{NodeName: "n1", Files: client}), network, GRPC); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(files.CertFile, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := server.Reload(); err == nil || !strings.Contains(err.Error(), files.CertFile) {
		t.Errorf("Reload: %v", err)
	}
	if _, err := hello(node(t, Config{NodeName: "n1", Files: client}), network, GRPC); err != nil {
		t.Errorf("after a failed reload: %v", err)
	}
}

func TestC92_BadFiles(t *testing.T) {
	ca := newCA(t)
	good := ca.issue("server.dc1.consul", true)
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	if err := os.WriteFile(garbage, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]TLSFiles{
		"there is no ca_file":             {VerifyIncoming: true},
		"give both or none":               {CAFile: good.CAFile, CertFile: good.CertFile},
		"must have a certificate too":     {CAFile: good.CAFile, VerifyIncoming: true},
		"a server needs a certificate":    {CAFile: good.CAFile},
		"no certificate in it":            {CAFile: garbage, CertFile: good.CertFile, KeyFile: good.KeyFile},
		"no such file":                    {CAFile: garbage + "x", CertFile: good.CertFile, KeyFile: good.KeyFile},
		garbage + " and " + good.KeyFile:  {CAFile: good.CAFile, CertFile: garbage, KeyFile: good.KeyFile},
		"ca_path: open " + garbage + "/x": {CAPath: garbage + "/x"},
	} {
		_, err := New(Config{Datacenter: "dc1", NodeName: "s1", Server: true, Files: f})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v\nwant %q", f, err, want)
		}
	}
	if _, err := New(Config{Datacenter: "dc1", NodeName: "s1", Secrets: secrets([]byte("short"))}); err == nil {
		t.Error("a short key was taken")
	}
}

// A client that doesn't say what it wants to speak is refused in the handshake.
func TestNoProtocol(t *testing.T) {
	network := serve(t, node(t, Config{NodeName: "s1", Server: true}))
	raw, err := network.DialContext(t.Context(), "s:8300")
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	defer c.Close()
	_, err = io.ReadAll(c)
	var alert *net.OpError
	if !errors.As(err, &alert) {
		t.Errorf("%v", err)
	}
}

type testCA struct {
	t    *testing.T
	dir  string
	n    int
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &testCA{t: t, dir: t.TempDir(), key: key}
	c.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return c
}

func (c *testCA) write(name, kind string, der []byte) string {
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// issue writes the files of a node of that DNS name.
func (c *testCA) issue(name string, verify bool) TLSFiles {
	c.t.Helper()
	c.n++
	prefix := string(rune('a' + c.n))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	caDER, err := x509.CreateCertificate(rand.Reader, c.cert, c.cert, c.key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(int64(c.n) + 1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, c.cert, key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	return TLSFiles{
		CAFile: c.write(prefix+"-ca.pem", "CERTIFICATE", caDER), CertFile: c.write(prefix+".pem", "CERTIFICATE", der),
		KeyFile:        c.write(prefix+"-key.pem", "EC PRIVATE KEY", keyDER),
		VerifyIncoming: verify, VerifyOutgoing: verify, VerifyServerHostname: verify,
	}
}
