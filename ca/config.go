// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"fmt"
	"reflect"
	"time"
)

// Defaults of the configuration.
const (
	DefaultLeafCertTTL         = 72 * time.Hour
	DefaultIntermediateCertTTL = 365 * 24 * time.Hour
	DefaultRootCertTTL         = 10 * 365 * 24 * time.Hour
	DefaultMinLeafCertTTL      = time.Hour
	DefaultCSRMaxPerSecond     = 1000
	maxLeafCertTTL             = 365 * 24 * time.Hour
)

// Config is the authority's configuration, with the field names of Consul's. The zero value of a field means its default.
type Config struct {
	// Provider is who holds the root: BuiltinName, VaultName or CommandName. "" is BuiltinName.
	Provider string
	// Vault is for VaultName, Command for CommandName.
	Vault   VaultConfig
	Command CommandConfig

	LeafCertTTL         time.Duration
	IntermediateCertTTL time.Duration
	RootCertTTL         time.Duration
	// MinLeafCertTTL is the shortest LeafCertTTL that is allowed: an hour, unless somebody wants to watch renewals happen.
	MinLeafCertTTL time.Duration
	// PrivateKeyType is "ec" or "rsa", and PrivateKeyBits 256, 384 or 521, or 2048 or 4096. They are about the
	// authority's keys; agents choose those of the leaves.
	PrivateKeyType string
	PrivateKeyBits int
	// CSRMaxPerSecond bounds how many leaves are signed per second; below zero means no bound.
	CSRMaxPerSecond float64
	// CSRMaxConcurrent bounds how many leaves are signed at the same time; zero means no bound.
	CSRMaxConcurrent int
	// RootCert and PrivateKey (PEM) are the root to use in place of one made here. Both or neither.
	RootCert   string
	PrivateKey Secret

	existingARN string // for a remedy
}

// Secret is a private key or a token. It doesn't show in logs or formatted output.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// WithDefaults fills in what is unset.
func (c Config) WithDefaults() Config {
	setDefault(&c.Provider, BuiltinName)
	if c.Provider == CommandName {
		setDefault(&c.Command.Timeout, DefaultCommandTimeout)
	}
	setDefault(&c.LeafCertTTL, DefaultLeafCertTTL)
	setDefault(&c.IntermediateCertTTL, DefaultIntermediateCertTTL)
	setDefault(&c.RootCertTTL, DefaultRootCertTTL)
	setDefault(&c.MinLeafCertTTL, DefaultMinLeafCertTTL)
	setDefault(&c.PrivateKeyType, keyEC)
	setDefault(&c.CSRMaxPerSecond, DefaultCSRMaxPerSecond)
	bits := 256
	if c.PrivateKeyType == keyRSA {
		bits = 2048
	}
	setDefault(&c.PrivateKeyBits, bits)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate checks the configuration with its defaults filled in. Errors wrap ErrConfig, and name the field and the bound.
func (c Config) Validate() error {
	c = c.WithDefaults()
	shortest := 3 * max(c.LeafCertTTL, c.MinLeafCertTTL)
	switch {
	case c.MinLeafCertTTL < time.Second:
		return fmt.Errorf("%w: MinLeafCertTTL is %s, must be at least 1s", ErrConfig, c.MinLeafCertTTL)
	case c.LeafCertTTL < c.MinLeafCertTTL || c.LeafCertTTL > maxLeafCertTTL:
		return fmt.Errorf("%w: LeafCertTTL is %s, must be from %s to %s", ErrConfig, c.LeafCertTTL, c.MinLeafCertTTL, maxLeafCertTTL)
	case c.IntermediateCertTTL < shortest:
		return fmt.Errorf("%w: IntermediateCertTTL is %s, must be at least three times the leaves', %s", ErrConfig, c.IntermediateCertTTL, shortest)
	case c.RootCertTTL < c.IntermediateCertTTL:
		return fmt.Errorf("%w: RootCertTTL is %s, must be at least IntermediateCertTTL, %s", ErrConfig, c.RootCertTTL, c.IntermediateCertTTL)
	case c.CSRMaxConcurrent < 0:
		return fmt.Errorf("%w: CSRMaxConcurrent is %d, must be 0 (no bound) or more", ErrConfig, c.CSRMaxConcurrent)
	case (c.RootCert == "") != (c.PrivateKey == ""):
		return fmt.Errorf("%w: RootCert and PrivateKey must be given together", ErrConfig)
	}
	if err := checkKeyKind(c.PrivateKeyType, c.PrivateKeyBits); err != nil {
		return err
	}
	if err := c.validateProvider(); err != nil {
		return err
	}
	if c.RootCert != "" {
		if _, _, err := givenRoot(c); err != nil {
			return err
		}
	}
	return nil
}

// rotates reports whether going from c to next needs another root or intermediate.
func (c Config) rotates(next Config) bool {
	return c.Provider != next.Provider || c.PrivateKeyType != next.PrivateKeyType || c.PrivateKeyBits != next.PrivateKeyBits ||
		c.RootCert != next.RootCert || c.PrivateKey != next.PrivateKey || c.Vault.place() != next.Vault.place() ||
		!reflect.DeepEqual(c.Command.Argv, next.Command.Argv)
}

// outside reports whether the root is somebody else's to replace.
func (c Config) outside() bool { return c.RootCert != "" || c.Provider != BuiltinName }
