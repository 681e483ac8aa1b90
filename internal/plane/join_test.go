// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/memnet"
)

// identityOf makes a node's identity by an authority, in a file of its own.
func identityOf(t *testing.T, a *Authority, who Peer, now time.Time) string {
	t.Helper()
	key, csr, err := NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, who, "consul", rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	id := &Identity{Datacenter: who.Datacenter, Certificate: cert, Key: key}
	if id.CA, _, err = a.PEM(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "identity.json")
	if err := id.Write(file, nil); err != nil {
		t.Fatal(err)
	}
	return file
}

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority("dc1", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Nodes that have joined know each other by the cluster's CA alone: another CA's node, and the gossip key, open nothing; an
// agent speaks no Raft (C105).
func TestJoinedNodes(t *testing.T) {
	ours, others := authority(t), authority(t)
	server := Peer{Server: true, Datacenter: "dc1", Node: "s1"}
	network := serve(t, node(t, Config{NodeName: "s1", Server: true, Identity: identityOf(t, ours, server, time.Now())}))
	agent := func(a *Authority) *Plane {
		return node(t, Config{NodeName: "a1", Identity: identityOf(t, a, Peer{Datacenter: "dc1", Node: "a1"}, time.Now())})
	}
	second := node(t, Config{NodeName: "s2", Server: true, Identity: identityOf(t, ours, Peer{Server: true, Datacenter: "dc1", Node: "s2"}, time.Now())})
	for name, c := range map[string]struct {
		p     *Plane
		proto string
		want  string
	}{
		"server": {second, Raft, "hello weft-raft\n"}, "agent": {agent(ours), GRPC, "hello weft-grpc\n"}, "agent as server": {agent(ours), Raft, ""},
		"another CA's": {agent(others), GRPC, ""}, "gossip key": {node(t, Config{NodeName: "a1", Secrets: secrets(key1)}), GRPC, ""},
		"nothing": {node(t, Config{NodeName: "a1"}), GRPC, ""},
	} {
		if got, err := hello(c.p, network, c.proto); got != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if cert, err := second.ServerCertificate(nil); err != nil || cert.Leaf == nil || cert.Leaf.Subject.CommonName != "s2" {
		t.Errorf("what other listeners show: %v, %v", cert, err)
	}
	if _, err := New(Config{Datacenter: "dc1", NodeName: "other", Identity: identityOf(t, ours, server, time.Now())}); err == nil || !strings.Contains(err.Error(), "join anew") {
		t.Errorf("another node's identity: %v", err)
	}
}

// joinServer answers plane.Join on a network.
func joinServer(t *testing.T, p *Plane, h http.Handler) *memnet.Network {
	t.Helper()
	network, d := port(t, p)
	web := &http.Server{Handler: h, ConnContext: p.ConnContext}
	done := make(chan struct{})
	go func() { defer close(done); _ = web.Serve(Plain(d.Listener(Join))) }()
	t.Cleanup(func() {
		_ = web.Close()
		<-done
	})
	return network
}

// Who joins believes the server that the token's pin names, and no other: not one of another CA, and no agent of the same.
func TestJoinKnowsTheServer(t *testing.T) {
	ours, others := authority(t), authority(t)
	_, csr, err := NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req JoinRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Secret != "open" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		who, proved := PeerFrom(r.Context())
		_ = json.NewEncoder(w).Encode(JoinAnswer{Datacenter: who.Node, Certificate: map[bool]string{true: "proved"}[proved]})
	})
	for _, c := range []struct {
		name   string
		server Peer
		by     *Authority
		secret string
		want   error
	}{
		{"ours", Peer{Server: true, Datacenter: "dc1", Node: "s1"}, ours, "open", nil},
		{"wrong secret", Peer{Server: true, Datacenter: "dc1", Node: "s1"}, ours, "shut", ErrJoin},
		{"another CA", Peer{Server: true, Datacenter: "dc1", Node: "s1"}, others, "open", ErrRefused},
		{"an agent", Peer{Datacenter: "dc1", Node: "a1"}, ours, "open", ErrRefused},
	} {
		p := node(t, Config{NodeName: c.server.Node, Server: c.server.Server, Identity: identityOf(t, c.by, c.server, time.Now())})
		network := joinServer(t, p, answers)
		j := Joiner{Pin: ours.Pin(), Now: time.Now, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return network.DialContext(ctx, address)
		}}
		answer, err := j.Join(t.Context(), "s:8300", JoinRequest{Node: "a1", CSR: csr, Secret: c.secret})
		if !errors.Is(err, c.want) || c.want == nil && (err != nil || answer.Certificate != "") {
			t.Errorf("%s: %+v, %v", c.name, answer, err)
		}
	}
}

// A request is a public key and nothing more: names, roles and extensions in it count for nothing (C80, C82).
func TestRequestsAreKeysAlone(t *testing.T) {
	a := authority(t)
	_, csr, err := NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.Sign(csr, Peer{Datacenter: "dc1", Node: "a1"}, "consul", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert([]byte(text))
	if err != nil || cert.IsCA || len(cert.DNSNames) != 0 || len(cert.URIs) != 1 || cert.URIs[0].String() != "weft-node://dc1/agent/a1" {
		t.Errorf("%+v, %v", cert, err)
	}
	for name, bad := range map[string]string{"empty": "", "no PEM": "x", "a certificate": text, "more behind": csr + "x"} {
		if _, err := a.Sign(bad, Peer{Datacenter: "dc1", Node: "a1"}, "consul", rand.Reader, time.Now()); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	for _, name := range []string{"", "a/b", "a?b", "a#b", "a%2fb"} {
		if _, err := a.Sign(csr, Peer{Datacenter: "dc1", Node: name}, "consul", rand.Reader, time.Now()); err == nil {
			t.Errorf("%q: signed", name)
		}
	}
}

func TestTokens(t *testing.T) {
	want := Token{Servers: []string{"10.0.0.1:8300"}, Pin: "ab", Secret: "s"}
	got, err := ParseToken(want.String() + "\n")
	if err != nil || got.Servers[0] != want.Servers[0] || got.Pin != "ab" || got.Secret != "s" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "x", "weft-join-", "weft-join-%%%", "weft-join-e30", want.String()[:30]} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
