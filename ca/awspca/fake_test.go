// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// fakePCA answers as AWS Private CA does (its API reference, JSON 1.1): signatures of requests are verified, certificates are made by template, and
// are there only some time after they were ordered.
type fakePCA struct {
	accessKey, secret, region string
	now                       func() time.Time

	mu       sync.Mutex
	cas      map[string]*authority
	certs    map[string]*issued
	tokens   map[string]string // idempotency token → certificate
	throttle int               // how many requests are refused first
	pending  int               // how often a certificate isn't there yet
	fault    string            // code of an error that everything is answered with
	asked    []string
}

type authority struct {
	arn, kind, status, mode, signs string
	key                            *ecdsa.PrivateKey
	cert                           *x509.Certificate
	subject                        pkix.Name
	waits                          int // for the key
}

type issued struct {
	ca    *authority
	pem   string
	waits int
}

type refusal struct{ code, message string }

func (r *refusal) Error() string { return r.code + ": " + r.message }

func refuse(code, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

func newFake(now func() time.Time) *fakePCA {
	return &fakePCA{
		accessKey: "AKIDEXAMPLE", secret: "s3cret/key", region: "eu-west-1", now: now,
		cas: map[string]*authority{}, certs: map[string]*issued{}, tokens: map[string]string{},
	}
}

// add makes a CA that is ready.
func (f *fakePCA) add(id, kind, mode string, years int) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{
		arn: "arn:aws:acm-pca:" + f.region + ":111122223333:certificate-authority/" + id, kind: kind, status: "ACTIVE", mode: mode, signs: "SHA256WITHECDSA",
		key: key, subject: pkix.Name{CommonName: "Mesh Root"},
	}
	der, err := f.make(a, a, "RootCACertificate", &x509.CertificateRequest{Subject: a.subject, PublicKey: key.Public()}, f.now().AddDate(years, 0, 0))
	if err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(der)
	f.cas[a.arn] = a
	return a, err
}

// make signs by a template.
func (f *fakePCA) make(by, of *authority, template string, csr *x509.CertificateRequest, end time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: csr.Subject, URIs: csr.URIs, DNSNames: csr.DNSNames, NotBefore: f.now().Add(-time.Hour), NotAfter: end,
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	parent := by.cert
	switch template {
	case "RootCACertificate":
		if by != of {
			return nil, refuse("InvalidArgsException", "RootCACertificate is for the CA's own request")
		}
		t.URIs, t.DNSNames, parent = nil, nil, t
	case "SubordinateCACertificate_PathLen0":
		t.MaxPathLenZero = true
	default:
		return nil, refuse("InvalidArnException", "no such template")
	}
	return x509.CreateCertificate(rand.Reader, t, parent, csr.PublicKey, by.key)
}

func (f *fakePCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	op, isOp := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "ACMPrivateCA.")
	f.asked = append(f.asked, op)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "11111111-2222-3333-4444-555555555555")
	var out any
	err := f.signed(r, body)
	switch {
	case err != nil:
	case r.Method != http.MethodPost || r.URL.Path != "/" || !isOp || r.Header.Get("Content-Type") != "application/x-amz-json-1.1":
		err = refuse("UnknownOperationException", "%s %s", r.Method, op)
	case f.throttle > 0:
		f.throttle--
		err = refuse("ThrottlingException", "Rate exceeded")
	case f.fault != "":
		err = refuse(f.fault, "because")
	default:
		out, err = f.do(op, body)
	}
	if err != nil {
		code, message := "InternalFailure", err.Error()
		if no, ok := err.(*refusal); ok { //nolint:errorlint // this file's own
			code, message = no.code, no.message
		}
		w.WriteHeader(http.StatusBadRequest)
		out = map[string]string{"__type": code, "message": message}
	}
	_ = json.NewEncoder(w).Encode(out) // the client may be gone
}

// signed verifies AWS Signature Version 4.
func (f *fakePCA) signed(r *http.Request, body []byte) error {
	fields := map[string]string{}
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	for part := range strings.SplitSeq(rest, ", ") {
		k, v, _ := strings.Cut(part, "=")
		fields[k] = v
	}
	scope := strings.Split(fields["Credential"], "/")
	if !ok || len(scope) != 5 {
		return refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	if scope[0] != f.accessKey {
		return refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	if scope[2] != f.region || scope[3] != "acm-pca" {
		return refuse("InvalidSignatureException", "Credential should be scoped to a valid region.")
	}
	names := strings.Split(fields["SignedHeaders"], ";")
	if !slices.Contains(names, "x-amz-target") || !slices.Contains(names, "host") {
		return refuse("InvalidSignatureException", "the target isn't signed")
	}
	var canonical strings.Builder
	canonical.WriteString(r.Method + "\n" + r.URL.EscapedPath() + "\n" + r.URL.RawQuery + "\n")
	for _, name := range names {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		canonical.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	sum := sha256.Sum256(body)
	canonical.WriteString("\n" + fields["SignedHeaders"] + "\n" + hex.EncodeToString(sum[:]))
	sum = sha256.Sum256([]byte(canonical.String()))
	mac := func(key []byte, text string) []byte {
		h := hmac.New(crypto.SHA256.New, key)
		_, _ = h.Write([]byte(text))
		return h.Sum(nil)
	}
	key := mac(mac(mac(mac([]byte("AWS4"+f.secret), scope[1]), scope[2]), scope[3]), scope[4])
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + strings.Join(scope[1:], "/") + "\n" + hex.EncodeToString(sum[:])
	if hex.EncodeToString(mac(key, text)) != fields["Signature"] {
		return refuse("InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
	}
	return nil
}

type request struct {
	CertificateAuthorityArn, CertificateArn, SigningAlgorithm, TemplateArn, IdempotencyToken, CertificateAuthorityType string
	Csr, Certificate                                                                                                   []byte
	Validity                                                                                                           struct {
		Type  string
		Value int64
	}
	CertificateAuthorityConfiguration struct {
		KeyAlgorithm, SigningAlgorithm string
		Subject                        struct{ CommonName string }
	}
}

func (f *fakePCA) do(op string, body []byte) (any, error) {
	var q request
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, refuse("SerializationException", "%v", err)
	}
	if op == "CreateCertificateAuthority" {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if c := q.CertificateAuthorityConfiguration; err != nil || c.KeyAlgorithm != "EC_prime256v1" || c.SigningAlgorithm != "SHA256WITHECDSA" || c.Subject.CommonName == "" {
			return nil, refuse("InvalidArgsException", "this fake makes EC_prime256v1 keys")
		}
		a := &authority{
			arn: "arn:aws:acm-pca:" + f.region + ":111122223333:certificate-authority/made", kind: q.CertificateAuthorityType, status: "PENDING_CERTIFICATE", signs: "SHA256WITHECDSA",
			key: key, subject: pkix.Name{CommonName: q.CertificateAuthorityConfiguration.Subject.CommonName}, waits: 2, mode: "GENERAL_PURPOSE",
		}
		f.cas[a.arn] = a
		return map[string]string{"CertificateAuthorityArn": a.arn}, nil
	}
	a := f.cas[q.CertificateAuthorityArn]
	if a == nil {
		return nil, refuse("ResourceNotFoundException", "Could not find Certificate Authority %s.", q.CertificateAuthorityArn)
	}
	switch op {
	case "DescribeCertificateAuthority":
		v := map[string]any{
			"Arn": a.arn, "Type": a.kind, "Status": a.status, "UsageMode": a.mode,
			"CertificateAuthorityConfiguration": map[string]any{"KeyAlgorithm": "EC_prime256v1", "SigningAlgorithm": a.signs, "Subject": map[string]string{"CommonName": a.subject.CommonName}},
		}
		if a.cert != nil {
			v["NotAfter"] = float64(a.cert.NotAfter.Unix())
		}
		return map[string]any{"CertificateAuthority": v}, nil
	case "GetCertificateAuthorityCertificate":
		if a.cert == nil {
			return nil, refuse("InvalidStateException", "The certificate authority is not in a valid state")
		}
		return map[string]string{"Certificate": encode(a.cert.Raw)}, nil
	case "GetCertificateAuthorityCsr":
		if a.waits--; a.waits >= 0 {
			return nil, refuse("RequestInProgressException", "the key is being made")
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: a.subject}, a.key)
		return map[string]string{"Csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))}, err
	case "ImportCertificateAuthorityCertificate":
		return struct{}{}, f.install(a, q.Certificate)
	case "IssueCertificate":
		return f.issue(a, q)
	case "GetCertificate":
		c := f.certs[q.CertificateArn]
		if c == nil || c.ca != a {
			return nil, refuse("ResourceNotFoundException", "Could not find certificate")
		}
		if c.waits--; c.waits >= 0 {
			return nil, refuse("RequestInProgressException", "The request to issue certificate %s is still in progress.", q.CertificateArn)
		}
		return map[string]string{"Certificate": c.pem, "CertificateChain": ""}, nil
	}
	return nil, refuse("UnknownOperationException", "%s", op)
}

func (f *fakePCA) install(a *authority, text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil || a.status != "PENDING_CERTIFICATE" {
		return refuse("MalformedCertificateException", "no PEM, or it has one")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !a.key.PublicKey.Equal(cert.PublicKey) || cert.CheckSignatureFrom(cert) != nil {
		return refuse("CertificateMismatchException", "not this CA's")
	}
	a.cert, a.status = cert, "ACTIVE"
	return nil
}

func (f *fakePCA) issue(a *authority, q request) (any, error) {
	block, _ := pem.Decode(q.Csr)
	if block == nil {
		return nil, refuse("MalformedCSRException", "no PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, refuse("MalformedCSRException", "it can't be read, or isn't signed by its key")
	}
	template, ok := strings.CutPrefix(q.TemplateArn, "arn:aws:acm-pca:::template/")
	name, version := strings.CutSuffix(template, "/V1")
	end := time.Unix(q.Validity.Value, 0)
	switch {
	case !ok || !version:
		return nil, refuse("InvalidArnException", "%s", q.TemplateArn)
	case q.SigningAlgorithm != a.signs:
		return nil, refuse("InvalidArgsException", "The signing algorithm doesn't fit the CA's key")
	case q.Validity.Type != "ABSOLUTE" || !end.After(f.now()):
		return nil, refuse("ValidationException", "the validity is over")
	case len(q.IdempotencyToken) > 36:
		return nil, refuse("ValidationException", "idempotencyToken must have length less than or equal to 36")
	case a.status != "ACTIVE" && name != "RootCACertificate":
		return nil, refuse("InvalidStateException", "it is %s", a.status)
	case a.cert != nil && end.After(a.cert.NotAfter):
		return nil, refuse("ValidationException", "The certificate's validity period exceeds the CA's")
	case a.mode == "SHORT_LIVED_CERTIFICATE" && end.After(f.now().Add(7*24*time.Hour)):
		return nil, refuse("ValidationException", "at most 7 days")
	}
	if arn := f.tokens[q.IdempotencyToken]; arn != "" && q.IdempotencyToken != "" {
		return map[string]string{"CertificateArn": arn}, nil
	}
	of := &authority{}
	if a.key.PublicKey.Equal(csr.PublicKey) {
		of = a
	}
	der, err := f.make(a, of, name, csr, end)
	if err != nil {
		return nil, err
	}
	arn := fmt.Sprintf("%s/certificate/%d", a.arn, len(f.certs))
	f.certs[arn] = &issued{a, encode(der), f.pending}
	f.tokens[q.IdempotencyToken] = arn
	return map[string]string{"CertificateArn": arn}, nil
}

func encode(der []byte) string {
	return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}
