// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/acl"
)

const rootSecret = "11111111-2222-3333-4444-555555555555"

// ask makes a request with a token, and gives its answer.
func (r *running) ask(method, path, token, body string) (int, string, http.Header) {
	r.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	return w.Code, w.Body.String(), w.Header()
}

// as checks a request with a token.
func (r *running) as(token, method, path, body string, status int, want string) string {
	r.t.Helper()
	code, got, _ := r.ask(method, path, token, body)
	if code != status || !strings.Contains(got, want) {
		r.t.Errorf("%s %s: %d %s\nwant %d with %s", method, path, code, got, status, want)
	}
	return got
}

// made decodes an answer that has an ID of some sort, and a secret.
func made(t *testing.T, body string) (id, secret string) {
	t.Helper()
	var o struct{ ID, AccessorID, SecretID string }
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if o.AccessorID != "" {
		return o.AccessorID, o.SecretID
	}
	return o.ID, o.SecretID
}

// locked is a server whose default is to deny, with a management token.
func locked(t *testing.T) *running {
	t.Helper()
	return startWith(t, Config{ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret, DownPolicy: "extend-cache"}})
}

// token makes a token with some rules.
func (r *running) token(rules string) (accessor, secret string) {
	r.t.Helper()
	name := fmt.Sprintf("p%d", time.Now().UnixNano())
	body, err := json.Marshal(map[string]string{"Name": name, "Rules": rules})
	if err != nil {
		r.t.Fatal(err)
	}
	r.as(rootSecret, "PUT", "/v1/acl/policy", string(body), 200, name)
	return made(r.t, r.as(rootSecret, "PUT", "/v1/acl/token", `{"Policies":[{"Name":"`+name+`"}]}`, 200, name))
}

func TestACLsAreOff(t *testing.T) {
	r := start(t, "")
	r.as("", "GET", "/v1/acl/policies", "", 401, "ACL support disabled")
	r.as("anything", "GET", "/v1/catalog/nodes", "", 200, "[]")
}

func TestACLBootstrap(t *testing.T) {
	dir := t.TempDir()
	r := startWith(t, Config{DataDir: dir, ACL: ACLConfig{Enabled: true}})
	r.as("", "PUT", "/v1/acl/bootstrap", `{"BootstrapSecret":"no uuid"}`, 500, "must be a UUID")
	r.as("nobody", "GET", "/v1/acl/policies", "", 403, "ACL system must be bootstrapped before making any requests that require authorization: ACL not found")
	_, secret := made(t, r.as("", "PUT", "/v1/acl/bootstrap", "", 200, "global-management"))
	r.as(secret, "GET", "/v1/acl/policies", "", 200, "builtin/global-read-only")
	body := r.as("", "PUT", "/v1/acl/bootstrap", "", 403, "Permission denied: ACL bootstrap no longer allowed (reset index: ")
	index := regexp.MustCompile(`\d+`).FindString(body)
	file := filepath.Join(dir, "acl-bootstrap-reset")
	if err := os.WriteFile(file, []byte("1"+index), 0o600); err != nil {
		t.Fatal(err)
	}
	r.as("", "PUT", "/v1/acl/bootstrap", "", 500, "Invalid bootstrap reset index")
	if err := os.WriteFile(file, []byte(index+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, second := made(t, r.as("", "PUT", "/v1/acl/bootstrap", "", 200, "global-management"))
	r.as("", "PUT", "/v1/acl/bootstrap", "", 403, "no longer allowed")
	r.as(second, "GET", "/v1/acl/tokens", "", 200, "Bootstrap Token")
	r.as(secret, "GET", "/v1/acl/tokens", "", 200, "Bootstrap Token")
}

// Secrets are shown to who makes a token, and are nowhere else: not in reads, not on disk.
func TestSecretsAreHashed(t *testing.T) {
	dir := t.TempDir()
	r := startWith(t, Config{DataDir: dir, ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret}})
	accessor, secret := r.token(`node_prefix "" { policy = "read" }`)
	for _, path := range []string{"/v1/acl/tokens", "/v1/acl/token/" + accessor, "/v1/acl/token/" + accessor + "?expanded=true"} {
		if body := r.as(rootSecret, "GET", path, "", 200, "hidden"); strings.Contains(body, secret) || strings.Contains(body, rootSecret) {
			t.Errorf("%s shows a secret: %s", path, body)
		}
	}
	r.as(secret, "GET", "/v1/acl/token/self", "", 200, secret)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secret) || strings.Contains(string(data), rootSecret) {
			t.Errorf("%s has a secret in it", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestACLTexts(t *testing.T) {
	r := locked(t)
	accessor, secret := r.token(`service "web" { policy = "write" }`)
	policy, _ := made(t, r.as(rootSecret, "PUT", "/v1/acl/policy", `{"Name":"one","Rules":"operator = \"read\""}`, 200, "one"))
	role, _ := made(t, r.as(rootSecret, "PUT", "/v1/acl/role", `{"Name":"r","Policies":[{"Name":"one"}]}`, 200, `"Policies":[{"ID":"`+policy+`","Name":"one"}]`))
	const none = "99999999-2222-3333-4444-555555555555"
	for _, c := range []struct {
		token, method, path, body string
		status                    int
		want                      string
	}{
		{"", "GET", "/v1/acl/policies", "", 403, "Permission denied: anonymous token lacks permission 'acl:read'. The anonymous token is used implicitly when a request does not specify a token."},
		{secret, "GET", "/v1/acl/policies", "", 403, "Permission denied: token with AccessorID '" + accessor + "' lacks permission 'acl:read'"},
		{secret, "GET", "/v1/catalog/node/n1", "", 403, "lacks permission 'node:read' on \"n1\""},
		{"unknown", "GET", "/v1/catalog/services", "", 403, "ACL not found"},
		{rootSecret, "GET", "/v1/acl/token/" + none, "", 403, "token does not exist: ACL not found"},
		{rootSecret, "GET", "/v1/acl/policy/" + none, "", 404, "Requested policy does not exist: ACL not found"},
		{rootSecret, "GET", "/v1/acl/role/name/none", "", 404, "Requested role does not exist: ACL not found"},
		{rootSecret, "GET", "/v1/acl/auth-method/none", "", 404, "Requested auth method does not exist: ACL not found"},
		{rootSecret, "DELETE", "/v1/acl/policy/" + none, "", 404, "Cannot find policy to delete"},
		{rootSecret, "DELETE", "/v1/acl/token/" + none, "", 404, "Cannot find token to delete"},
		{rootSecret, "DELETE", "/v1/acl/token/x", "", 500, "Accessor ID is missing or an invalid UUID"},
		{rootSecret, "DELETE", "/v1/acl/token/" + acl.AnonymousAccessor, "", 500, "Delete operation not permitted on the anonymous token"},
		{rootSecret, "DELETE", "/v1/acl/policy/00000000-0000-0000-0000-000000000001", "", 500, "Delete operation not permitted on the builtin global-management policy"},
		{rootSecret, "PUT", "/v1/acl/policy/00000000-0000-0000-0000-000000000001", `{"Name":"global-management","Rules":"acl = \"read\""}`, 500, "Changing the Rules for the builtin global-management policy is not permitted"},
		{rootSecret, "PUT", "/v1/acl/policy", `{"Name":"ONE"}`, 500, `Invalid Policy: A Policy with Name "ONE" already exists`},
		{rootSecret, "PUT", "/v1/acl/policy", `{"Name":"a b"}`, 500, "invalid Name"},
		{rootSecret, "PUT", "/v1/acl/policy", `{"Name":"x","Rules":"servise \"a\" {}"}`, 500, "Failed to parse ACL rules"},
		{rootSecret, "PUT", "/v1/acl/policy", `{"Nam":"x"}`, 400, "Policy decoding failed"},
		{rootSecret, "PUT", "/v1/acl/policy/" + policy, `{"ID":"` + role + `","Name":"x"}`, 400, "Policy ID in URL and payload do not match"},
		{rootSecret, "PUT", "/v1/acl/policy/" + none, `{"Name":"x"}`, 500, "cannot find policy " + none},
		{rootSecret, "PUT", "/v1/acl/role", `{"Name":"r"}`, 500, `A Role with Name "r" already exists`},
		{rootSecret, "PUT", "/v1/acl/token", `{"Policies":[{"Name":"none"}]}`, 500, `No such ACL policy with name "none"`},
		{rootSecret, "PUT", "/v1/acl/token", `{"Roles":[{"Name":"none"}]}`, 500, `No such ACL role with name "none"`},
		{rootSecret, "PUT", "/v1/acl/token", `{"AccessorID":"` + accessor + `"}`, 500, "Invalid Token: AccessorID is already in use"},
		{rootSecret, "PUT", "/v1/acl/token", `{"SecretID":"` + secret + `"}`, 500, "Invalid Token: SecretID is already in use"},
		{rootSecret, "PUT", "/v1/acl/token", `{"AccessorID":"00000000-0000-0000-0000-000000000099"}`, 500, "are reserved"},
		{rootSecret, "PUT", "/v1/acl/token", `{"ExpirationTTL":"10s"}`, 500, "ExpirationTime cannot be less than 1m0s in the future"},
		{rootSecret, "PUT", "/v1/acl/token", `{"ServiceIdentities":[{"ServiceName":"Web"}]}`, 500, "Only lowercase alphanumeric"},
		{rootSecret, "PUT", "/v1/acl/token", `{"NodeIdentities":[{"NodeName":"n"}]}`, 500, "missing the datacenter"},
		{rootSecret, "PUT", "/v1/acl/token", `{"TemplatedPolicies":[{"TemplateName":"builtin/service"}]}`, 500, "variable name"},
		{rootSecret, "PUT", "/v1/acl/token/" + accessor, `{"SecretID":"` + none + `"}`, 500, "Changing a token's SecretID is not permitted"},
		{rootSecret, "PUT", "/v1/acl/token/" + accessor, `{"Local":true}`, 500, "Cannot toggle local mode of " + accessor},
		{rootSecret, "PUT", "/v1/acl/token/" + none, `{}`, 500, `Cannot find token "` + none + `"`},
		{rootSecret, "GET", "/v1/acl/tokens?policy=a&role=b", "", 500, "can only filter by one of"},
		{rootSecret, "GET", "/v1/acl/templated-policy/name/nope", "", 400, `templated policy "nope" does not exist`},
		{rootSecret, "GET", "/v1/acl/templated-policy/name/builtin/service", "", 200, `"TemplateName":"builtin/service"`},
		{rootSecret, "POST", "/v1/acl/templated-policy/preview/builtin/service", `{"Name":"api"}`, 200, `service \"api\"`},
		{"", "POST", "/v1/acl/logout", "", 401, "Supplied token does not exist"},
		{rootSecret, "POST", "/v1/acl/logout", "", 403, "token wasn't created via login"},
		{"", "POST", "/v1/acl/login", `{"AuthMethod":"none","BearerToken":"x"}`, 403, "ACL not found"},
	} {
		r.as(c.token, c.method, c.path, c.body, c.status, c.want)
	}
	management := r.as(rootSecret, "GET", "/v1/acl/token/self", "", 200, "Initial Management Token")
	own, _ := made(t, management)
	r.as(rootSecret, "DELETE", "/v1/acl/token/"+own, "", 500, "Deletion of the request's authorization token is not permitted")
	r.as(rootSecret, "GET", "/v1/acl/roles?policy="+policy, "", 200, `"Name":"r"`)
	r.as(rootSecret, "GET", "/v1/acl/token/"+accessor+"?expanded", "", 200, `"ExpandedPolicies":[{"ID"`)
	clone, cloned := made(t, r.as(rootSecret, "PUT", "/v1/acl/token/"+accessor+"/clone", `{"Description":"again"}`, 200, `"Description":"again"`))
	if clone == accessor || cloned == secret {
		t.Error("the clone is the token itself")
	}
	r.as(cloned, "GET", "/v1/health/service/web", "", 200, "[]")
}

// A change of a token, its role or its policy holds with the next request.
func TestRevocationIsImmediate(t *testing.T) {
	r := locked(t)
	policy, _ := made(t, r.as(rootSecret, "PUT", "/v1/acl/policy", `{"Name":"p","Rules":"service \"web\" { policy = \"read\" }"}`, 200, "p"))
	role, _ := made(t, r.as(rootSecret, "PUT", "/v1/acl/role", `{"Name":"r","Policies":[{"Name":"p"}]}`, 200, "r"))
	accessor, secret := made(t, r.as(rootSecret, "PUT", "/v1/acl/token", `{"Roles":[{"Name":"r"}]}`, 200, "r"))
	try := func(status int) {
		t.Helper()
		r.as(secret, "GET", "/v1/health/service/web", "", status, "")
	}
	try(200)
	r.as(rootSecret, "PUT", "/v1/acl/policy/"+policy, `{"Name":"p","Rules":"service \"api\" { policy = \"read\" }"}`, 200, "")
	try(403)
	r.as(rootSecret, "PUT", "/v1/acl/policy/"+policy, `{"Name":"p","Rules":"service \"web\" { policy = \"read\" }"}`, 200, "")
	try(200)
	r.as(rootSecret, "PUT", "/v1/acl/role/"+role, `{"Name":"r"}`, 200, "")
	try(403)
	r.as(rootSecret, "PUT", "/v1/acl/role/"+role, `{"Name":"r","ServiceIdentities":[{"ServiceName":"web"}]}`, 200, "")
	try(200)
	r.as(rootSecret, "DELETE", "/v1/acl/token/"+accessor, "", 200, "true")
	try(403)
}

// A caller with a token is told that there is more than it sees; one without isn't.
func TestFilteredAnswersSaySo(t *testing.T) {
	r := locked(t)
	r.as(rootSecret, "PUT", "/v1/catalog/register", web, 200, "true")
	_, other := r.token(`key "other" { policy = "write" }`)
	for token, want := range map[string]string{rootSecret: "", other: "true", "": ""} {
		_, body, header := r.ask("GET", "/v1/catalog/nodes", token, "")
		if got := header.Get("X-Consul-Results-Filtered-By-ACLs"); got != want {
			t.Errorf("token %q: %q, want %q: %s", token, got, want, body)
		}
	}
}

// Instances are shown to who may read their node as well as their service, and who may read every node gets the shared answer
// before and after one who may not.
func TestInstancesNeedTheirNode(t *testing.T) {
	r := locked(t)
	for _, body := range []string{web, strings.ReplaceAll(strings.ReplaceAll(web, `"n1"`, `"n2"`), "10.0.0.1", "10.0.0.2")} {
		r.as(rootSecret, "PUT", "/v1/catalog/register", body, 200, "true")
	}
	_, serviceOnly := r.token(`service "web" { policy = "read" }`)
	_, one := r.token("service \"web\" { policy = \"read\" }\nnode \"n2\" { policy = \"read\" }")
	_, allButOne := r.token("service_prefix \"\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\nnode \"n1\" { policy = \"deny\" }")
	_, all := r.token("service \"web\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\nquery_prefix \"\" { policy = \"write\" }")
	r.as(rootSecret, "POST", "/v1/query", `{"Name":"q","Service":{"Service":"web"}}`, 200, "ID")
	for _, path := range []string{"/v1/health/service/web", "/v1/catalog/service/web", "/v1/health/checks/web"} {
		for _, c := range []struct {
			token    string
			n1, n2   bool
			filtered string
		}{{all, true, true, ""}, {serviceOnly, false, false, "true"}, {one, false, true, "true"}, {allButOne, false, true, "true"}, {all, true, true, ""}, {rootSecret, true, true, ""}} {
			code, body, header := r.ask("GET", path, c.token, "")
			if code != 200 || strings.Contains(body, `"n1"`) != c.n1 || strings.Contains(body, `"n2"`) != c.n2 ||
				header.Get("X-Consul-Results-Filtered-By-ACLs") != c.filtered {
				t.Errorf("%s: %d %q %s, want n1 %v, n2 %v", path, code, header.Get("X-Consul-Results-Filtered-By-ACLs"), body, c.n1, c.n2)
			}
		}
	}
	r.as(all, "GET", "/v1/query/q/execute", "", 200, `"n1"`)
	_, body, _ := r.ask("GET", "/v1/query/q/execute", one, "")
	if strings.Contains(body, `"n1"`) {
		t.Errorf("a query shows a node that its caller may not read: %s", body)
	}
}

// A request that waits is asked again whether it may, before it is answered.
func TestRevocationReachesWaitingRequests(t *testing.T) {
	for _, path := range []string{"/v1/health/service/web", "/v1/kv/app"} {
		synctest.Test(t, func(t *testing.T) {
			r := locked(t)
			accessor, secret := r.token("service \"web\" { policy = \"read\" }\nkey \"app\" { policy = \"read\" }")
			r.as(rootSecret, "PUT", "/v1/kv/app", "1", 200, "true")
			_, _, header := r.ask("GET", path, secret, "")
			answered := make(chan int, 1)
			go func() {
				code, _, _ := r.ask("GET", path+"?wait=60s&index="+header.Get("X-Consul-Index"), secret, "")
				answered <- code
			}()
			synctest.Wait()
			r.as(rootSecret, "DELETE", "/v1/acl/token/"+accessor, "", 200, "true")
			synctest.Wait()
			select {
			case code := <-answered:
				t.Fatalf("%s: answered %d before anything changed", path, code)
			default:
			}
			r.as(rootSecret, "PUT", "/v1/catalog/register", web, 200, "true")
			r.as(rootSecret, "PUT", "/v1/kv/app", "2", 200, "true")
			if code := <-answered; code != http.StatusForbidden {
				t.Errorf("%s: answered %d", path, code)
			}
		})
	}
}

// A token is good at every server as soon as its maker has it, also for what asks no leader; one that nobody has is refused at once, and without a leader too.
func TestNewTokensAreKnownEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		for n := 1; n <= 3; n++ {
			w.server(n, 3, func(c *Config) { c.ACL = ACLConfig{Enabled: true, InitialManagement: rootSecret} })
		}
		leader := w.leader()
		for _, s := range w.followers() {
			for range 5 {
				code, text, _ := leader.do("PUT", "/v1/acl/token?token="+rootSecret, `{"ServiceIdentities":[{"ServiceName":"web"}]}`)
				if code != 200 {
					t.Fatal(code, text)
				}
				_, secret := made(t, text)
				s.want("GET", "/v1/catalog/services?stale&token="+secret, "", 200, "{")
				s.want("GET", "/v1/catalog/services?stale&token="+rootSecret[1:]+"0", "", 403, "ACL not found")
			}
		}
		for _, s := range w.all[1:] {
			w.isolate(s.c.Address[:len(s.c.Address)-len(":8300")], true)
		}
		time.Sleep(10 * time.Second)
		alone, began := w.all[1], time.Now()
		alone.want("GET", "/v1/catalog/services?stale&token="+rootSecret, "", 200, "{")
		alone.want("GET", "/v1/catalog/services?stale&token="+rootSecret[1:]+"0", "", 403, "ACL not found")
		if took := time.Since(began); took > 0 {
			t.Errorf("without a leader that took %s", took)
		}
	})
}
