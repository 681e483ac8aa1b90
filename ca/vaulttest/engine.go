// SPDX-License-Identifier: Apache-2.0

package vaulttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// engine is a mount of the kind pki.
type engine struct {
	now     func() time.Time
	most    time.Duration // of a certificate's life
	issuers map[string]*issuer
	preset  string // the default issuer's ID
	keys    map[string]*key
	roles   map[string]map[string]any
}

type issuer struct {
	cert *x509.Certificate
	key  string // "" for one that is only known
}

type key struct{ signer crypto.Signer }

func encode(kind string, der []byte) string {
	return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

func (e *engine) get(path string) (map[string]any, *failure) {
	ref := "default"
	switch {
	case path == "ca/pem":
		if e.preset == "" {
			return nil, nil // 204
		}
	case strings.HasPrefix(path, "issuer/") && strings.HasSuffix(path, "/pem"):
		ref = strings.TrimSuffix(strings.TrimPrefix(path, "issuer/"), "/pem")
	default:
		return nil, fail(404, "1 error occurred:\n\t* unsupported path")
	}
	i, f := e.issuer(ref)
	if f != nil {
		return nil, fail(404, "%s", f.text)
	}
	return map[string]any{"raw": raw(encode("CERTIFICATE", i.cert.Raw))}, nil
}

func (e *engine) issuer(ref string) (*issuer, *failure) {
	if ref == "default" {
		ref = e.preset
	}
	i := e.issuers[ref]
	if i == nil {
		return nil, fail(500, "unable to find PKI issuer for reference: %v", ref)
	}
	return i, nil
}

func (e *engine) post(path string, body map[string]any) (map[string]any, *failure) {
	switch {
	case path == "root/generate/internal":
		return e.generateRoot(body)
	case path == "intermediate/generate/internal":
		return e.generateCSR(body)
	case path == "root/sign-intermediate":
		return e.signIntermediate(body)
	case path == "intermediate/set-signed":
		return e.setSigned(body)
	case path == "root/sign-self-issued":
		return e.signSelfIssued(body)
	case strings.HasPrefix(path, "roles/"):
		e.roles[strings.TrimPrefix(path, "roles/")] = body
		return map[string]any{"data": body}, nil
	case strings.HasPrefix(path, "sign/"):
		return e.sign("default", strings.TrimPrefix(path, "sign/"), body)
	case strings.HasPrefix(path, "issuer/"):
		if ref, role, ok := strings.Cut(strings.TrimPrefix(path, "issuer/"), "/sign/"); ok {
			return e.sign(ref, role, body)
		}
	}
	return nil, fail(404, "1 error occurred:\n\t* unsupported path")
}

func (e *engine) newKey(body map[string]any) (string, crypto.Signer, *failure) {
	var s crypto.Signer
	var err error
	bits, _ := body["key_bits"].(float64)
	switch body["key_type"] {
	case "ec":
		curve := map[float64]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[bits]
		if curve == nil {
			return "", nil, fail(400, "unsupported bit length for EC key: %v", bits)
		}
		s, err = ecdsa.GenerateKey(curve, rand.Reader)
	case "rsa":
		s, err = rsa.GenerateKey(rand.Reader, int(bits))
	default:
		return "", nil, fail(400, "unknown key type: %v", body["key_type"])
	}
	if err != nil {
		return "", nil, fail(500, "%v", err)
	}
	n := id()
	e.keys[n] = &key{s}
	return n, s, nil
}

func uris(list string) (out []*url.URL) {
	for s := range strings.SplitSeq(list, ",") {
		if u, err := url.Parse(s); err == nil && s != "" {
			out = append(out, u)
		}
	}
	return out
}

func (e *engine) template(cn string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 158))
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cn},
		NotBefore: e.now().Add(-30 * time.Second), NotAfter: e.now().Add(min(life, e.most)), BasicConstraintsValid: true,
	}
}

func (e *engine) generateRoot(body map[string]any) (map[string]any, *failure) {
	k, signer, f := e.newKey(body)
	if f != nil {
		return nil, f
	}
	t := e.template(text(body, "common_name"), lifetime(body["ttl"], e.most))
	t.IsCA, t.KeyUsage, t.MaxPathLen, t.URIs = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, -1, uris(text(body, "uri_sans"))
	der, err := x509.CreateCertificate(rand.Reader, t, t, signer.Public(), signer)
	if err != nil {
		return nil, fail(500, "%v", err)
	}
	return e.add(der, k), nil
}

// add takes a certificate in as an issuer.
func (e *engine) add(der []byte, k string) map[string]any {
	cert, _ := x509.ParseCertificate(der) // it was just made
	n := id()
	e.issuers[n] = &issuer{cert, k}
	if e.preset == "" {
		e.preset = n
	}
	return map[string]any{"data": map[string]any{
		"certificate": encode("CERTIFICATE", der), "issuing_ca": encode("CERTIFICATE", der), "issuer_id": n, "key_id": k,
		"serial_number": hex.EncodeToString(cert.SerialNumber.Bytes()), "expiration": cert.NotAfter.Unix(),
	}}
}

func (e *engine) generateCSR(body map[string]any) (map[string]any, *failure) {
	k, signer, f := e.newKey(body)
	if f != nil {
		return nil, f
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: text(body, "common_name")}, URIs: uris(text(body, "uri_sans")),
	}, signer)
	if err != nil {
		return nil, fail(500, "%v", err)
	}
	return map[string]any{"data": map[string]any{"csr": encode("CERTIFICATE REQUEST", der), "key_id": k}}, nil
}

func request(body map[string]any) (*x509.CertificateRequest, *failure) {
	b, _ := pem.Decode([]byte(text(body, "csr")))
	if b == nil {
		return nil, fail(400, "csr contains no data")
	}
	csr, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, fail(400, "request signature invalid")
	}
	return csr, nil
}

// issue signs a template by an issuer, whose life it can't exceed.
func (e *engine) issue(i *issuer, t *x509.Certificate, pub crypto.PublicKey) (map[string]any, *failure) {
	if i.key == "" {
		return nil, fail(400, "unable to use issuer: no key")
	}
	if t.NotAfter.After(i.cert.NotAfter) {
		return nil, fail(400, "cannot satisfy request, as TTL would result in notAfter of %s that is beyond the expiration of the CA certificate at %s",
			t.NotAfter.UTC().Format(time.RFC3339), i.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, i.cert, pub, e.keys[i.key].signer)
	if err != nil {
		return nil, fail(500, "%v", err)
	}
	chain := encode("CERTIFICATE", i.cert.Raw)
	return map[string]any{"data": map[string]any{"certificate": encode("CERTIFICATE", der), "issuing_ca": chain, "ca_chain": []string{chain}}}, nil
}

func (e *engine) signIntermediate(body map[string]any) (map[string]any, *failure) {
	i, f := e.issuer("default")
	if f != nil {
		return nil, f
	}
	csr, f := request(body)
	if f != nil {
		return nil, f
	}
	t := e.template("", lifetime(body["ttl"], e.most))
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	t.Subject.CommonName = text(body, "common_name")
	if use, _ := body["use_csr_values"].(bool); use {
		t.Subject, t.URIs = csr.Subject, csr.URIs
	}
	t.MaxPathLen = -1
	if n, ok := body["max_path_length"].(float64); ok {
		t.MaxPathLen, t.MaxPathLenZero = int(n), n == 0
	}
	return e.issue(i, t, csr.PublicKey)
}

func (e *engine) setSigned(body map[string]any) (map[string]any, *failure) {
	b, _ := pem.Decode([]byte(text(body, "certificate")))
	if b == nil {
		return nil, fail(400, "no certificate provided in the \"certificate\" parameter")
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fail(400, "%v", err)
	}
	for n, k := range e.keys {
		if same, ok := k.signer.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && same.Equal(cert.PublicKey) {
			got := e.add(cert.Raw, n)["data"].(map[string]any)["issuer_id"].(string)
			return map[string]any{"data": map[string]any{"imported_issuers": []string{got}, "imported_keys": nil, "mapping": map[string]string{got: n}}}, nil
		}
	}
	return nil, fail(400, "verification of parsed bundle failed: no key for the certificate")
}

func (e *engine) signSelfIssued(body map[string]any) (map[string]any, *failure) {
	i, f := e.issuer("default")
	if f != nil {
		return nil, f
	}
	b, _ := pem.Decode([]byte(text(body, "certificate")))
	if b == nil {
		return nil, fail(400, "certificate cannot be parsed")
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil || !cert.IsCA || string(cert.RawSubject) != string(cert.RawIssuer) {
		return nil, fail(400, "given certificate is not a self-issued CA certificate")
	}
	t := *cert
	t.SignatureAlgorithm = 0 // the issuer's key decides
	der, err := x509.CreateCertificate(rand.Reader, &t, i.cert, cert.PublicKey, e.keys[i.key].signer)
	if err != nil {
		return nil, fail(500, "%v", err)
	}
	return map[string]any{"data": map[string]any{"certificate": encode("CERTIFICATE", der), "issuing_ca": encode("CERTIFICATE", i.cert.Raw)}}, nil
}

func (e *engine) sign(ref, role string, body map[string]any) (map[string]any, *failure) {
	i, f := e.issuer(ref)
	if f != nil {
		return nil, f
	}
	r := e.roles[role]
	if r == nil {
		return nil, fail(400, "unknown role: %s", role)
	}
	csr, f := request(body)
	if f != nil {
		return nil, f
	}
	if need, ok := r["require_cn"].(bool); (!ok || need) && csr.Subject.CommonName == "" {
		return nil, fail(400, "the common_name field is required, or must be provided in a CSR with \"use_csr_common_name\" set to true, unless \"require_cn\" is set to false")
	}
	allowed := strings.TrimSuffix(text(r, "allowed_uri_sans"), "*")
	for _, u := range csr.URIs {
		if allowed == "" || !strings.HasPrefix(u.String(), allowed) {
			return nil, fail(400, "URI Subject Alternative Names were provided via CSR which are not valid for this role")
		}
	}
	t := e.template("", min(lifetime(body["ttl"], e.most), lifetime(r["max_ttl"], e.most)))
	t.NotBefore = e.now().Add(-lifetime(r["not_before_duration"], 30*time.Second))
	t.URIs, t.DNSNames, t.BasicConstraintsValid = csr.URIs, csr.DNSNames, false
	t.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement | x509.KeyUsageKeyEncipherment
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return e.issue(i, t, csr.PublicKey)
}
