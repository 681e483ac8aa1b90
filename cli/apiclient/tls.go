// SPDX-License-Identifier: Apache-2.0

package apiclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// tlsConfig is how an https address is dialled.
func tlsConfig(c Config, env func(string) string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: first(c.TLSServerName, env("TLS_SERVER_NAME"))}
	verify, err := boolean("HTTP_SSL_VERIFY", env("HTTP_SSL_VERIFY"), true)
	if err != nil {
		return nil, err
	}
	t.InsecureSkipVerify = !verify
	files := []string{}
	if f := first(c.CAFile, env("CACERT")); f != "" {
		files = append(files, f)
	} else if dir := first(c.CAPath, env("CAPATH")); dir != "" {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("CA path: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	for _, f := range files {
		if t.RootCAs == nil {
			t.RootCAs = x509.NewCertPool()
		}
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s: no certificate in it", f)
		}
	}
	cert, key := first(c.ClientCert, env("CLIENT_CERT")), first(c.ClientKey, env("CLIENT_KEY"))
	if (cert == "") != (key == "") {
		return nil, errors.New("a client certificate and its key go together: give both -client-cert and -client-key")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

func boolean(name, text string, otherwise bool) (bool, error) {
	if text == "" {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s=%q: want true or false", name, text)
	}
	return b, nil
}
