// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/base64"
	"fmt"
)

// TLS is what is spoken between nodes. Verification and files of the HTTP API and xDS aren't here yet.
type TLS struct {
	Defaults    TLSBlock
	InternalRPC TLSBlock
}

// TLSBlock is one of tls's blocks; nil and "" are "as in defaults".
type TLSBlock struct {
	CAFile               string
	CAPath               string
	CertFile             string
	KeyFile              string
	VerifyIncoming       *bool
	VerifyOutgoing       *bool
	VerifyServerHostname *bool
}

// Internal is what holds between nodes: tls.internal_rpc, else tls.defaults, else the old keys at the top.
func (c *Config) Internal() TLSBlock {
	incoming := c.VerifyIncomingRPC
	if incoming == nil {
		incoming = c.VerifyIncoming
	}
	b := c.TLS.InternalRPC
	for _, from := range []TLSBlock{c.TLS.Defaults, {
		CAFile: c.CAFile, CAPath: c.CAPath, CertFile: c.CertFile, KeyFile: c.KeyFile,
		VerifyIncoming: incoming, VerifyOutgoing: c.VerifyOutgoing, VerifyServerHostname: c.VerifyServerHostname,
	}} {
		for _, f := range []struct {
			to   *string
			from string
		}{{&b.CAFile, from.CAFile}, {&b.CAPath, from.CAPath}, {&b.CertFile, from.CertFile}, {&b.KeyFile, from.KeyFile}} {
			if *f.to == "" {
				*f.to = f.from
			}
		}
		for _, f := range []struct {
			to   **bool
			from *bool
		}{
			{&b.VerifyIncoming, from.VerifyIncoming}, {&b.VerifyOutgoing, from.VerifyOutgoing},
			{&b.VerifyServerHostname, from.VerifyServerHostname},
		} {
			if *f.to == nil {
				*f.to = f.from
			}
		}
	}
	return b
}

// GossipKey is the cluster's secret, nil for none.
func (c *Config) GossipKey() ([]byte, error) {
	if c.Encrypt == "" {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(c.Encrypt)
	if err != nil {
		return nil, fmt.Errorf("encrypt: it isn't base64: %w; \"weft keygen\" makes a key", err)
	}
	switch len(key) {
	case 16, 24, 32:
		return key, nil
	}
	return nil, fmt.Errorf("encrypt: the key has %d bytes, want 16, 24 or 32; \"weft keygen\" makes one", len(key))
}
