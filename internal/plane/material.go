// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weftmesh/weft/internal/guard"
)

// material is this node's certificate, and what others' are verified by.
type material struct {
	cert  *tls.Certificate // nil: none
	roots *x509.CertPool   // nil: nobody can be verified

	secrets [][]byte             // derived: of these keys
	files   map[string]time.Time // files: as last seen
	looked  time.Time
	renew   time.Time // self-signed: when to make another
	retry   time.Time // not before, after a failure
}

// stale says whether the source may have something else by now.
func (m *material) stale(p *Plane, now time.Time) bool {
	if now.Before(m.retry) {
		return false
	}
	switch p.mode {
	case Files, Joined:
		if now.Sub(m.looked) < lookEvery && !now.Before(m.looked) {
			return false
		}
		m.looked = now
		for file, at := range m.files {
			if info, err := os.Stat(file); err == nil && !info.ModTime().Equal(at) {
				return true
			}
		}
		return false
	case Derived:
		if !slices.EqualFunc(p.c.Secrets(), m.secrets, bytes.Equal) {
			return true
		}
	}
	return !now.Before(m.renew)
}

// loadFiles reads the operator's CA and this node's certificate.
func (p *Plane) loadFiles() (*material, error) {
	f := p.c.Files
	m := &material{files: map[string]time.Time{}, looked: p.c.Now()}
	verifies := f.VerifyIncoming || f.VerifyOutgoing || f.VerifyServerHostname
	switch {
	case verifies && f.CAFile == "" && f.CAPath == "" && !guard.Off("C92"):
		return nil, errors.New("tls.internal_rpc: verify_incoming, verify_outgoing or verify_server_hostname is set, but there is no ca_file (or ca_path) to verify by")
	case (f.CertFile == "") != (f.KeyFile == ""):
		return nil, errors.New("tls.internal_rpc: cert_file and key_file go together: give both or none")
	case f.VerifyIncoming && f.CertFile == "":
		return nil, errors.New("tls.internal_rpc: verify_incoming is set, so this node must have a certificate too: give cert_file and key_file")
	}
	authorities, err := authorityFiles(f)
	if err != nil {
		return nil, err
	}
	for _, file := range authorities {
		data, err := m.read(file)
		if err != nil {
			return nil, err
		}
		if m.roots == nil {
			m.roots = x509.NewCertPool()
		}
		if !m.roots.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("tls.internal_rpc: %s has no certificate in it that can be read (want PEM)", file)
		}
	}
	if f.CertFile == "" {
		if p.c.Server {
			return nil, errors.New("tls.internal_rpc: a server needs a certificate: give cert_file and key_file, or leave out ca_file and set encrypt")
		}
		return m, nil
	}
	certPEM, err := m.read(f.CertFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := m.read(f.KeyFile)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("tls.internal_rpc: %s and %s: %w", f.CertFile, f.KeyFile, err)
	}
	m.cert = &cert
	return m, nil
}

func authorityFiles(f TLSFiles) ([]string, error) {
	var files []string
	if f.CAFile != "" {
		files = append(files, f.CAFile)
	}
	if f.CAPath == "" {
		return files, nil
	}
	entries, err := os.ReadDir(f.CAPath)
	if err != nil {
		return nil, fmt.Errorf("tls.internal_rpc: ca_path: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			files = append(files, filepath.Join(f.CAPath, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("tls.internal_rpc: ca_path: there is no file in %s", f.CAPath)
	}
	return files, nil
}

// read reads a file and remembers how old it was.
func (m *material) read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("tls.internal_rpc: %w", err)
	}
	m.files[file] = info.ModTime()
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls.internal_rpc: %w", err)
	}
	return data, nil
}
