// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
)

const (
	keyEC  = "ec"
	keyRSA = "rsa"

	pemCert    = "CERTIFICATE"
	pemRequest = "CERTIFICATE REQUEST"
	pemPKCS8   = "PRIVATE KEY"
)

// NewKey makes the ECDSA P-256 key of a leaf. The key depends on nothing but what is read from rand.
func NewKey(rand io.Reader) (*ecdsa.PrivateKey, error) {
	return newECKey(elliptic.P256(), rand)
}

// newECKey draws scalars until one is in range: what crypto/ecdsa does, but from the reader that was handed in, which
// crypto/ecdsa ignores since Go 1.26.
func newECKey(curve elliptic.Curve, rand io.Reader) (*ecdsa.PrivateKey, error) {
	bits := curve.Params().N.BitLen()
	buf := make([]byte, (bits+7)/8)
	for range 100 {
		if _, err := io.ReadFull(rand, buf); err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		if spare := bits % 8; spare != 0 {
			buf[0] &= 1<<spare - 1
		}
		if key, err := ecdsa.ParseRawPrivateKey(curve, buf); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("make a key: the source of randomness gives no usable numbers")
}

func checkKeyKind(kind string, bits int) error {
	switch {
	case kind == keyEC && (bits == 256 || bits == 384 || bits == 521), kind == keyRSA && (bits == 2048 || bits == 4096):
		return nil
	case kind == keyEC:
		return fmt.Errorf("%w: PrivateKeyBits is %d, must be 256, 384 or 521 for PrivateKeyType ec", ErrConfig, bits)
	case kind == keyRSA:
		return fmt.Errorf("%w: PrivateKeyBits is %d, must be 2048 or 4096 for PrivateKeyType rsa", ErrConfig, bits)
	}
	return fmt.Errorf("%w: PrivateKeyType is %q, must be ec or rsa", ErrConfig, kind)
}

// newAuthorityKey makes a key of the kind that the configuration names. An RSA key takes its randomness from the system.
func newAuthorityKey(c Config, rand io.Reader) (crypto.Signer, error) {
	if err := checkKeyKind(c.PrivateKeyType, c.PrivateKeyBits); err != nil {
		return nil, err
	}
	if c.PrivateKeyType == keyRSA {
		return rsa.GenerateKey(rand, c.PrivateKeyBits)
	}
	curve := elliptic.P256()
	switch c.PrivateKeyBits {
	case 384:
		curve = elliptic.P384()
	case 521:
		curve = elliptic.P521()
	}
	return newECKey(curve, rand)
}

// newSerial draws a positive serial number with up to that many bits.
func newSerial(rand io.Reader, bits int) (*big.Int, error) {
	buf := make([]byte, bits/8)
	for range 100 {
		if _, err := io.ReadFull(rand, buf); err != nil {
			return nil, fmt.Errorf("make a serial number: %w", err)
		}
		if n := new(big.Int).SetBytes(buf); n.Sign() > 0 {
			return n, nil
		}
	}
	return nil, errors.New("make a serial number: the source of randomness gives only zeros")
}

func encodeKey(key crypto.Signer) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode a private key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: der})), nil
}

// parseKey reads one PEM private key in PKCS #8, SEC 1 or PKCS #1 form. Errors never show the input.
func parseKey(text string) (crypto.Signer, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("the private key is not a single PEM block")
	}
	var key any
	var err error
	switch block.Type {
	case pemPKCS8:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, errors.New("the PEM block holds no private key of a known form (PRIVATE KEY, EC PRIVATE KEY, RSA PRIVATE KEY)")
	}
	if err != nil {
		return nil, errors.New("the private key can't be read")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key is of a kind that can't sign")
	}
	return signer, nil
}

func encodeCert(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der}))
}

// ParseCert reads one PEM certificate.
func ParseCert(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != pemCert || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("not a single PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// sameKey reports whether the public key belongs to the private one.
func sameKey(pub crypto.PublicKey, key crypto.Signer) bool {
	eq, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && eq.Equal(pub)
}

// keyKind names a public key in the configuration's words.
func keyKind(pub crypto.PublicKey) (string, int) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return keyEC, k.Curve.Params().BitSize
	case *rsa.PublicKey:
		return keyRSA, k.N.BitLen()
	}
	return "", 0
}

// colonHex spells bytes as "0a:ff".
func colonHex(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	out := make([]byte, 0, 3*len(b))
	for i, c := range b {
		if i > 0 {
			out = append(out, ':')
		}
		out = hex.AppendEncode(out, []byte{c})
	}
	return string(out)
}

// fingerprint is the name that a root goes by: the SHA-1 of the certificate. It is a name only; nothing is trusted for it.
func fingerprint(cert *x509.Certificate) string {
	sum := sha1.Sum(cert.Raw)
	return colonHex(sum[:])
}
