// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/catalog"
)

const (
	serviceAccount = "canary.of.a-service-account"
	methodBody     = `{"Name":"K8s","Type":"kubernetes","Config":{"Host":"http://127.0.0.1:1","ServiceAccountJWT":"` + serviceAccount + `"}}`
)

// methodIsSealed says whether the method's secret is in the catalog as a sealed text.
func methodIsSealed(t *testing.T, txn *catalog.Txn) bool {
	t.Helper()
	o, err := txn.ACL(catalog.ACLAuthMethods, "k8s")
	if err != nil || o.AuthMethod == nil {
		t.Fatal(o, err)
	}
	secret, _ := o.AuthMethod.Config["ServiceAccountJWT"].(string)
	return strings.HasPrefix(secret, sealedText)
}

// TestC123_MethodsSecretsAreSealed: the log and the archive that is saved have no auth method's secret in clear; who may read the method sees it, as Consul's
// tools need it, and a restart opens it. Elsewhere it opens only with the key.
func TestC123_MethodsSecretsAreSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := Config{DataDir: dir, ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret}}
		r := startWith(t, c)
		r.as(rootSecret, "PUT", "/v1/acl/auth-method", methodBody, 200, serviceAccount)
		r.as(rootSecret, "PUT", "/v1/acl/auth-method/k8s", methodBody, 200, serviceAccount)
		if !methodIsSealed(t, r.store.Read()) {
			t.Error("it isn't sealed")
		}
		r.as(rootSecret, "POST", "/v1/acl/login", `{"AuthMethod":"K8S","BearerToken":"x"}`, 403, "the API server didn't review the token") // it was asked with it
		archive := r.as(rootSecret, "GET", "/v1/snapshot", "", 200, "")
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if files := filesWith(t, filepath.Join(dir, "server"), serviceAccount); len(files) > 0 {
			t.Errorf("in clear in %v", files)
		}
		if len(filesWith(t, filepath.Join(dir, "server"), "ServiceAccountJWT")) == 0 {
			t.Error("the control: the method isn't on disk at all")
		}
		again := startWith(t, c)
		again.as(rootSecret, "GET", "/v1/acl/auth-method/k8s", "", 200, serviceAccount)
		if again.as(rootSecret, "GET", "/v1/acl/auth-methods", "", 200, "K8s"); !methodIsSealed(t, again.store.Read()) {
			t.Error("it isn't sealed after a restart")
		}
		other := startWith(t, Config{DataDir: t.TempDir(), ACL: c.ACL})
		if status, text, _ := other.ask("PUT", "/v1/snapshot", rootSecret, archive); status != 400 {
			t.Fatalf("without the key: %d %s", status, text)
		}
		if status, text, _ := other.ask("PUT", "/v1/snapshot?discard-sealed", rootSecret, archive); status != 200 {
			t.Fatalf("without what is sealed: %d %s", status, text)
		}
		time.Sleep(time.Second) // the leader takes office anew
		if text := other.as(rootSecret, "GET", "/v1/acl/auth-method/k8s", "", 200, "127.0.0.1:1"); strings.Contains(text, "ServiceAccountJWT") {
			t.Error(text)
		}
		other.as(rootSecret, "POST", "/v1/acl/login", `{"AuthMethod":"k8s","BearerToken":"x"}`, 403, "ServiceAccountJWT is required")
		other.as(rootSecret, "PUT", "/v1/acl/auth-method/k8s", methodBody, 200, serviceAccount)
	})
}

// A secret is sealed however its key is spelled and however deep it lies: what is read as the secret is sealed as the secret.
func TestC123_SecretsAreSealedInEverySpelling(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	r := startWith(t, Config{ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret}})
	oidc := func(with map[string]any) map[string]any {
		with["OIDCDiscoveryURL"], with["OIDCClientID"], with["AllowedRedirectURIs"] = "https://idp", "weft", []string{"http://localhost:8550/oidc/callback"}
		return with
	}
	for i, c := range []struct {
		kind, secret string
		config       map[string]any
	}{
		{"oidc", "canary-1", oidc(map[string]any{"oidc_client_secret": "canary-1"})},
		{"oidc", "canary-2", oidc(map[string]any{"OIDC-CLIENTSECRET": "canary-2"})},
		{"oidc", "canary-3", oidc(map[string]any{"oidcclient\u212asecret": "canary-3"})}, // no such key: it isn't read as one
		{"kubernetes", "canary-4", map[string]any{"host": "http://127.0.0.1:1", "service_account_jwt": "canary-4"}},
		{"oidc", private, oidc(map[string]any{"OIDCClientAssertion": map[string]any{"PrivateKey": map[string]any{"PemKey": private}}})},
		{"oidc", private, oidc(map[string]any{"oidc_client_assertion": map[string]any{"private_key": map[string]any{"pem_key": private, "key_id": "k"}}})},
		{"oidc", private, oidc(map[string]any{"oidc_client_assertion": []any{map[string]any{"private_key": []any{map[string]any{"pem_key": private}}}}})},
	} {
		name := fmt.Sprintf("m%d", i)
		body, err := json.Marshal(map[string]any{"Name": name, "Type": c.kind, "MaxTokenTTL": "1h", "Config": c.config})
		if err != nil {
			t.Fatal(err)
		}
		status, text, _ := r.ask("PUT", "/v1/acl/auth-method", rootSecret, string(body))
		o, err := r.store.Read().ACL(catalog.ACLAuthMethods, name)
		if err != nil {
			t.Fatal(err)
		}
		if status != 200 {
			if o.AuthMethod != nil || i != 2 && i != 6 {
				t.Errorf("%s: %d %s", body, status, text)
			}
			continue
		}
		stored, err := json.Marshal(o.AuthMethod)
		if err != nil {
			t.Fatal(err)
		}
		quoted, _ := json.Marshal(c.secret)
		if bytes.Contains(stored, quoted) || !strings.Contains(string(stored), sealedText) {
			t.Errorf("in clear in the catalog: %s", stored)
		}
		if !strings.Contains(r.as(rootSecret, "GET", "/v1/acl/auth-method/"+name, "", 200, ""), string(quoted)) {
			t.Errorf("%s: who may read it doesn't see it", name)
		}
	}
}

// What an older weft wrote of a method in clear is sealed by the next leader.
func TestClearMethodsAreSealed(t *testing.T) {
	r := startWith(t, Config{ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret}})
	clear := &catalog.ACLAuthMethod{Name: "k8s", Type: "kubernetes", Config: catalog.Opaque{"Host": "http://127.0.0.1:1", "ServiceAccountJWT": serviceAccount}}
	if _, err := r.Propose(t.Context(), catalog.SetACL{Create: true, Objects: []catalog.ACLObject{{AuthMethod: clear}}}); err != nil {
		t.Fatal(err)
	}
	if methodIsSealed(t, r.store.Read()) {
		t.Fatal("the control: it is sealed")
	}
	r.as(rootSecret, "GET", "/v1/acl/auth-method/k8s", "", http.StatusOK, serviceAccount)
	if err := r.officeAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is sealed", func(txn *catalog.Txn) bool { return methodIsSealed(t, txn) })
	r.as(rootSecret, "GET", "/v1/acl/auth-method/k8s", "", http.StatusOK, serviceAccount)
}

// filesWith are the files under a folder that have a text in them.
func filesWith(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
