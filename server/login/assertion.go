// SPDX-License-Identifier: Apache-2.0

package login

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// clientAssertion is Config.OIDCClientAssertion: weft proves to the provider which client it is by a JWT that it signs, with a key
// (private_key_jwt) or with the client's secret (client_secret_jwt), so that no secret goes over the wire (OpenID Connect Core 1.0, 9; RFC 7523).
type clientAssertion struct {
	// Audience is who the assertion is for; the provider's issuer if empty.
	Audience     []string
	PrivateKey   *assertionKey
	KeyAlgorithm string
}

// assertionKey is a private key in PEM, and how the provider finds the public one, if it has several: by a key ID, or by a certificate's hash.
type assertionKey struct{ PemKey, KeyID, PemCert string }

// assertionLife is how long an assertion is good: it is made when it is needed.
const assertionLife = 5 * time.Minute

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// given says whether there is more of it than the empty keys that Consul's clients send.
func (a *clientAssertion) given() bool {
	return a != nil && (len(a.Audience) > 0 || a.KeyAlgorithm != "" || a.PrivateKey != nil && *a.PrivateKey != assertionKey{})
}

// signing is the key by which a client signs, and what its header says of the key.
func (c *jwtConfig) signing() (key jose.SigningKey, header map[jose.HeaderKey]any, err error) {
	a := c.OIDCClientAssertion
	if a.PrivateKey == nil || *a.PrivateKey == (assertionKey{}) {
		sizes := map[jose.SignatureAlgorithm]int{jose.HS256: 32, jose.HS384: 48, jose.HS512: 64}
		alg := jose.SignatureAlgorithm(a.KeyAlgorithm)
		size, known := sizes[alg]
		switch {
		case !known || c.OIDCClientSecret == "":
			return key, nil, errors.New("Config.OIDCClientAssertion wants PrivateKey { PemKey }, or a KeyAlgorithm of HS256, HS384 or HS512 and Config.OIDCClientSecret to sign with")
		case len(c.OIDCClientSecret) < size:
			return key, nil, fmt.Errorf("Config.OIDCClientSecret has %d bytes: %s wants at least %d (RFC 7518, 3.2)", len(c.OIDCClientSecret), alg, size)
		}
		return jose.SigningKey{Algorithm: alg, Key: []byte(c.OIDCClientSecret)}, nil, nil
	}
	if c.OIDCClientSecret != "" {
		return key, nil, errors.New("Config.OIDCClientSecret and Config.OIDCClientAssertion.PrivateKey can't both be set")
	}
	private, fitting, err := privateKey(a.PrivateKey.PemKey)
	if err != nil {
		return key, nil, fmt.Errorf("Config.OIDCClientAssertion.PrivateKey.PemKey %w", err)
	}
	alg := fitting[0]
	if a.KeyAlgorithm != "" {
		if alg = jose.SignatureAlgorithm(a.KeyAlgorithm); !slices.Contains(fitting, alg) {
			return key, nil, fmt.Errorf("Config.OIDCClientAssertion.KeyAlgorithm is %q: with this key want one of %v", a.KeyAlgorithm, fitting)
		}
	}
	header = map[jose.HeaderKey]any{}
	if a.PrivateKey.KeyID != "" {
		header["kid"] = a.PrivateKey.KeyID
	}
	if a.PrivateKey.PemCert != "" {
		if header["x5t#S256"], err = certificateHash(a.PrivateKey.PemCert, private); err != nil {
			return key, nil, fmt.Errorf("Config.OIDCClientAssertion.PrivateKey.PemCert %w", err)
		}
	}
	return jose.SigningKey{Algorithm: alg, Key: private}, header, nil
}

// privateKey reads a private key from PEM, and gives the algorithms that it can sign by, the usual one first. Its error says nothing of the key.
func privateKey(text string) (any, []jose.SignatureAlgorithm, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, nil, errors.New("isn't PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, nil, errors.New("isn't an unencrypted private key (PKCS #8, PKCS #1 or SEC 1)")
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() < 2048 {
			return nil, nil, fmt.Errorf("has %d bits: want at least 2048", k.N.BitLen())
		}
		return key, []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, nil
	case *ecdsa.PrivateKey:
		if alg, ok := map[string]jose.SignatureAlgorithm{"P-256": jose.ES256, "P-384": jose.ES384, "P-521": jose.ES512}[k.Curve.Params().Name]; ok {
			return key, []jose.SignatureAlgorithm{alg}, nil
		}
	case ed25519.PrivateKey:
		return key, []jose.SignatureAlgorithm{jose.EdDSA}, nil
	}
	return nil, nil, errors.New("is of a kind that signs no JWT: want RSA, ECDSA (P-256, P-384, P-521) or Ed25519")
}

// certificateHash is the hash by which a provider finds the certificate that it knows (RFC 7515, 4.1.8), which must be the key's.
func certificateHash(text string, key any) (string, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return "", errors.New("isn't PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", errors.New("isn't a certificate")
	}
	public := jose.JSONWebKey{Key: key}
	public = public.Public()
	if k, ok := public.Key.(interface{ Equal(x crypto.PublicKey) bool }); !ok || !k.Equal(cert.PublicKey) {
		return "", errors.New("is of another key than PemKey")
	}
	sum := sha256.Sum256(block.Bytes)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// assertion makes one: good for one provider, once, for some minutes.
func (c *jwtConfig) assertion(to provider, now time.Time, random io.Reader) (string, error) {
	key, header, err := c.signing()
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{ExtraHeaders: header}).WithType("JWT"))
	if err != nil {
		return "", errors.New("the client assertion can't be signed by the key that is configured")
	}
	id := make([]byte, 16)
	if _, err := io.ReadFull(random, id); err != nil {
		return "", err
	}
	audience := jwt.Audience(c.OIDCClientAssertion.Audience)
	if len(audience) == 0 {
		audience = jwt.Audience{to.Issuer}
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: c.OIDCClientID, Subject: c.OIDCClientID, Audience: audience, ID: base64.RawURLEncoding.EncodeToString(id),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(assertionLife)),
	}).Serialize()
}
