// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"
)

func tlsCACreate(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "create", Usage: "make a certificate authority for agents, in this folder",
		Flags: []ucli.Flag{
			&ucli.IntFlag{Name: "days", Value: 1825, Usage: "how long it lasts"},
			&ucli.StringFlag{Name: "domain", Value: "consul", Usage: "the agents' domain"},
			&ucli.StringFlag{Name: "common-name", Usage: "its name"},
			&ucli.StringFlag{Name: "cluster-id", Usage: "UUID that becomes its SPIFFE trust domain"},
			&ucli.BoolFlag{Name: "name-constraint", Usage: "it can sign for names in the domain only"},
			&ucli.StringSliceFlag{Name: "additional-name-constraint", Usage: "further names that it can sign for (repeatable)"},
		},
		Action: func(c *ucli.Context) error { return createCA(c, env) },
	}
}

func createCA(c *ucli.Context, env Env) error {
	domain := strings.Trim(c.String("domain"), ".")
	if err := fileName(domain); err != nil {
		return err
	}
	days, err := lasting(c.Int("days"))
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	name := c.String("common-name")
	if name == "" {
		name = "Agent CA " + serial.String()
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: []string{"weft"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(days),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true,
	}
	if id := c.String("cluster-id"); id != "" {
		t.URIs = []*url.URL{{Scheme: "spiffe", Host: id + "." + domain}}
	}
	if more := c.StringSlice("additional-name-constraint"); c.Bool("name-constraint") {
		t.PermittedDNSDomainsCritical = true
		t.PermittedDNSDomains = append(more, "localhost", domain)
	} else if len(more) > 0 {
		return usage("-additional-name-constraint needs -name-constraint")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return save(env, domain+"-agent-ca", t, t, key, key)
}

func tlsCertCreate(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "create", Usage: "make a certificate for a server, a client or the command line, in this folder",
		Flags: []ucli.Flag{
			&ucli.BoolFlag{Name: "server", Usage: "for a server"},
			&ucli.BoolFlag{Name: "client", Usage: "for an agent without a server"},
			&ucli.BoolFlag{Name: "cli", Usage: "for the command line"},
			&ucli.StringFlag{Name: "ca", Usage: "the authority's certificate, by default DOMAIN-agent-ca.pem"},
			&ucli.StringFlag{Name: "key", Usage: "the authority's key, by default DOMAIN-agent-ca-key.pem"},
			&ucli.StringFlag{Name: "dc", Value: "dc1", Usage: "the datacenter"},
			&ucli.StringFlag{Name: "domain", Value: "consul", Usage: "the agents' domain"},
			&ucli.StringFlag{Name: "node", Usage: "the server's node: the certificate has its name too"},
			&ucli.IntFlag{Name: "days", Value: 365, Usage: "how long it lasts"},
			&ucli.StringSliceFlag{Name: "additional-dnsname", Usage: "a further name (repeatable)"},
			&ucli.StringSliceFlag{Name: "additional-ipaddress", Usage: "a further address (repeatable)"},
		},
		Action: func(c *ucli.Context) error { return createCert(c, env) },
	}
}

func createCert(c *ucli.Context, env Env) error {
	role := ""
	for _, r := range []string{"server", "client", "cli"} {
		if !c.Bool(r) {
			continue
		}
		if role != "" {
			return usage("Please provide either -server, -client, or -cli")
		}
		role = r
	}
	domain, dc := strings.Trim(c.String("domain"), "."), c.String("dc")
	if role == "" {
		return usage("Please provide either -server, -client, or -cli")
	}
	if c.String("node") != "" && role != "server" {
		return usage("-node requires -server")
	}
	if err := errors.Join(fileName(domain), fileName(dc)); err != nil {
		return err
	}
	days, err := lasting(c.Int("days"))
	if err != nil {
		return err
	}
	ca, caKey, err := loadCA(cmp.Or(c.String("ca"), domain+"-agent-ca.pem"), cmp.Or(c.String("key"), domain+"-agent-ca-key.pem"))
	if err != nil {
		return err
	}
	names := append([]string{}, c.StringSlice("additional-dnsname")...)
	if n := c.String("node"); n != "" {
		names = append(names, n+".server."+dc+"."+domain)
	}
	own := role + "." + dc + "." + domain
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: own}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(days),
		DNSNames: append(names, own, "localhost"), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if role != "cli" {
		t.IPAddresses = append(t.IPAddresses, net.IPv4(127, 0, 0, 1))
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	} else {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	for _, a := range c.StringSlice("additional-ipaddress") {
		ip := net.ParseIP(a)
		if ip == nil {
			return usage("-additional-ipaddress %q isn't an IP address", a)
		}
		t.IPAddresses = append(t.IPAddresses, ip)
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return err
	}
	if t.NotAfter.After(ca.NotAfter) {
		fmt.Fprintf(env.Stderr, "Warning: the authority ends on %s, before this certificate does\n", ca.NotAfter.Format(time.DateOnly))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if role == "server" {
		fmt.Fprintln(env.Stdout, "==> Who has a server's certificate can become a server, and read all that servers know: keep it on servers only.")
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s-%s-%s-%d", dc, role, domain, i)
		if err := save(env, name, t, ca, key, caKey); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

// fileName refuses what would lead out of this folder.
func fileName(part string) error {
	if part == "" || strings.ContainsAny(part, "/\\") {
		return usage("%q can't be part of a file's name", part)
	}
	return nil
}

func lasting(days int) (time.Duration, error) {
	if days < 1 || days > 36500 {
		return 0, usage("-days %d: want 1 to 36500", days)
	}
	return time.Duration(days) * 24 * time.Hour, nil
}

func loadCA(certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	block := func(file string) ([]byte, error) {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: make an authority with `weft tls ca create`, or name one with -ca and -key", err)
		}
		if err != nil {
			return nil, err
		}
		b, _ := pem.Decode(data)
		if b == nil {
			return nil, fmt.Errorf("%s: not in PEM form", file)
		}
		return b.Bytes, nil
	}
	raw, err := block(certFile)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	if raw, err = block(keyFile); err != nil {
		return nil, nil, err
	}
	key, err := x509.ParseECPrivateKey(raw)
	if err != nil {
		any, err8 := x509.ParsePKCS8PrivateKey(raw)
		k, ok := any.(*ecdsa.PrivateKey)
		if err8 != nil || !ok {
			return nil, nil, fmt.Errorf("%s: want an elliptic curve key: %w", keyFile, err)
		}
		key = k
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s isn't the key of %s", keyFile, certFile)
	}
	return cert, key, nil
}

// save signs a certificate and writes it and its key; neither file may be there.
func save(env Env, name string, t, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, parentKey)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	certFile, keyFile := name+".pem", name+"-key.pem"
	if _, err := os.Stat(certFile); err == nil {
		return fmt.Errorf("%s already exists: %w", certFile, fs.ErrExist)
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
		mode       fs.FileMode
	}{{keyFile, "EC PRIVATE KEY", raw, 0o600}, {certFile, "CERTIFICATE", der, 0o644}} {
		if err := writeNew(f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), f.mode); err != nil {
			return err
		}
	}
	fmt.Fprintf(env.Stdout, "==> Saved %s\n==> Saved %s\n", certFile, keyFile)
	return nil
}

func writeNew(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
