// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/memnet"
)

func newDoor(t *testing.T) *Door {
	t.Helper()
	d, err := New(Config{Log: logs.Discard(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func refused(d *Door, name, reason string) float64 {
	reg := prometheus.NewRegistry()
	reg.MustRegister(d.metrics.refused)
	families, err := reg.Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if l := m.GetLabel(); l[0].GetValue() == name && l[1].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// certificate is self-signed, for both roles, with a URI as its name.
func certificate(t *testing.T, uri string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), URIs: []*url.URL{u},
		DNSNames: []string{"server"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestC77_AddressCapRefusesAndGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := newDoor(t), memnet.New()
		l, err := d.MemStream(n, Spec{Name: "m", Address: "m", Limits: Limits{MaxUnauthenticatedLoopback: 2}})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var held []net.Conn
		for range 2 {
			if _, err := n.DialContext(t.Context(), "m"); err != nil {
				t.Fatal(err)
			}
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
		}
		go l.Accept() //nolint:errcheck // refuses the third, then waits
		third, err := n.DialContext(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		_ = third.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := third.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(err)
		}
		if got := refused(d, "m", reasonAddress); got != 1 {
			t.Fatalf("refused = %v", got)
		}
		// one that proves an identity, and one that closes, each give a place back
		if err := Authenticate(held[0], "web"); err != nil {
			t.Fatal(err)
		}
		held[1].Close()
		if got := len(l.(*Listener).counts.held); got != 1 {
			t.Fatalf("%d holders are counted, want the identity alone", got)
		}
	})
}

func TestC70_C126_TLSCountsIdentitiesAndEndsSlowHandshakes(t *testing.T) {
	cert, pool := certificate(t, "spiffe://td/svc/web")
	synctest.Test(t, func(t *testing.T) {
		d, n := newDoor(t), memnet.New()
		cfg := &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}
		l, err := d.MemStream(n, Spec{
			Name: "tls", Address: "tls", TLS: func() *tls.Config { return cfg },
			Limits: Limits{MaxUnauthenticatedLoopback: 1, MaxPerIdentity: 2},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		start := time.Now()
		slow, err := n.DialContext(t.Context(), "tls") // says nothing
		if err != nil {
			t.Fatal(err)
		}
		if _, err := slow.Read(make([]byte, 1)); err == nil || time.Since(start) != DefaultHandshakeTimeout {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		synctest.Wait() // the cut is seen before it is counted
		if got := refused(d, "tls", reasonTimeout); got != 1 {
			t.Fatalf("timeouts = %v", got)
		}
		dial := func() *tls.Conn {
			raw, err := n.DialContext(t.Context(), "tls")
			if err != nil {
				t.Fatal(err)
			}
			c := tls.Client(raw, &tls.Config{ServerName: "server", RootCAs: pool, Certificates: []tls.Certificate{cert}})
			if err := c.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			return c
		}
		for range 2 { // more than the address's one: they count for their identity
			dial()
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := c.(*tls.Conn); !ok || unwrap(c).holder.name != "spiffe://td/svc/web" {
				t.Fatalf("%T, %+v", c, unwrap(c))
			}
		}
		// Nobody chooses groups: the hybrid one is what both sides of ours prefer.
		var hybrid dto.Metric
		if err := d.metrics.groups.WithLabelValues("tls", "X25519MLKEM768").Write(&hybrid); err != nil || hybrid.GetCounter().GetValue() != 2 {
			t.Errorf("%v handshakes by the hybrid group, %v", hybrid.GetCounter().GetValue(), err)
		}
		third := dial()
		if _, err := third.Read(make([]byte, 1)); err == nil {
			t.Fatal("a third connection of the identity was let in")
		}
		if got := refused(d, "tls", reasonIdentity); got != 1 {
			t.Fatalf("refused = %v", got)
		}
		third.Close()
	})
}

// A peer that has done its part of the handshake when the socket is closed is served; one that dawdles is cut in time.
func TestFinishLosesNoHandshake(t *testing.T) {
	cert, pool := certificate(t, "spiffe://td/svc/web")
	synctest.Test(t, func(t *testing.T) {
		d, n := newDoor(t), memnet.New()
		cfg := &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
		spec := Spec{Name: "tls", Address: "tls", TLS: func() *tls.Config { return cfg }}
		inner, err := d.MemStream(n, spec)
		if err != nil {
			t.Fatal(err)
		}
		l := inner.(*Listener)
		raw, err := n.DialContext(t.Context(), "tls")
		if err != nil {
			t.Fatal(err)
		}
		slow, err := n.DialContext(t.Context(), "tls")
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(raw, &tls.Config{ServerName: "server", RootCAs: pool, Certificates: []tls.Certificate{cert}})
		if _, err := io.WriteString(c, "hi"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := l.Shut(); err != nil {
			t.Fatal(err)
		}
		again, err := d.MemStream(n, spec) // name and address are free
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		finished := make(chan error, 1)
		go func() { finished <- l.Finish(time.Second) }()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var got [2]byte
		if _, err := io.ReadFull(conn, got[:]); err != nil || string(got[:]) != "hi" {
			t.Fatalf("%q, %v", got, err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		if err := <-finished; err != nil || time.Since(start) != time.Second {
			t.Fatal(err, time.Since(start))
		}
		if _, err := slow.Read(make([]byte, 1)); err == nil {
			t.Fatal("a handshake outlives its listener")
		}
		for _, x := range []io.Closer{conn, raw, again} {
			_ = x.Close()
		}
	})
}

func TestC72_HTTPBodyLimitAndReject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := newDoor(t), memnet.New()
		spec := Spec{
			Name: "http", Address: "h", Reject: RejectHTTP("slow down\n"),
			Limits: Limits{MaxBodyBytes: 10, MaxUnauthenticatedLoopback: 1},
		}
		l, err := d.MemStream(n, spec)
		if err != nil {
			t.Fatal(err)
		}
		srv := d.HTTPServer(spec, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				http.Error(w, TooLarge(-1, tooLarge.Limit), http.StatusRequestEntityTooLarge)
			}
		}))
		go srv.Serve(l) //nolint:errcheck // ends with Close
		defer srv.Close()
		send := func(request string) string {
			c, err := n.DialContext(t.Context(), "h")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(c, request)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.Status + " " + string(body)
		}
		for _, tc := range []struct{ request, want string }{
			{"PUT / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789", "200 OK"},
			{"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n", "413 Request Entity Too Large the request body of 99999999 bytes"},
			{"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n", "413 Request Entity Too Large the request body is larger"},
		} {
			if got := send(tc.request); !strings.HasPrefix(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			time.Sleep(time.Second) // virtual: the server gives the place back
		}
		idle, err := n.DialContext(t.Context(), "h")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"); got != "429 Too Many Requests slow down\n" {
			t.Errorf("got %q", got)
		}
		idle.Close()
	})
}

func TestTakenPortNamesItsHolder(t *testing.T) {
	d := newDoor(t)
	l, err := d.Stream(t.Context(), Spec{Name: "a", Network: "tcp", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = d.Stream(t.Context(), Spec{Name: "b", Network: "tcp", Address: l.Addr().String()})
	var inUse *InUseError
	if !errors.As(err, &inUse) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatal(err)
	}
	if inUse.Holder == nil || inUse.Holder.PID != os.Getpid() || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Fatalf("%v, holder %+v", err, inUse.Holder)
	}
}

func TestUnixModeStaleSocketAndPeer(t *testing.T) {
	d := newDoor(t)
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Name: "u", Network: "unix", Address: path, Mode: 0o660}
	var inUse *InUseError
	if _, err := d.Stream(t.Context(), spec); !errors.As(err, &inUse) || inUse.Holder == nil || inUse.Holder.PID != os.Getpid() {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err := d.Stream(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Fatal(info.Mode(), err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if p, err := PeerOf(in); err != nil || p.PID != os.Getpid() || int(p.UID) != os.Getuid() {
		t.Fatal(p, err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stream(t.Context(), Spec{Name: "f", Network: "unix", Address: file}); err == nil {
		t.Fatal("a plain file was replaced")
	}
}

func TestSocketsAreHandedOver(t *testing.T) {
	ctx := context.Background()
	old, next := newDoor(t), newDoor(t)
	l, err := old.Stream(ctx, Spec{Name: "http", Network: "tcp", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := old.Packet(ctx, Spec{Name: "dns", Network: "udp", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := old.Files()
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	if err := next.Inherit(files); err != nil {
		t.Fatal(err)
	}
	l2, err := next.Stream(ctx, Spec{Name: "http", Network: "tcp", Address: l.Addr().String()})
	if err != nil {
		t.Fatal(err) // the port is taken, so this works only by taking over
	}
	defer l2.Close()
	p2, err := next.Packet(ctx, Spec{Name: "dns", Network: "udp", Address: p.LocalAddr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer p2.Close()
	if left := next.CloseInherited(); len(left) != 0 {
		t.Fatal(left)
	}
	l.Close()
	p.Close()
	c, err := net.Dial("tcp", l2.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}
