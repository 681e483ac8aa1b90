// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// The paths of the protocol Join.
const (
	JoinPath  = "/v1/weft/join"
	RenewPath = "/v1/weft/join/renew"
)

// Token is what an operator carries from the cluster to a new node: where the servers are, what their CA is known by, and a
// secret that lets the node in.
type Token struct {
	Servers []string `json:"s"` // host:port of the servers' port
	Pin     string   `json:"p"`
	Secret  string   `json:"k"`
}

const tokenPrefix = "weft-join-"

func (t Token) String() string {
	data, err := json.Marshal(t)
	if err != nil {
		return "" // strings always encode
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(data)
}

// ParseToken reads a token.
func ParseToken(text string) (t Token, err error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	if !ok {
		return t, fmt.Errorf("a join token begins with %s: copy it whole from where it was made", tokenPrefix)
	}
	data, err := base64.RawURLEncoding.DecodeString(encoded)
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil || len(t.Servers) == 0 || t.Pin == "" || t.Secret == "" {
		return t, errors.New("the join token is damaged: copy it whole from where it was made")
	}
	return t, nil
}

// JoinRequest is what a new node says of itself. It is authorised by one of Secret, Intro and Token.
type JoinRequest struct {
	Node   string
	Server bool   `json:",omitempty"`
	CSR    string // PEM
	// Secret is a join token's.
	Secret string `json:",omitempty"`
	// Intro is a JWT, of auto_config.
	Intro string `json:",omitempty"`
	// Token is an ACL token that may write the node, of auto_encrypt.
	Token string `json:",omitempty"`
}

// JoinAnswer is what the node gets.
type JoinAnswer struct {
	Datacenter      string
	CA, Certificate string   // PEM
	GossipKeys      []string // in base64, the one that encrypts first
	RetryJoin       []string
	ACL             ACL
	AgentToken      string `json:",omitempty"`
}

// ErrJoin marks a join that the servers refused: another try is of no use.
var ErrJoin = errors.New("the servers refuse this node")

// Joiner asks servers to let this node in.
type Joiner struct {
	// Pin is what the servers' CA is known by; "": Roots verify them.
	Pin   string
	Roots *x509.CertPool
	// Name is that of the servers' certificates, server.<datacenter>.<domain>, where Roots verify them; "" for any.
	Name        string
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	Now         func() time.Time
}

// maxAnswer bounds an answer.
const maxAnswer = 1 << 20

// Join asks the server at an address.
func (j Joiner) Join(ctx context.Context, address string, req JoinRequest) (*JoinAnswer, error) {
	answer := new(JoinAnswer)
	err := exchange(ctx, func(ctx context.Context) (net.Conn, error) { return j.dial(ctx, address) }, JoinPath, req, answer)
	return answer, err
}

func (j Joiner) dial(ctx context.Context, address string) (net.Conn, error) {
	raw, err := j.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return clientSide(ctx, raw, address, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{Join}, SessionTicketsDisabled: true, Time: j.Now, ServerName: "weft",
		InsecureSkipVerify: true, // VerifyConnection does it, by pin or roots
		VerifyConnection:   j.verify,
	})
}

func (j Joiner) verify(cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol != Join {
		return fmt.Errorf("%w: this server lets nobody join by token: its first server has to be started with -locked", ErrRefused)
	}
	roots := j.Roots
	if j.Pin != "" {
		roots = x509.NewCertPool()
		for _, c := range cs.PeerCertificates[1:] {
			if c.IsCA && pinOf(c) == j.Pin {
				roots.AddCert(c)
			}
		}
	}
	m := &material{roots: roots}
	peer, err := m.verify(&Plane{c: Config{Now: j.Now}}, cs.PeerCertificates)
	if err != nil {
		return err
	}
	if j.Pin != "" && !peer.Server {
		return fmt.Errorf("%w: %s isn't a server", ErrRefused, peer.Subject)
	}
	if j.Name != "" {
		return cs.PeerCertificates[0].VerifyHostname(j.Name)
	}
	return nil
}

// exchange posts one message and reads its answer.
func exchange(ctx context.Context, dial func(context.Context) (net.Conn, error), path string, req, answer any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }, DisableKeepAlives: true}
	defer t.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://weft"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return json.Unmarshal(data, answer)
	case resp.StatusCode/100 == 4:
		return fmt.Errorf("%w: %s", ErrJoin, strings.TrimSpace(string(data)))
	}
	return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(data)))
}

// Renew asks the server at an address to sign a new certificate for what this node has proved to be, and gives it as PEM.
func (p *Plane) Renew(ctx context.Context, address string, csrPEM string) (string, error) {
	var answer JoinAnswer
	err := exchange(ctx, func(ctx context.Context) (net.Conn, error) { return p.Dial(ctx, address, "", Join) }, RenewPath,
		JoinRequest{Node: p.c.NodeName, Server: p.c.Server, CSR: csrPEM}, &answer)
	return answer.Certificate, err
}
