// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
)

func parsed(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// The authority and the certificates that it signs have Consul's file names and names, and serve TLS to each other.
func TestTLSCreate(t *testing.T) {
	t.Chdir(t.TempDir())
	ok := func(args ...string) {
		t.Helper()
		if r := weft(t, nil, "", nil, append([]string{"tls"}, args...)...); r.code != 0 {
			t.Fatalf("%v: %d %s", args, r.code, r.errout)
		}
	}
	ok("ca", "create", "-name-constraint", "-additional-name-constraint", "example.com", "-cluster-id", "c0ffee")
	ok("cert", "create", "-server", "-dc", "dc2", "-node", "s1")
	ok("cert", "create", "-server", "-dc=dc2")
	ok("cert", "create", "--client", "-additional-dnsname=a.example.com", "-additional-ipaddress=10.0.0.1")
	ok("cert", "create", "-cli")
	ca := parsed(t, "consul-agent-ca.pem")
	if !ca.IsCA || !slices.Contains(ca.PermittedDNSDomains, "example.com") || ca.URIs[0].String() != "spiffe://c0ffee.consul" {
		t.Errorf("authority: %v %v", ca.PermittedDNSDomains, ca.URIs)
	}
	server, client := parsed(t, "dc2-server-consul-0.pem"), parsed(t, "dc1-client-consul-0.pem")
	parsed(t, "dc2-server-consul-1.pem")
	parsed(t, "dc1-cli-consul-0.pem")
	if !slices.Equal(server.DNSNames, []string{"s1.server.dc2.consul", "server.dc2.consul", "localhost"}) || !server.IPAddresses[0].Equal(net.IPv4(127, 0, 0, 1)) {
		t.Errorf("server: %v %v", server.DNSNames, server.IPAddresses)
	}
	if !slices.Contains(client.DNSNames, "a.example.com") || len(client.IPAddresses) != 2 {
		t.Errorf("client: %v %v", client.DNSNames, client.IPAddresses)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	for _, c := range []*x509.Certificate{server, client} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
	}
	if _, err := tls.LoadX509KeyPair("dc2-server-consul-0.pem", "dc2-server-consul-0-key.pem"); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat("dc2-server-consul-0-key.pem"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode: %v, %v", info, err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"ca", "create"}, "consul-agent-ca.pem already exists"},
		{[]string{"cert", "create"}, "either -server, -client, or -cli"},
		{[]string{"cert", "create", "-server", "-cli"}, "either -server, -client, or -cli"},
		{[]string{"cert", "create", "-client", "-node", "x"}, "-node requires -server"},
		{[]string{"cert", "create", "-client", "-domain", "other"}, "weft tls ca create"},
		{[]string{"cert", "create", "-client", "-key", "dc1-cli-consul-0-key.pem"}, "isn't the key of"},
		{[]string{"cert", "create", "-client", "-dc", "../x"}, "can't be part of a file's name"},
		{[]string{"cert", "create", "-client", "-days", "0"}, "-days 0"},
		{[]string{"cert", "create", "-client", "-additional-ipaddress", "x"}, `"x" isn't an IP address`},
	} {
		if r := weft(t, nil, "", nil, append([]string{"tls"}, c.args...)...); r.code != 1 || !strings.Contains(r.errout, c.want) {
			t.Errorf("%v: %d %q, want %q", c.args, r.code, r.errout, c.want)
		}
	}
}

// By the name of consul the binary answers as scripts expect.
func TestCalledConsul(t *testing.T) {
	var out bytes.Buffer
	env := Env{Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }}
	if code := Run(t.Context(), env, []string{"/usr/local/bin/consul", "version"}); code != 0 || !strings.HasPrefix(out.String(), "Consul v1.") {
		t.Errorf("%d %s", code, &out)
	}
}
