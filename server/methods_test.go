// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
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
