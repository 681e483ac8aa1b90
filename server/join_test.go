// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/rand"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/plane"
)

// lockedForJoins is a server that founded a locked cluster.
func lockedForJoins(t *testing.T) *running {
	t.Helper()
	authority, err := plane.NewAuthority("dc1", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	list := func(s ...string) func() []string { return func() []string { return s } }
	return startWith(t, Config{
		ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret, DownPolicy: "extend-cache"},
		Join: &JoinConfig{
			Domain: "consul", Authority: authority, AgentToken: "99999999-2222-3333-4444-555555555555", Servers: list("10.0.0.1:8300"),
			RetryJoin: list("10.0.0.1:8301"), GossipKeys: list("a2V5"),
		},
	})
}

// joinToken makes a join token and gives its secret.
func (r *running) joinToken(spec string) (id, secret string) {
	r.t.Helper()
	var made struct{ ID, Token string }
	if err := json.Unmarshal([]byte(r.as(rootSecret, "POST", "/v1/weft/join/tokens", spec, 200, "weft-join-")), &made); err != nil {
		r.t.Fatal(err)
	}
	token, err := plane.ParseToken(made.Token)
	if err != nil {
		r.t.Fatal(err)
	}
	return made.ID, token.Secret
}

func joinBodyOf(t *testing.T, node, secret string, server bool) string {
	t.Helper()
	_, csr, err := plane.NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(plane.JoinRequest{Node: node, Server: server, CSR: csr, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A token lets in as many nodes as it says, of its kind, in its time; who asks again with the same key gets its answer again.
func TestJoinTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := lockedForJoins(t)
		_, secret := r.joinToken(`{"Uses":2,"TTL":"10m"}`)
		body := joinBodyOf(t, "a1", secret, false)
		for range 2 {
			var a plane.JoinAnswer
			if err := json.Unmarshal([]byte(r.as("", "POST", "/v1/weft/join", body, 200, "CERTIFICATE")), &a); err != nil {
				t.Fatal(err)
			}
			if a.Datacenter != "dc1" || a.GossipKeys[0] != "a2V5" || a.RetryJoin[0] != "10.0.0.1:8301" || !a.ACL.Enabled || a.ACL.DefaultPolicy != "deny" {
				t.Errorf("%+v", a)
			}
			r.as(a.AgentToken, "PUT", "/v1/catalog/register", `{"Node":"a1","Address":"10.0.0.9"}`, 200, "true")
			r.as(a.AgentToken, "PUT", "/v1/catalog/register", `{"Node":"a2","Address":"10.0.0.9"}`, 403, "node:write")
		}
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "a2", secret, true), 403, "for agents")
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "A2.example", secret, false), 400, "give the node another") // and no use is spent
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "a2", secret, false), 200, "CERTIFICATE")
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "a3", secret, false), 403, "used up")
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "a3", "guess", false), 403, "no such join token")
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, r.c.NodeName, secret, false), 403, "another node called")
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "a/b", secret, false), 400, "no name for a node")

		_, secret = r.joinToken(`{"Node":"b1","Server":true}`)
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "b2", secret, true), 403, "for the node")
		id, gone := r.joinToken(`{}`)
		r.as(rootSecret, "DELETE", "/v1/weft/join/tokens/"+id, "", 200, "true")
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "a4", gone, false), 403, "no such join token")
		if list := r.as(rootSecret, "GET", "/v1/weft/join/tokens", "", 200, "b1"); strings.Contains(list, secret) {
			t.Errorf("the list shows a secret: %s", list)
		}
		time.Sleep(time.Hour + time.Minute)
		r.as("", "POST", "/v1/weft/join", joinBodyOf(t, "b1", secret, true), 403, "")
		if all, err := r.store.Read().ACLList(catalog.JoinTokens); err != nil || len(all) != 0 {
			t.Errorf("tokens whose time is over: %v, %v", all, err)
		}
		r.as(rootSecret, "POST", "/v1/weft/join/tokens", `{"Uses":-1}`, 400, "Uses")
		r.as(rootSecret, "POST", "/v1/weft/join/tokens", `{"TTL":"1s"}`, 400, "TTL")
	})
}

// TestC109_OneTimeToken: of a hundred that use a token at once, one is let in.
func TestC109_OneTimeToken(t *testing.T) {
	r := lockedForJoins(t)
	_, secret := r.joinToken(`{}`)
	var wg sync.WaitGroup
	codes := make(chan int, 100)
	for range 100 {
		body := joinBodyOf(t, "a1", secret, false)
		wg.Go(func() {
			code, _, _ := r.ask("POST", "/v1/weft/join", "", body)
			codes <- code
		})
	}
	wg.Wait()
	close(codes)
	in := 0
	for code := range codes {
		if code == 200 {
			in++
		}
	}
	if in != 1 {
		t.Errorf("%d were let in", in)
	}
}
