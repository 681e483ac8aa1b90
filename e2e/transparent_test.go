// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The network namespace of TestTransparent: it has an address beside loopback, and a way to everywhere that leads nowhere.
const (
	ownAddress     = "10.9.0.1"
	outsideAddress = "10.9.0.2" // of a second namespace, from which others call
	oneAddress     = "10.9.1.1"
	twoAddress     = "10.9.1.2"
	farAddress     = "10.9.2.1"
	nameserver     = "10.9.0.53:53"
	proxyUser      = 64123
	outboundPort   = 15061 // of the one transparent proxy
)

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestTransparent runs the tests of transparent proxies, each in a network namespace of its own, for each kind of sidecar that is a process
// of its own.
func TestTransparent(t *testing.T) {
	enabled(t)
	for i, test := range []string{"TestTransparentInside", "TestOutsideInside", "TestDialedDirectlyInside"} {
		t.Run(test, func(t *testing.T) {
			for _, k := range []Kind{Envoy, Builtin} {
				t.Run(string(k), func(t *testing.T) { inNamespace(t, test, k, fmt.Sprintf("weft-%d-%d-%s", os.Getpid(), i, k)) })
			}
		})
	}
}

func inNamespace(t *testing.T, test string, k Kind, inside string) {
	outside := inside + "-out"
	for _, ns := range []string{inside, outside} {
		command(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { command(t, "ip", "netns", "del", ns) })
		command(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	command(t, "ip", "-n", inside, "link", "add", "w0", "type", "veth", "peer", "name", "w1", "netns", outside)
	for ns, at := range map[string][2]string{inside: {"w0", ownAddress}, outside: {"w1", outsideAddress}} {
		command(t, "ip", "-n", ns, "addr", "add", at[1]+"/24", "dev", at[0])
		command(t, "ip", "-n", ns, "link", "set", at[0], "up")
	}
	for _, a := range []string{oneAddress, twoAddress, farAddress} {
		command(t, "ip", "-n", inside, "addr", "add", a+"/32", "dev", "lo")
	}
	command(t, "ip", "-n", inside, "route", "add", "default", "via", outsideAddress)
	cmd := exec.Command("ip", "netns", "exec", inside, os.Args[0], "-test.run", "^"+test+"$", "-test.v", "-test.timeout", "120s")
	cmd.Env = append(os.Environ(), "WEFT_E2E_KIND="+string(k), "WEFT_E2E_OUTSIDE="+outside)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+test)) {
		t.Errorf("%v\n%s", err, out)
	}
}

// named is a client that asks the mesh's DNS, as the system's resolver would: at some server's port 53.
func named() (*http.Client, func()) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", nameserver)
	}}
	t := &http.Transport{DialContext: (&net.Dialer{Resolver: r, Timeout: callWithin}).DialContext}
	return &http.Client{Transport: t, Timeout: 2 * callWithin}, t.CloseIdleConnections
}

// echoServer answers in plain text, from the first byte on, outside the mesh.
func echoServer(t *testing.T, at string) string {
	t.Helper()
	return serveConns(t, at, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
}

// serveConns listens at an address until the test ends, and gives its port to it; serve has each connection, which is closed afterwards.
func serveConns(t *testing.T, at string, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

func plainEcho(addr string) error {
	conn, err := dialTCP(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	return ping(conn)
}

// from calls an address from the other namespace, and gives the first line of what it answers.
func from(t *testing.T, ns, addr string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	script := fmt.Sprintf(`exec 3<>/dev/tcp/%s/%s && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3`, host, port)
	out, _ := exec.CommandContext(ctx, "ip", "netns", "exec", ns, "bash", "-c", script).Output() // a refusal is an empty answer
	return strings.TrimSpace(string(out))
}

// A program that knows nothing of the mesh calls a service by its virtual name and address, and gets it by mutual TLS, as its intentions
// say; what isn't of the mesh goes where it went before.
func TestTransparentInside(t *testing.T) {
	kind, outside := Kind(os.Getenv("WEFT_E2E_KIND")), os.Getenv("WEFT_E2E_OUTSIDE")
	if kind == "" {
		t.Skip("run by TestTransparent")
	}
	w := mustWorld(t, kind, "deny")
	m := w.mesh(t)
	m.prefix = "tp"
	backend := httpBackend(t, "api")
	m.protocol("api", "http")
	m.intend("allow", "web", "api")
	m.instance("api", "api", backend.Port)
	tcp := tcpBackend(t)
	m.protocol("db", "tcp")
	m.intend("allow", "web", "db")
	m.instance("db", "db", tcp.Port)
	web, app := m.transparent("web")
	redirect := func(more ...string) { t.Helper(); w.redirect(t, more...) }
	beyond := echoServer(t, ownAddress)
	if got := from(t, outside, app); !strings.Contains(got, "200") {
		t.Fatalf("before anything is redirected, the application answers %q", got)
	}
	until(t, effect+slack, func() error { return m.settled(web) })
	all := []string{"-proxy-id", web.ID + "-sidecar-proxy", "-consul-dns-port", strconv.Itoa(w.dns), "-exclude-inbound-port", "9"}
	redirect(all...)
	first := command(t, "iptables-save", "-t", "nat")
	redirect(all...)
	if again := command(t, "iptables-save", "-t", "nat"); lines(again) != lines(first) {
		t.Errorf("a second run makes other rules:\n%s\n%s", first, again)
	}

	c, end := named()
	defer end()
	virtual := "http://" + m.name("api") + ".virtual.consul"
	until(t, 15*time.Second, func() error { return wantStatus(c, virtual+"/", http.StatusOK) })
	backend.mu.Lock()
	caller := backend.last.Get("X-Forwarded-Client-Cert")
	backend.mu.Unlock()
	if !strings.Contains(caller, "/svc/"+m.name("web")) {
		t.Errorf("api was called by %q", caller)
	}
	until(t, 15*time.Second, func() error { return wantStatus(c, virtual+":8888/", http.StatusOK) }) // under any port
	db := m.virtual("db") + ":5432"
	until(t, 15*time.Second, func() error { return plainEcho(db) })
	if err := plainEcho(beyond); err != nil {
		t.Errorf("beyond the mesh: %v", err)
	}
	if got := from(t, outside, app); strings.Contains(got, "200") {
		t.Errorf("the application answers who comes in plain text: %q", got)
	}
	if err := refused(loopback(outboundPort)); err != nil {
		t.Errorf("the proxy's own port: %v", err)
	}
	if conn, err := dialTCP(loopback(outboundPort)); err == nil { // nor does who says nothing make it dial itself
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
		if ne := net.Error(nil); err == nil || errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("the proxy's own port, in silence: %v", err)
		}
	}

	if out := m.ask("", 0, []string{"explain", "request", "-from", m.name("web"), "-to", m.name("api"), "GET", "/"}); !strings.Contains(out, "transparently") {
		t.Errorf("explained as\n%s", out)
	}
	m.ask("", 0, []string{"verify"})

	m.intend("deny", "web", "db")
	until(t, effect+slack, func() error { return refused(db) })
	m.intend("deny", "web", "api")
	until(t, effect+slack, func() error {
		c, end := named()
		defer end()
		resp, err := c.Get(virtual + "/")
		if err != nil {
			return nil // it isn't reached any more
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			return errors.New(resp.Status)
		}
		return nil
	})
	m.put("/v1/config", object{"Kind": "mesh", "TransparentProxy": object{"MeshDestinationsOnly": true}})
	until(t, effect+slack, func() error { return refused(beyond) })

	redirect("-remove")
	if err := plainEcho(beyond); err != nil {
		t.Errorf("nothing is redirected any more: %v", err)
	}
	if got := from(t, outside, app); !strings.Contains(got, "200") {
		t.Errorf("nothing is redirected any more, and the application answers %q", got)
	}
	if left := command(t, "iptables-save", "-t", "nat"); strings.Contains(left, "CONSUL") {
		t.Errorf("left:\n%s", left)
	}
}

func (w *World) redirect(t *testing.T, more ...string) {
	t.Helper()
	args := append([]string{"connect", "redirect-traffic", "-http-addr", loopback(w.http), "-proxy-uid", strconv.Itoa(proxyUser)}, more...)
	command(t, binary(), args...)
}

// lines are a text's, without comments.
func lines(text string) string {
	var out strings.Builder
	for l := range strings.Lines(text) {
		if !strings.HasPrefix(l, "#") {
			out.WriteString(l)
		}
	}
	return out.String()
}

// transparent is a service whose sidecar, of a user of its own, is transparent; and where its application listens for everybody.
func (m *Mesh) transparent(service string) (*Instance, string) {
	m.t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		m.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, service) })}
	go func() { _ = server.Serve(l) }() // ends with Close
	m.t.Cleanup(func() { _ = server.Close() })
	port := l.Addr().(*net.TCPAddr).Port
	i := &Instance{ID: m.name(service), Name: m.name(service), Public: mustPort(m.t), Port: port, Up: map[string]string{}}
	m.put("/v1/agent/service/register", object{
		"ID": i.ID, "Name": i.Name, "Port": port,
		"Connect": object{"SidecarService": object{
			"Port":  i.Public,
			"Proxy": object{"Mode": "transparent", "TransparentProxy": object{"OutboundListenerPort": outboundPort}},
		}},
	})
	m.t.Cleanup(func() { m.remove(i) })
	m.uid = proxyUser
	defer func() { m.uid = 0 }()
	m.sidecar(i)
	return i, net.JoinHostPort(ownAddress, strconv.Itoa(port))
}

// virtual is a service's address.
func (m *Mesh) virtual(service string) string {
	m.t.Helper()
	var chain struct {
		Chain struct{ AutoVirtualIPs []string }
	}
	if err := m.w.do(http.MethodGet, "/v1/discovery-chain/"+m.name(service), nil, &chain); err != nil || len(chain.Chain.AutoVirtualIPs) != 1 {
		m.t.Fatalf("%v, %+v", err, chain)
	}
	return chain.Chain.AutoVirtualIPs[0]
}
