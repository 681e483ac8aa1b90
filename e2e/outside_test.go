// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

var outsideRows = []Row{{Name: "outside the mesh by a port", Run: outsideByPort}}

// outside writes what a service outside the mesh is.
func (m *Mesh) outside(service, protocol string, destination object) {
	m.t.Helper()
	m.put("/v1/config", object{"Kind": "service-defaults", "Name": m.name(service), "Protocol": protocol, "Destination": destination})
}

// outsideByPort: a sidecar that isn't transparent calls what is outside the mesh as an upstream, by address and by name, if an intention
// lets it.
func outsideByPort(t *testing.T, w *World) {
	m := w.mesh(t)
	tcp, web := tcpBackend(t), httpBackend(t, "far")
	m.outside("db", "tcp", object{"Addresses": []string{"127.0.0.1"}, "Port": tcp.Port})
	m.outside("site", "http", object{"Addresses": []string{"localhost"}, "Port": web.Port})
	m.intend("allow", "web", "db")
	m.intend("allow", "web", "site")
	i := m.instance("web", "web", mustPort(t), "db", "site")
	db, site := i.Up["db"], "http://"+i.Up["site"]+"/"
	until(t, 15*time.Second, func() error { return plainEcho(db) })
	until(t, 15*time.Second, func() error {
		c, end := h1()
		defer end()
		return wantStatus(c, site, http.StatusOK)
	})
	if out := m.ask("", 0, []string{"explain", "request", "-from", m.name("web"), "-to", m.name("db"), "GET", "/"}); !strings.Contains(out, "outside   127.0.0.1 at port") ||
		!strings.Contains(out, "allowed by service-intentions/"+m.name("db")) {
		t.Errorf("explained as\n%s", out)
	}
	open := opened(t, dialTCP, db)
	m.intend("deny", "web", "db")
	m.intend("deny", "web", "site")
	until(t, effect+slack, func() error { return refused(db) })
	until(t, effect+slack, func() error { return cut(open) })
	until(t, effect+slack, func() error { return forbidden(site, "") })
}

// cut says whether an open connection was ended.
func cut(conn net.Conn) error {
	if err := ping(conn); err == nil {
		return errors.New("the connection is still served")
	}
	return nil
}

// forbidden wants a request to be refused by a proxy, for its intention.
func forbidden(url, host string) error {
	c, end := h1()
	defer end()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Weft-Reason") != "rbac_denied" {
		return fmt.Errorf("%s, reason %q", resp.Status, resp.Header.Get("X-Weft-Reason"))
	}
	return nil
}

// hosted makes a request that names a host.
func hosted(addr, host string) error {
	c, end := h1()
	defer end()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, reason %q", host, resp.Status, resp.Header.Get("X-Weft-Reason"))
	}
	return nil
}

func tlsEcho(addr, name string) error {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: callWithin}, "tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	return ping(conn)
}

func noTLS(addr, name string) error {
	if tlsEcho(addr, name) == nil {
		return fmt.Errorf("%s is served", name)
	}
	return nil
}

// outsideServers answer requests at an address, and echoes what TLS brings at another of its ports.
func outsideServers(t *testing.T, at string) (plain, secure string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	inner, _ := tlsBackend(t, "any.test")
	return l.Addr().String(), relay(t, at, loopback(inner.Port))
}

// relay hands connections on from an address to another.
func relay(t *testing.T, at, to string) string {
	t.Helper()
	return serveConns(t, at, func(conn net.Conn) {
		on, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer on.Close()
		go func() { _, _ = io.Copy(on, conn); _ = on.Close() }() // ends with either
		_, _ = io.Copy(conn, on)
	})
}

// What is outside the mesh is reached by a transparent proxy's service as intentions say: by network, address and port, by the name that
// TLS asks for, by the host of requests. All else is as the mesh says.
func TestOutsideInside(t *testing.T) {
	kind := Kind(os.Getenv("WEFT_E2E_KIND"))
	if kind == "" {
		t.Skip("run by TestTransparent")
	}
	w := mustWorld(t, kind, "deny")
	m := w.mesh(t)
	m.prefix = "to"
	backend := httpBackend(t, "api")
	m.protocol("api", "http")
	m.intend("allow", "web", "api")
	m.instance("api", "api", backend.Port)
	web, _ := m.transparent("web")
	until(t, effect+slack, func() error { return m.settled(web) })

	one, other, two, far := echoServer(t, oneAddress), echoServer(t, oneAddress), echoServer(t, twoAddress), echoServer(t, farAddress)
	plain, secure := outsideServers(t, farAddress)
	m.outside("net", "tcp", object{"Addresses": []string{"10.9.1.0/24"}, "Except": []string{twoAddress}, "Ports": []int{portOf(t, one), portOf(t, two)}})
	m.outside("named", "tcp", object{"Addresses": []string{"a.outside.test", "*.deep.outside.test"}, "Port": portOf(t, secure)})
	m.outside("site", "http", object{"Addresses": []string{"h.outside.test"}, "Port": portOf(t, plain)})
	m.put("/v1/config", object{"Kind": "mesh", "TransparentProxy": object{"MeshDestinationsOnly": true}})
	for _, s := range []string{"net", "named", "site"} {
		m.intend("allow", "web", s)
	}
	w.redirect(t, "-proxy-id", web.ID+"-sidecar-proxy", "-consul-dns-port", fmt.Sprint(w.dns))

	until(t, 15*time.Second, func() error { return plainEcho(one) })
	until(t, effect+slack, func() error { return refused(two) }) // left out of the network
	for _, at := range []string{other, far} {
		if err := refused(at); err != nil {
			t.Errorf("%s, of no destination: %v", at, err)
		}
	}
	until(t, effect+slack, func() error {
		return errors.Join(tlsEcho(secure, "a.outside.test"), tlsEcho(secure, "x.y.deep.outside.test"))
	})
	if err := errors.Join(noTLS(secure, "b.outside.test"), noTLS(secure, "deep.outside.test")); err != nil {
		t.Error(err)
	}
	until(t, effect+slack, func() error { return hosted(plain, "h.outside.test") })
	until(t, effect+slack, func() error { return forbidden("http://"+plain+"/", "other.outside.test") })
	api := m.virtual("api")
	for _, port := range []int{80, portOf(t, secure), portOf(t, plain), portOf(t, one)} { // a service of the mesh has every port still
		until(t, effect+slack, func() error { return hosted(net.JoinHostPort(api, fmt.Sprint(port)), "api") })
	}
	if out := m.ask("", 0, []string{"explain", "request", "-from", m.name("web"), "-to", m.name("net"), "GET", "/"}); !strings.Contains(out, "transparently  10.9.1.0/24 but for 10.9.1.2") {
		t.Errorf("explained as\n%s", out)
	}
	m.ask("", 0, []string{"verify"})

	for range 300 { // more than others may have open from one address
		if err := refused(far); err != nil {
			t.Fatal(err)
		}
		opened(t, dialTCP, one)
	}
	open := opened(t, dialTCP, one)
	for _, s := range []string{"net", "named", "site"} {
		m.intend("deny", "web", s)
	}
	until(t, effect+slack, func() error { return errors.Join(refused(one), cut(open)) })
	until(t, effect+slack, func() error { return noTLS(secure, "a.outside.test") })
	until(t, effect+slack, func() error { return forbidden("http://"+plain+"/", "h.outside.test") })
	m.put("/v1/config", object{"Kind": "mesh", "TransparentProxy": object{"MeshDestinationsOnly": false}})
	until(t, effect+slack, func() error {
		return errors.Join(plainEcho(far), plainEcho(two), tlsEcho(secure, "b.outside.test"), hosted(plain, "other.outside.test"))
	})
	if err := errors.Join(refused(one), noTLS(secure, "a.outside.test"), forbidden("http://"+plain+"/", "h.outside.test")); err != nil {
		t.Errorf("denied, where all else may be reached: %v", err)
	}
	open = opened(t, dialTCP, far)
	m.put("/v1/config", object{"Kind": "mesh", "TransparentProxy": object{"MeshDestinationsOnly": true}})
	until(t, effect+slack, func() error { return errors.Join(refused(far), cut(open)) })
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

// An instance whose proxy wants it is reached by its own address, by mutual TLS, and as intentions say.
func TestDialedDirectlyInside(t *testing.T) {
	kind := Kind(os.Getenv("WEFT_E2E_KIND"))
	if kind == "" {
		t.Skip("run by TestTransparent")
	}
	w := mustWorld(t, kind, "deny")
	m := w.mesh(t)
	m.prefix = "td"
	m.protocol("api", "http")
	m.intend("allow", "web", "api")
	web, _ := m.transparent("web")
	until(t, effect+slack, func() error { return m.settled(web) })
	m.put("/v1/config", object{"Kind": "mesh", "TransparentProxy": object{"MeshDestinationsOnly": true}})
	w.redirect(t, "-proxy-id", web.ID+"-sidecar-proxy", "-consul-dns-port", fmt.Sprint(w.dns))
	at := ""
	for n, host := range []string{twoAddress, oneAddress} { // the second comes when the first has been called
		b := httpBackend(t, host)
		i := &Instance{ID: m.name("api-" + fmt.Sprint(n)), Name: m.name("api"), Public: mustPort(t), Port: b.Port, Up: map[string]string{}}
		m.put("/v1/agent/service/register", object{
			"ID": i.ID, "Name": i.Name, "Port": b.Port, "Address": host,
			"Connect": object{"SidecarService": object{"Port": i.Public, "Proxy": object{
				"Mode": "transparent", "LocalServiceAddress": "127.0.0.1",
				"TransparentProxy": object{"OutboundListenerPort": outboundPort + n + 1, "DialedDirectly": true},
			}}},
		})
		t.Cleanup(func() { m.remove(i) })
		m.uid = proxyUser
		m.sidecar(i)
		m.uid = 0
		at = net.JoinHostPort(host, fmt.Sprint(i.Public))
		until(t, 15*time.Second, func() error { return hosted(at, "api") })
		if got := b.header().Get("X-Forwarded-Client-Cert"); !strings.Contains(got, "/svc/"+m.name("web")) {
			t.Errorf("%s was called by %q", host, got)
		}
	}
	if err := refused(net.JoinHostPort(farAddress, "9")); err != nil {
		t.Errorf("another address: %v", err)
	}
	m.intend("deny", "web", "api")
	until(t, effect+slack, func() error {
		if err := hosted(at, "api"); err == nil {
			return errors.New("it is served")
		}
		return nil
	})
}
