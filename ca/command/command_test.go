// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/ca/command"
	"github.com/weftmesh/weft/connect/identity"
)

// TestMain lets the test's own program be the command: a company's CA with its root in a folder.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "sign-for-weft" {
		if err := json.NewEncoder(os.Stdout).Encode(answer(os.Args[2])); err != nil {
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func answer(dir string) command.Answer {
	cert, err := sign(dir)
	if err != nil {
		return command.Answer{Error: err.Error()}
	}
	return command.Answer{Certificate: cert}
}

func sign(dir string) (string, error) {
	var q command.Question
	if err := json.NewDecoder(os.Stdin).Decode(&q); err != nil {
		return "", err
	}
	if os.Getenv("WEFT_CANARY") != "" {
		return "", errors.New("the server's environment shows")
	}
	text, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		return "", err
	}
	block, rest := pem.Decode(text)
	if q.Operation == command.OpRoot {
		return string(pem.EncodeToMemory(block)), nil
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	block, _ = pem.Decode(rest)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return "", err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: root.NotBefore, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	var pub any
	switch q.Operation {
	case command.OpSignIntermediate:
		block, _ = pem.Decode([]byte(q.CSR))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return "", err
		}
		t.Subject, t.URIs, pub, t.MaxPathLenZero = csr.Subject, csr.URIs, csr.PublicKey, true
		t.NotAfter = root.NotBefore.Add(time.Duration(q.TTLSeconds) * time.Second)
	case command.OpCrossSign:
		block, _ = pem.Decode([]byte(q.Certificate))
		other, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "", err
		}
		t.RawSubject, t.SubjectKeyId, pub, t.NotAfter = other.RawSubject, other.SubjectKeyId, other.PublicKey, root.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, root, pub, key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), err
}

const cluster = "11111111-2222-3333-4444-555555555555"

func company(t *testing.T, now time.Time) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Company Root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})...)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{self, "sign-for-weft", dir}
}

func TestCommand(t *testing.T) {
	t.Setenv("WEFT_CANARY", "x")
	now, ctx := time.Now(), context.Background()
	configure := func(s ca.State) ca.Provider {
		var p ca.Provider = command.New(rand.Reader)
		if s.Config.Provider != ca.CommandName {
			p = ca.NewBuiltin(rand.Reader)
		}
		if err := p.Configure(s.Setup()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	s := ca.State{ClusterID: cluster, Datacenter: "dc1", Config: ca.Config{Provider: ca.CommandName, Command: ca.CommandConfig{Argv: company(t, now)}}}
	s, _, _, err := ca.Advance(ctx, s, configure(s), now)
	if err != nil {
		t.Fatal(err)
	}
	if s.Material.Keys.Root != "" || s.Material.Keys.Intermediate == "" {
		t.Error("the root's key is the command's, the intermediate's is ours")
	}
	first := s.Roots
	for _, next := range []ca.Config{{}, s.Config} { // away and back, cross-signed both times
		changed, rotate, err := ca.Reconfigure(s, next)
		if err != nil || !rotate {
			t.Fatal(rotate, err)
		}
		fresh := configure(ca.State{ClusterID: cluster, Datacenter: "dc1", Config: changed.Config})
		if s, err = ca.Rotate(ctx, changed, configure(s), fresh, now, false); err != nil {
			t.Fatal(err)
		}
		id := identity.Service{TrustDomain: s.TrustDomain(), Datacenter: "dc1", Service: "web"}
		key, _ := ca.NewKey(rand.Reader)
		csr, _ := ca.CSR(id, key, rand.Reader)
		req, err := ca.CheckCSR(csr, s.TrustDomain(), "dc1")
		if err != nil {
			t.Fatal(err)
		}
		got, err := configure(s).Sign(ctx, req, now)
		if err != nil {
			t.Fatal(err)
		}
		pool, err := ca.Pool(first)
		if err != nil {
			t.Fatal(err)
		}
		var raw [][]byte
		for rest := []byte(got.CertPEM); ; {
			var b *pem.Block
			if b, rest = pem.Decode(rest); b == nil {
				break
			}
			raw = append(raw, b.Bytes)
		}
		if _, err := identity.VerifyPeer(raw, pool, now, identity.Want{TrustDomain: s.TrustDomain(), Use: identity.AsServer}); err != nil {
			t.Errorf("a host with the first root refuses a leaf under %s: %v", s.Config.Provider, err)
		}
	}
	// The intermediate of another datacenter's authority is signed by the command too.
	key, csr, err := ca.NewBuiltin(rand.Reader).RequestIntermediate(ca.Config{}, s.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	inter, err := configure(s).SignIntermediate(ctx, csr, now)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ca.Follow(ca.State{Datacenter: "dc2"}, ca.Primary{ClusterID: cluster, ActiveRootID: s.Roots[0].ID, Roots: s.Roots}, inter, key, now)
	if err != nil {
		t.Fatal(err)
	}
	configure(second) // which looks at all of it
}

// TestFaults: what a command does wrong is named, with the command and the operation.
func TestFaults(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) []string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil { //nolint:gosec // it is a program
			t.Fatal(err)
		}
		return []string{path}
	}
	for name, tc := range map[string]struct {
		argv []string
		text string
	}{
		"absent":  {[]string{filepath.Join(dir, "none")}, "no such file"},
		"exit":    {script("exit", "echo the HSM is locked >&2; exit 4\n"), "exit status 4; on its standard error: \"the HSM is locked\""},
		"refusal": {script("refusal", `echo '{"error":"not before Monday"}'`), `it says "not before Monday"`},
		"garbage": {script("garbage", "echo hello\n"), "isn't the JSON object"},
		"unknown": {script("unknown", `echo '{"cert":"x"}'`), "unknown field"},
		"empty":   {script("empty", "echo '{}'\n"), "neither certificate nor error"},
		"pem":     {script("pem", `echo '{"certificate":"x"}'`), "not a single PEM certificate"},
		"slow":    {script("slow", "sleep 600 & sleep 600\n"), "didn't answer within 300ms"},
	} {
		t.Run(name, func(t *testing.T) {
			timeout := time.Minute
			if name == "slow" {
				timeout = 300 * time.Millisecond
			}
			s := ca.State{ClusterID: cluster, Config: ca.Config{Provider: ca.CommandName, Command: ca.CommandConfig{Argv: tc.argv, Timeout: timeout}}}
			p := command.New(rand.Reader)
			if err := p.Configure(s.Setup()); err != nil {
				t.Fatal(err)
			}
			_, err := p.GenerateRoot(context.Background(), time.Now())
			if !errors.Is(err, ca.ErrProvider) || !strings.Contains(fmt.Sprint(err), tc.text) {
				t.Errorf("%v, want one with %q", err, tc.text)
			}
		})
	}
}
