// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// TLS are the files and rules of each kind of listener; what one doesn't say is what Defaults says.
type TLS struct {
	Defaults    TLSPart
	InternalRPC TLSPart `decode:"internal_rpc"`
	HTTPS       TLSPart
	GRPC        TLSPart
}

// TLSPart is one block of tls.
type TLSPart struct {
	CAFile, CAPath       string
	CertFile, KeyFile    string
	TLSMinVersion        string
	TLSCipherSuites      string // names of Go's, separated by commas
	VerifyIncoming       *bool
	VerifyOutgoing       *bool
	VerifyServerHostname *bool
	UseAutoCert          bool // of grpc alone: the certificate that this node got when it joined, in place of CertFile
}

// OldTLS are the keys that Consul had before there was a tls block; they stand for tls.defaults.
type OldTLS struct {
	CAFile               string
	CAPath               string
	CertFile             string
	KeyFile              string
	TLSMinVersion        string
	TLSCipherSuites      string
	VerifyIncoming       *bool
	VerifyIncomingHTTPS  *bool
	VerifyIncomingRPC    *bool
	VerifyOutgoing       *bool
	VerifyServerHostname *bool
}

// settle moves the old keys to where they belong, unless something stands there.
func (c *Config) settleTLS() {
	o, d := &c.OldTLS, &c.TLS.Defaults
	for _, m := range []struct{ from, to *string }{
		{&o.CAFile, &d.CAFile},
		{&o.CAPath, &d.CAPath},
		{&o.CertFile, &d.CertFile},
		{&o.KeyFile, &d.KeyFile},
		{&o.TLSMinVersion, &d.TLSMinVersion},
		{&o.TLSCipherSuites, &d.TLSCipherSuites},
	} {
		if *m.to == "" {
			*m.to = *m.from
		}
	}
	for _, m := range []struct{ from, to **bool }{
		{&o.VerifyIncoming, &c.TLS.HTTPS.VerifyIncoming}, // not for grpc, as ever
		{&o.VerifyIncomingHTTPS, &c.TLS.HTTPS.VerifyIncoming},
		{&o.VerifyIncoming, &c.TLS.InternalRPC.VerifyIncoming},
		{&o.VerifyIncomingRPC, &c.TLS.InternalRPC.VerifyIncoming},
		{&o.VerifyOutgoing, &d.VerifyOutgoing},
		{&o.VerifyServerHostname, &c.TLS.InternalRPC.VerifyServerHostname},
	} {
		if *m.to == nil {
			*m.to = *m.from
		}
	}
	c.OldTLS = OldTLS{}
}

// with is the part with what it doesn't say taken from d.
func (p TLSPart) with(d TLSPart) TLSPart {
	for _, m := range []struct {
		to   *string
		from string
	}{
		{&p.CAFile, d.CAFile},
		{&p.CAPath, d.CAPath},
		{&p.CertFile, d.CertFile},
		{&p.KeyFile, d.KeyFile},
		{&p.TLSMinVersion, d.TLSMinVersion},
		{&p.TLSCipherSuites, d.TLSCipherSuites},
	} {
		if *m.to == "" {
			*m.to = m.from
		}
	}
	for _, m := range []struct {
		to   **bool
		from *bool
	}{{&p.VerifyIncoming, d.VerifyIncoming}, {&p.VerifyOutgoing, d.VerifyOutgoing}, {&p.VerifyServerHostname, d.VerifyServerHostname}} {
		if *m.to == nil {
			*m.to = m.from
		}
	}
	return p
}

// HTTPSFiles, GRPCFiles and RPCFiles are the blocks with their defaults.
func (t *TLS) HTTPSFiles() TLSPart { return t.HTTPS.with(t.Defaults) }

// GRPCFiles is tls.grpc with its defaults.
func (t *TLS) GRPCFiles() TLSPart { return t.GRPC.with(t.Defaults) }

// RPCFiles is tls.internal_rpc with its defaults.
func (t *TLS) RPCFiles() TLSPart { return t.InternalRPC.with(t.Defaults) }

// True reads a switch that may not be there.
func True(b *bool) bool { return b != nil && *b }

var tlsVersions = map[string]uint16{
	"": tls.VersionTLS12, "TLS_AUTO": tls.VersionTLS12, "TLSv1_0": tls.VersionTLS10, "TLSv1_1": tls.VersionTLS11,
	"TLSv1_2": tls.VersionTLS12, "TLSv1_3": tls.VersionTLS13,
}

// Server reads the part's files for a listener. It is called again when they may have changed.
func (p TLSPart) Server(key string, protocols ...string) (*tls.Config, error) {
	if p.CertFile == "" || p.KeyFile == "" {
		return nil, fmt.Errorf("%s: a TLS listener needs cert_file and key_file, here or in tls.defaults", key)
	}
	pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s.cert_file: %w", key, err)
	}
	return p.listener(key, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: protocols})
}

// CertSource gives a listener's certificate at each handshake.
type CertSource func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// GRPCServer is that of xDS: with use_auto_cert, auto gives the certificate; nil: this node has got none.
func (t *TLS) GRPCServer(auto CertSource) (*tls.Config, error) {
	const key, protocol = "tls.grpc", "h2"
	switch p := t.GRPCFiles(); {
	case !p.UseAutoCert:
		return p.Server(key, protocol)
	case auto == nil:
		return nil, fmt.Errorf("%s.use_auto_cert: this node has no certificate of its own: it gets one when it joins a locked cluster by a join_token", key)
	default:
		return p.listener(key, &tls.Config{GetCertificate: auto, NextProtos: []string{protocol}})
	}
}

// listener completes what has a certificate already.
func (p TLSPart) listener(key string, c *tls.Config) (*tls.Config, error) {
	version, ok := tlsVersions[p.TLSMinVersion]
	if !ok {
		return nil, fmt.Errorf("%s.tls_min_version: %q: want TLSv1_0, TLSv1_1, TLSv1_2 or TLSv1_3", key, p.TLSMinVersion)
	}
	c.MinVersion = version
	var err error
	if c.CipherSuites, err = suites(p.TLSCipherSuites); err != nil {
		return nil, fmt.Errorf("%s.tls_cipher_suites: %w", key, err)
	}
	if c.ClientCAs, err = p.pool(); err != nil {
		return nil, fmt.Errorf("%s.ca_file: %w", key, err)
	}
	switch {
	case True(p.VerifyIncoming) && c.ClientCAs == nil:
		return nil, fmt.Errorf("%s: verify_incoming needs ca_file or ca_path, here or in tls.defaults", key)
	case True(p.VerifyIncoming):
		c.ClientAuth = tls.RequireAndVerifyClientCert
	case c.ClientCAs != nil:
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return c, nil
}

// Client reads the part's files for connections to others: a certificate to show, and whom to believe (nil: this host's authorities).
func (p TLSPart) Client(key string) (*tls.Config, error) {
	version, ok := tlsVersions[p.TLSMinVersion]
	if !ok {
		return nil, fmt.Errorf("%s.tls_min_version: %q: want TLSv1_0, TLSv1_1, TLSv1_2 or TLSv1_3", key, p.TLSMinVersion)
	}
	c := &tls.Config{MinVersion: version}
	if p.CertFile != "" && p.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("%s.cert_file: %w", key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	var err error
	if c.RootCAs, err = p.pool(); err != nil {
		return nil, fmt.Errorf("%s.ca_file: %w", key, err)
	}
	return c, nil
}

// ChecksTLS is what checks over TLS begin with, read anew: nil unless enable_agent_tls_for_checks is on.
func (c *Config) ChecksTLS() (*tls.Config, error) {
	if !c.EnableAgentTLSForChecks {
		return nil, nil
	}
	return c.TLS.RPCFiles().Client("tls.internal_rpc")
}

// pool are the part's authorities, nil for none.
func (p TLSPart) pool() (*x509.CertPool, error) {
	var files []string
	switch {
	case p.CAFile != "":
		files = []string{p.CAFile}
	case p.CAPath != "":
		entries, err := os.ReadDir(p.CAPath)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !e.IsDir() {
				files = append(files, filepath.Join(p.CAPath, e.Name()))
			}
		}
	default:
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, f := range files {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", f)
		}
	}
	return pool, nil
}

// suites are cipher suites by their names; only TLS 1.2 lets them be chosen.
func suites(names string) ([]uint16, error) {
	var out []uint16
	for name := range strings.SplitSeq(names, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		i := slices.IndexFunc(tls.CipherSuites(), func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%q isn't one that is known and safe", name)
		}
		out = append(out, tls.CipherSuites()[i].ID)
	}
	return out, nil
}

// validateTLS reads the files of the listeners that are on.
func (c *Config) validateTLS() error {
	var faults []error
	if c.Ports.HTTPS > 0 {
		_, err := c.TLS.HTTPSFiles().Server("tls.https")
		faults = append(faults, err)
	}
	if c.Ports.GRPCTLS > 0 {
		_, err := c.TLS.GRPCServer(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }) // it isn't known yet
		faults = append(faults, err)
	}
	if c.TLS.Defaults.UseAutoCert || c.TLS.HTTPS.UseAutoCert || c.TLS.InternalRPC.UseAutoCert {
		faults = append(faults, errors.New("use_auto_cert is only valid in the tls.grpc stanza"))
	}
	_, err := c.ChecksTLS()
	faults = append(faults, err)
	if c.TLS.GRPC.VerifyOutgoing != nil {
		faults = append(faults, errors.New("verify_outgoing is not valid in the tls.grpc stanza"))
	}
	return errors.Join(faults...)
}
