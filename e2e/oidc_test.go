// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/server/login/logintest"
)

// A person logs in by a provider, with Consul's command: the browser, which follows what it is sent to, comes back to the command's port, and the token that
// is written may what the binding rule says of the person's groups. The servers' leader is killed while the person is at the provider.
func TestLoginInTheBrowser(t *testing.T) {
	const root = "11111111-2222-3333-4444-555555555555"
	c := newCluster(t, 3, 1, "-hcl", `acl { enabled = true  default_policy = "allow"  tokens { initial_management = "`+root+`" } }`)
	back := fmt.Sprintf("localhost:%d", mustPort(t))
	web := identityProvider(t, c, root, back)
	dir := t.TempDir()
	sink, log := filepath.Join(dir, "token"), filepath.Join(dir, "login.log")
	t.Setenv("BROWSER", "true") // which opens nothing: this test is the browser
	login, err := start("login", log, binary(), "login", "-http-addr="+c.address("a1")+":8500", "-method=corp", "-type=oidc", "-oidc-callback-listen-addr="+back, "-token-sink-file="+sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(login.kill)
	address := ""
	until(t, 20*time.Second, func() error {
		data, err := os.ReadFile(log)
		if address = regexp.MustCompile(`https://\S+`).FindString(string(data)); address == "" {
			return fmt.Errorf("no address is printed: %w: %s", err, data)
		}
		return nil
	})
	leader, err := c.leader()
	if err != nil {
		t.Fatal(err)
	}
	c.kill(leader)
	until(t, 30*time.Second, func() error {
		next, err := c.leader()
		if err == nil && next == leader {
			err = fmt.Errorf("%s is still said to lead", leader)
		}
		return err
	})
	if resp, err := http.Get("http://" + back + "/oidc/callback?code=x&state=y"); err != nil || resp.StatusCode != http.StatusForbidden { //nolint:noctx // the test's own
		t.Errorf("another page's request: %v %v", resp, err)
	}
	resp, err := web.Client().Get(address) //nolint:noctx // the test's own
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close() //nolint:errcheck // it is read
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "You are logged in") {
		t.Fatalf("%s %s", resp.Status, body)
	}
	until(t, 20*time.Second, func() error {
		if !login.ended() {
			return fmt.Errorf("the command goes on")
		}
		return login.err
	})
	secret, err := os.ReadFile(sink)
	if err != nil {
		t.Fatal(err)
	}
	mine := []string{"WEFT_HTTP_ADDR=" + c.address("a1") + ":8500", "WEFT_HTTP_TOKEN=" + string(secret)}
	out, stderr, err := weft(mine, "", "acl", "token", "read", "-self") // at once, at whichever server the agent asks
	if err != nil || !strings.Contains(out, "token created via OIDC login") || !strings.Contains(out, "- ops") || !strings.Contains(out, "Expiration Time") {
		t.Error(out, stderr)
	}
	for _, text := range []string{string(secret), "s3cret", "code="} {
		if printed := tail(log, 100); strings.Contains(printed, text) {
			t.Errorf("%q is printed: %s", text, printed)
		}
	}
	if _, stderr, err := weft(mine, "", "logout"); err != nil {
		t.Fatal(stderr)
	}
	until(t, 20*time.Second, func() error {
		if out, stderr, err := weft(mine, "", "acl", "token", "read", "-self"); err == nil || !strings.Contains(stderr, "ACL not found") {
			return fmt.Errorf("after the logout: %s %s", out, stderr)
		}
		return nil
	})
}

// identityProvider is a provider that a cluster's method is set up with.
func identityProvider(t *testing.T, c *cluster, root, back string) *httptest.Server {
	t.Helper()
	p, err := logintest.New("weft", "s3cret", time.Now, "http://"+back+"/oidc/callback")
	if err != nil {
		t.Fatal(err)
	}
	p.Claims = map[string]any{"sub": "alice", "groups": []string{"ops"}}
	web := httptest.NewTLSServer(p)
	t.Cleanup(web.Close)
	p.At(web.URL)
	config, err := json.Marshal(map[string]any{
		"OIDCDiscoveryURL": web.URL, "OIDCDiscoveryCACert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})),
		"OIDCClientID": "weft", "OIDCClientSecret": "s3cret", "AllowedRedirectURIs": []string{"http://localhost:8550/oidc/callback"}, "ListClaimMappings": map[string]string{"groups": "groups"},
	})
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"WEFT_HTTP_ADDR=" + c.address("a1") + ":8500", "WEFT_HTTP_TOKEN=" + root}
	run := func(stdin string, args ...string) {
		t.Helper()
		if _, stderr, err := weft(env, stdin, args...); err != nil {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	run(string(config), "acl", "auth-method", "create", "-name=corp", "-type=oidc", "-max-token-ttl=1h", "-config=-")
	run("", "acl", "policy", "create", "-name=ops", "-rules", `operator = "read"`)
	run("", "acl", "binding-rule", "create", "-method=corp", "-bind-type=policy", "-bind-name=ops", "-selector", `"ops" in list.groups`)
	return web
}
