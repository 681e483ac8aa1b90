// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"
)

var certificateRows = []Row{
	{Name: "leaf rotation under load", Run: rotation},
	{Name: "peer with a wrong identity", Run: wrongIdentity},
	{Name: "peer of another root", Run: anotherRoot},
	{Name: "peer with an expired certificate", Run: expiredPeer},
	{Name: "peer with a revoked certificate", Run: revokedLeaf},
	{
		Name: "plaintext to the mtls port", Run: plaintext,
		Differs: map[Kind]string{
			Envoy: "it closes without a word, where weft's proxy says in a plain 400 that the port speaks TLS; the application sees neither",
		},
	},
}

// leaf is a service's certificate, as the agent gives it.
type leaf struct{ SerialNumber, CertPEM, PrivateKeyPEM, ServiceURI string }

func (m *Mesh) leaf(service string) (leaf, tls.Certificate) {
	m.t.Helper()
	var l leaf
	if err := m.w.do(http.MethodGet, "/v1/agent/connect/ca/leaf/"+m.name(service), nil, &l); err != nil {
		m.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair([]byte(l.CertPEM), []byte(l.PrivateKeyPEM))
	if err != nil {
		m.t.Fatal(err)
	}
	return l, cert
}

// peer opens mutual TLS to a public listener, as a sidecar of that certificate would. It doesn't look at the other side.
func peer(addr string, certs ...tls.Certificate) (*tls.Conn, error) {
	raw, err := dialTCP(addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{Certificates: certs, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err := conn.Handshake(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// ask makes one request to a public listener under a certificate.
func ask(addr string, certs ...tls.Certificate) (status int, err error) {
	conn, err := peer(addr, certs...)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api\r\n\r\n"); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// shut wants a listener to have closed a peer's connection without an answer.
func shut(t *testing.T, what string, status int, err error) {
	t.Helper()
	ne := net.Error(nil)
	switch {
	case err == nil:
		t.Errorf("%s was answered with %d; want the connection to be closed", what, status)
	case errors.As(err, &ne) && ne.Timeout():
		t.Errorf("%s: the connection stays open and is silent", what)
	}
}

func wrongIdentity(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	_, web := p.leaf("web")
	if status, err := ask(loopback(p.api.Public), web); err != nil || status != http.StatusOK {
		t.Fatalf("the right identity: %d, %v", status, err)
	}
	p.put("/v1/agent/service/register", object{"ID": p.name("stranger"), "Name": p.name("stranger"), "Port": 1})
	t.Cleanup(func() { p.deregister(&Instance{ID: p.name("stranger")}) })
	_, stranger := p.leaf("stranger")
	if status, err := ask(loopback(p.api.Public), stranger); err != nil || status != http.StatusForbidden {
		t.Errorf("another identity: %d, %v; want 403", status, err)
	}
	status, err := ask(loopback(p.api.Public))
	shut(t, "a peer without a certificate", status, err)
}

// authority is a root of the test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, host string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "another root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature, MaxPathLen: -1,
		URIs: []*url.URL{{Scheme: "spiffe", Host: host}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

// issue makes a leaf of a name that ends then.
func (a authority) issue(t *testing.T, uri string, ends time.Time) tls.Certificate {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: ends.Add(-time.Hour), NotAfter: ends, URIs: []*url.URL{u},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a authority) pem(t *testing.T) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// anotherRoot: the right name in the right form, but signed by somebody else.
func anotherRoot(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	l, _ := p.leaf("web")
	u, err := url.Parse(l.ServiceURI)
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t, u.Host)
	status, err := ask(loopback(p.api.Public), a.issue(t, l.ServiceURI, time.Now().Add(time.Hour)))
	shut(t, "a peer of another root", status, err)
}

// expiredPeer gives the mesh a root whose key the test knows, so that it can sign what the mesh never would.
func expiredPeer(t *testing.T, shared *World) {
	w := mustWorld(t, shared.Kind, "deny")
	p := newPair(t, w, "http")
	l, _ := p.leaf("web")
	u, err := url.Parse(l.ServiceURI)
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t, u.Host)
	cert, key := a.pem(t)
	p.put("/v1/connect/ca/configuration", object{"Provider": "consul", "Config": object{"RootCert": cert, "PrivateKey": key}})
	good := a.issue(t, l.ServiceURI, time.Now().Add(time.Hour))
	until(t, callWithin, func() error {
		status, err := ask(loopback(p.api.Public), good)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	status, err := ask(loopback(p.api.Public), a.issue(t, l.ServiceURI, time.Now().Add(-time.Minute)))
	shut(t, "a peer with an expired certificate", status, err)
}

func plaintext(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	const mark = "from-plaintext"
	resp, body, err := rawHTTP(loopback(p.api.Public), "GET /echo HTTP/1.1\r\nHost: api\r\n"+idHeader+": "+mark+"\r\nConnection: close\r\n\r\n")
	switch {
	case err != nil:
		shut(t, "plaintext", 0, err)
	case w.Kind == Envoy || resp.StatusCode != http.StatusBadRequest:
		t.Errorf("plaintext was answered with %s %q", resp.Status, body)
	}
	p.backend.mu.Lock()
	if p.backend.seen[mark] != 0 {
		t.Error("the application saw the request")
	}
	p.backend.mu.Unlock()
	if err := call("http", p.addr); err != nil {
		t.Error(err)
	}
}

// rotation makes a new root while requests run, and waits until every sidecar shows a leaf of it.
func rotation(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	_, me := p.leaf("web")
	serving := func() string {
		conn, err := peer(loopback(p.api.Public), me)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	l := load(t, "http://"+p.addr+"/echo", 200)
	l.more(50)
	for range 2 {
		old := serving()
		before, _ := p.leaf("web")
		p.put("/v1/connect/ca/configuration", object{"Provider": "consul", "Config": object{"Rotate": true}})
		took := until(t, 15*time.Second, func() error {
			if serving() == old {
				return errors.New("api's sidecar still shows its old certificate")
			}
			if now, _ := p.leaf("web"); now.SerialNumber == before.SerialNumber {
				return errors.New("web's leaf isn't renewed")
			}
			return nil
		})
		t.Logf("all leaves were renewed after %s", took.Round(time.Millisecond))
		_, me = p.leaf("web")
		l.more(100)
	}
	if err := l.agree(nil, p.backend); err != nil {
		t.Error(err)
	}
}

// revokedLeaf revokes the leaf of a service again and again. Whoever has its key is cut and refused, soon; the service's own calls go on,
// by a new one.
func revokedLeaf(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	bySerial := func(l leaf) object { return object{"Serial": l.SerialNumber, "Reason": "the row's"} }
	ways := []func(leaf) object{bySerial, bySerial, bySerial, bySerial, bySerial}
	if w.Kind != Envoy {
		ways = append(ways, func(leaf) object { return object{"Service": p.name("web")} })
	}
	var cut, refused time.Duration
	for _, way := range ways {
		l, stolen := p.leaf("web")
		if status, err := ask(loopback(p.api.Public), stolen); err != nil || status != http.StatusOK {
			t.Fatalf("before: %d, %v", status, err)
		}
		conn, err := peer(loopback(p.api.Public), stolen)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body) // to the connection's next answer
		at := time.Now()
		if err := w.do(http.MethodPut, "/v1/weft/ca/revoke", way(l), nil); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(at.Add(5 * time.Second))
		if _, err := r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection that was open stays open: %v", err)
		}
		cut = max(cut, time.Since(at))
		_ = conn.Close()
		until(t, effect+slack, func() error {
			if status, err := ask(loopback(p.api.Public), stolen); err == nil {
				return fmt.Errorf("a revoked certificate is answered with %d", status)
			}
			return nil
		})
		refused = max(refused, time.Since(at))
		until(t, effect+slack, func() error {
			if fresh, _ := p.leaf("web"); fresh.SerialNumber == l.SerialNumber {
				return errors.New("the service still has the revoked certificate")
			}
			return call("http", p.addr)
		})
	}
	t.Logf("of %d revocations the slowest cut the open connection after %s and refused a new one after %s", len(ways), cut.Round(time.Millisecond), refused.Round(time.Millisecond))
	if cut > time.Second || refused > time.Second {
		t.Errorf("want a second at most")
	}
}
