// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test's own program be the one that weft starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "weft-ca-aws" {
		os.Exit(run(context.Background(), os.Args[2:], os.Stdin, os.Stdout, os.Stderr, clock{time.Now, time.After, time.Second}))
	}
	os.Exit(m.Run())
}

// desk is a fake with a root, and credentials for it.
type desk struct {
	*testing.T
	f    *fakePCA
	url  string
	root *authority
	at   time.Time
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{T: t, at: time.Now()} // signatures are of the system's time
	d.f = newFake(func() time.Time { return d.at })
	var err error
	if d.root, err = d.f.add("root", "ROOT", "GENERAL_PURPOSE", 10); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(d.f)
	t.Cleanup(s.Close)
	d.url = s.URL
	t.Setenv("HOME", t.TempDir())
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": d.f.accessKey, "AWS_SECRET_ACCESS_KEY": d.f.secret, "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1", "AWS_PROFILE": "",
		"AWS_SESSION_TOKEN": "", "AWS_CONFIG_FILE": "", "AWS_SHARED_CREDENTIALS_FILE": "",
	} {
		t.Setenv(k, v)
	}
	return d
}

// ask runs the program for one question. Waiting takes no time.
func (d *desk) ask(q question, args ...string) (answer, int) {
	d.Helper()
	q.Version = max(q.Version, 1)
	in, err := json.Marshal(q)
	if err != nil {
		d.Fatal(err)
	}
	if len(args) == 0 {
		args = []string{"-arn", d.root.arn}
	}
	c := clock{func() time.Time { return d.at }, func(time.Duration) <-chan time.Time {
		now := make(chan time.Time, 1)
		now <- d.at
		return now
	}, time.Millisecond}
	var out, errout bytes.Buffer
	code := run(d.Context(), append(args, "-endpoint", d.url), bytes.NewReader(in), &out, &errout, c)
	var a answer
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields() // as weft reads it
	if err := dec.Decode(&a); err != nil {
		d.Fatalf("%v; %s", err, errout.String())
	}
	if (code == 0) != (a.Error == "") || (a.Error == "") == (a.Certificate == "") {
		d.Errorf("code %d with %+v", code, a)
	}
	return a, code
}

func (d *desk) refused(a answer, want string) {
	d.Helper()
	if !strings.Contains(a.Error, want) || strings.Contains(a.Error, d.f.secret) {
		d.Errorf("%q, want %q", a.Error, want)
	}
}

// csr is an intermediate's request as weft makes it.
func csr(t *testing.T) (string, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "int-0a0b0c0d.command.ca.11111111.consul"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "11111111-2222.consul"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), key
}

func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("not a single PEM certificate: %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestAnswers(t *testing.T) {
	d := newDesk(t)
	a, _ := d.ask(question{Operation: opRoot})
	if root := parse(t, a.Certificate); !root.Equal(d.root.cert) {
		t.Error("another root")
	}
	d.f.pending, d.f.throttle = 3, 2
	text, key := csr(t)
	q := question{Operation: opSignIntermediate, CSR: text, TTLSeconds: 365 * 86400}
	a, _ = d.ask(q)
	inter := parse(t, a.Certificate)
	switch {
	case inter.CheckSignatureFrom(d.root.cert) != nil:
		t.Error("the root didn't sign it")
	case !key.PublicKey.Equal(inter.PublicKey) || len(inter.URIs) != 1 || inter.URIs[0].Host != "11111111-2222.consul" || !strings.HasPrefix(inter.Subject.CommonName, "int-"):
		t.Error("another key or name than was asked for")
	case !inter.IsCA || !inter.MaxPathLenZero || inter.KeyUsage&x509.KeyUsageCertSign == 0:
		t.Error("no authority of path length 0")
	case inter.NotAfter.Sub(d.at).Round(time.Hour) != 365*24*time.Hour:
		t.Error("ends at", inter.NotAfter)
	}
	count := map[string]int{}
	for _, op := range d.f.asked {
		count[op]++
	}
	if count["GetCertificate"] != 4 || count["IssueCertificate"] != 1 || count["DescribeCertificateAuthority"] != 4 {
		t.Error(count)
	}
	// Asked again, the same certificate is ordered, and paid, once.
	if again, _ := d.ask(q); again.Certificate != a.Certificate || len(d.f.certs) != 1 {
		t.Errorf("%d certificates are made", len(d.f.certs))
	}
	// An intermediate ends with its root: weft asks for the rest of the root's life, by its own clock.
	d.at = d.root.cert.NotAfter.Add(-time.Hour)
	q.CSR, _ = csr(t)
	if a, _ = d.ask(question{Operation: opSignIntermediate, CSR: q.CSR, TTLSeconds: 3610}); !parse(t, a.Certificate).NotAfter.Equal(d.root.cert.NotAfter) {
		t.Error("it doesn't end with its root")
	}
	a, _ = d.ask(question{Operation: opCrossSign, Certificate: "x"})
	if a.Error != "unsupported" {
		t.Errorf("%+v: weft knows the word unsupported", a)
	}
}

// What AWS refuses, and what is asked wrongly, is said with what to do.
func TestRefusals(t *testing.T) {
	d := newDesk(t)
	text, _ := csr(t)
	sign := question{Operation: opSignIntermediate, CSR: text, TTLSeconds: 86400}
	for code, want := range map[string]string{
		"ExpiredTokenException": "the credentials have ended", "AccessDeniedException": "website/docs/ca.md", "InvalidArnException": "look at the ARN",
		"LimitExceededException": "weft asks again", "RequestFailedException": "AWS says RequestFailedException: because",
	} {
		d.f.fault, d.f.asked = code, nil
		a, _ := d.ask(sign)
		d.refused(a, want)
		if code == "ExpiredTokenException" && strings.Count(fmt.Sprint(d.f.asked), "Describe") > 1 {
			t.Error("what can't succeed is tried again", d.f.asked)
		}
	}
	d.f.fault = ""
	d.f.throttle = 6
	a, _ := d.ask(sign)
	d.refused(a, "ThrottlingException")
	if d.f.throttle != 0 {
		t.Errorf("%d tries are left", d.f.throttle)
	}
	if a, code := d.ask(sign); code != 0 {
		t.Error("the control:", a)
	}
	for name, c := range map[string]struct {
		change func(*authority)
		want   string
	}{
		"subordinate": {func(a *authority) { a.kind = "SUBORDINATE" }, "must be a ROOT"},
		"disabled":    {func(a *authority) { a.status = "DISABLED" }, "is DISABLED"},
		"short-lived": {func(a *authority) { a.mode = "SHORT_LIVED_CERTIFICATE" }, "IntermediateCertTTL"},
		"fit":         {func(a *authority) { a.signs = "" }, "AWS"},
	} {
		was := *d.root
		c.change(d.root)
		text, _ := csr(t)
		a, _ := d.ask(question{Operation: opSignIntermediate, CSR: text, TTLSeconds: 30 * 86400})
		if d.refused(a, c.want); name == "short-lived" {
			if a, code := d.ask(question{Operation: opSignIntermediate, CSR: text, TTLSeconds: 6 * 86400}); code != 0 {
				t.Error("the control:", a)
			}
		}
		*d.root = was
	}
	other := strings.Replace(d.root.arn, "/root", "/other", 1)
	for want, args := range map[string][]string{
		"ResourceNotFoundException":                {"-arn", other},
		"Credential should be scoped":              {"-arn", strings.Replace(d.root.arn, "eu-west-1", "eu-central-1", 1)},
		"isn't that of a CA":                       {"-arn", "arn:aws:acm:eu-west-1:1:certificate/x"},
		`-arn ""`:                                  {},
		"want weft-ca-aws -arn":                    {"-arn", d.root.arn, "more"},
		"gave no answer within":                    {"-arn", d.root.arn, "-timeout", "1ns"},
		"failed to get shared config profile, odd": {"-arn", d.root.arn, "-profile", "odd"},
	} {
		if len(args) == 0 {
			args = []string{"-profile", ""}
		}
		a, _ := d.ask(sign, args...)
		d.refused(a, want)
	}
	for want, q := range map[string]question{
		"knows 1": {Version: 2, Operation: opRoot}, "doesn't know": {Operation: "sign-leaf"}, "no request": {Operation: opSignIntermediate, TTLSeconds: 1},
		"or no time": {Operation: opSignIntermediate, CSR: text}, "MalformedCSRException": {Operation: opSignIntermediate, TTLSeconds: 60, CSR: "-----BEGIN X-----\n-----END X-----\n"},
	} {
		a, _ := d.ask(q)
		d.refused(a, want)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	a, _ = d.ask(sign)
	d.refused(a, "the credentials are wrong")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	a, _ = d.ask(sign)
	d.refused(a, "AWS can't be asked")
	var out, errout bytes.Buffer
	if code := run(t.Context(), []string{"-arn", d.root.arn, "-endpoint", "http://pca.example"}, strings.NewReader(`{"version":1,"operation":"root"}`), &out, &errout, clock{}); code != 1 || !strings.Contains(out.String(), "must begin with https") {
		t.Errorf("%d %s", code, out.String())
	}
}

// A CA that is made is a root that signs.
func TestCreate(t *testing.T) {
	d := newDesk(t)
	c := clock{func() time.Time { return d.at }, func(time.Duration) <-chan time.Time {
		now := make(chan time.Time, 1)
		now <- d.at
		return now
	}, time.Millisecond}
	d.f.pending = 1
	var out, errout bytes.Buffer
	if code := run(t.Context(), []string{"create", "-region", "eu-west-1", "-name", "Mesh", "-endpoint", d.url}, nil, &out, &errout, c); code != 0 {
		t.Fatal(errout.String())
	}
	made := strings.TrimSpace(out.String())
	a, _ := d.ask(question{Operation: opRoot}, "-arn", made)
	root := parse(t, a.Certificate)
	if root.Subject.CommonName != "Mesh" || root.NotAfter.Year() != d.at.AddDate(10, 0, 0).Year() || root.CheckSignatureFrom(root) != nil {
		t.Error(root.Subject, root.NotAfter)
	}
	text, _ := csr(t)
	if a, _ = d.ask(question{Operation: opSignIntermediate, CSR: text, TTLSeconds: 86400}, "-arn", made); parse(t, a.Certificate).CheckSignatureFrom(root) != nil {
		t.Error("it doesn't sign")
	}
	for _, args := range []string{"create", "create -region eu-west-1", "create -region eu-west-1 -name x -key-algorithm ML_DSA_44"} {
		if code := run(t.Context(), strings.Fields(args), nil, &out, &errout, c); code != 1 || !strings.Contains(errout.String(), "want weft-ca-aws create") {
			t.Error(args, errout.String())
		}
	}
	d.f.fault = "AccessDeniedException"
	if code := run(t.Context(), []string{"create", "-region", "eu-west-1", "-name", "Mesh", "-endpoint", d.url}, nil, &out, &errout, c); code != 1 || !strings.Contains(errout.String(), "make the CA: AWS says AccessDenied") {
		t.Error(errout.String())
	}
}
