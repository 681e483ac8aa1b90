// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftmesh/weft/internal/acl"
)

const (
	aToken  = `{"AccessorID":"11111111-2222-3333-4444-555555555555","SecretID":"s3cret","Description":"d","Local":false,"CreateTime":"2026-01-01T00:00:00Z","Policies":[{"ID":"p1","Name":"one"}],"Later":true}`
	aPolicy = `{"ID":"99999999-2222-3333-4444-555555555555","Name":"one","Description":"","Rules":"operator = \"read\"\n","Later":1}`
)

const (
	roleID = "77777777-2222-3333-4444-555555555555"
	aRole  = `{"ID":"77777777-2222-3333-4444-555555555555","Name":"r","TemplatedPolicies":[{"TemplateName":"builtin/dns"}]}`
)

func TestACLCommands(t *testing.T) {
	const tokenPath = "/v1/acl/token/11111111-2222-3333-4444-555555555555"
	rules := write(t, "rules.hcl", `operator = "read"`)
	templates := write(t, "templates.hcl", "TemplatedPolicy \"builtin/service\" {\n Name = \"api\"\n}\nTemplatedPolicy \"builtin/service\" {\n Name = \"web\"\n}\nTemplatedPolicy \"builtin/dns\" {}\n")
	for _, c := range []struct {
		name    string
		answers map[string]string
		stdin   string
		args    string
		code    int
		out     string
		asked   string
	}{
		{"bootstrap", map[string]string{"PUT /v1/acl/bootstrap": aToken}, "", "bootstrap", 0, "SecretID:         s3cret\n", "PUT /v1/acl/bootstrap"},
		{"bootstrap with a secret", map[string]string{"PUT /v1/acl/bootstrap": aToken}, "own\n", "bootstrap -", 0, "AccessorID:       11111111", `{"BootstrapSecret":"own"}`},
		{"second bootstrap", map[string]string{"PUT /v1/acl/bootstrap": "!403 Permission denied: ACL bootstrap no longer allowed (reset index: 13)"}, "", "bootstrap", 1, "", ""},
		{"policy create", map[string]string{"PUT /v1/acl/policy": aPolicy}, "", "policy create -name one -rules @" + rules, 0, "Rules:\noperator", `{"Name":"one","Rules":"operator = \"read\""}`},
		{"policy create from stdin", map[string]string{"PUT /v1/acl/policy": aPolicy}, "x", "policy create -name one -rules - -format=json", 0, `"Name": "one"`, `"Rules":"x"`},
		{"policy without a name", nil, "", "policy create -rules x", 1, "", ""},
		{"policy by name", map[string]string{"GET /v1/acl/policy/name/one": aPolicy}, "", "policy read -name one", 0, "Name:             one", "GET /v1/acl/policy/name/one"},
		{"policy update keeps what it doesn't know", map[string]string{"GET /v1/acl/policy/name/one": aPolicy, "PUT /v1/acl/policy/99999999-2222-3333-4444-555555555555": aPolicy}, "", "policy update -name one -description new", 0, "ID:", `"Later":1`},
		{"policy delete by prefix", map[string]string{"GET /v1/acl/policies": "[" + aPolicy + "]", "DELETE /v1/acl/policy/99999999-2222-3333-4444-555555555555": "true"}, "", "policy delete -id 9999", 0, "deleted successfully", "DELETE /v1/acl/policy/99999999"},
		{"token create", map[string]string{"PUT /v1/acl/token": aToken}, "", "token create -policy-name one -service-identity web:dc1,dc2 -node-identity n:dc1 -expires-ttl 1h", 0, "p1 - one", `"ExpirationTTL":"1h0m0s"`},
		{"token without a grant", nil, "", "token create -description x", 1, "", ""},
		{"token update", map[string]string{"GET " + tokenPath: aToken, "PUT " + tokenPath: aToken}, "", "token update -accessor-id 11111111-2222-3333-4444-555555555555 -append-policy-name two", 0, "AccessorID", `{"Name":"two"}]`},
		{"token read expanded", map[string]string{"GET " + tokenPath: aToken}, "", "token read -accessor-id 11111111-2222-3333-4444-555555555555 -expanded", 0, "SecretID", "?expanded=true"},
		{"own token", map[string]string{"GET /v1/acl/token/self": aToken}, "", "token read -self", 0, "SecretID", "GET /v1/acl/token/self"},
		{"role create", map[string]string{"PUT /v1/acl/role": `{"ID":"r","Name":"r","TemplatedPolicies":[{"TemplateName":"builtin/service","TemplateVariables":{"Name":"web"}}]}`}, "", "role create -name r -templated-policy builtin/service -var name:web", 0, "builtin/service (name: web)", `"TemplateVariables":{"Name":"web"}`},
		{"role create from a file", map[string]string{"PUT /v1/acl/role": `{"ID":"r"}`}, "", "role create -name r -templated-policy-file " + templates, 0, "ID:", `"TemplatedPolicies":[{"TemplateName":"builtin/service","TemplateVariables":{"Name":"api"}},{"TemplateName":"builtin/service","TemplateVariables":{"Name":"web"}},{"TemplateName":"builtin/dns"}]`},
		{"role create from a JSON file", map[string]string{"PUT /v1/acl/role": `{"ID":"r"}`}, "", "role create -name r -templated-policy-file " + write(t, "t.json", `{"TemplatedPolicies":{"builtin/node":[{"Name":"n1"},{"Name":"n2"}]}}`), 0, "ID:", `{"Name":"n1"}},{"TemplateName":"builtin/node","TemplateVariables":{"Name":"n2"}}]`},
		{"role create from no such file", nil, "", "role create -name r -templated-policy-file " + rules, 1, "", ""},
		{"role create with a variable alone", nil, "", "role create -name r -var name:web", 1, "", ""},
		{"role update appends", map[string]string{"GET /v1/acl/role/" + roleID: aRole, "PUT /v1/acl/role/" + roleID: aRole}, "", "role update -id " + roleID + " -append-templated-policy builtin/service -var name:api", 0, "ID:", `"TemplatedPolicies":[{"TemplateName":"builtin/dns"},{"TemplateName":"builtin/service"`},
		{"role update replaces", map[string]string{"GET /v1/acl/role/" + roleID: aRole, "PUT /v1/acl/role/" + roleID: aRole}, "", "role update -id " + roleID + " -replace-templated-policy-file " + templates, 0, "ID:", `"TemplatedPolicies":[{"TemplateName":"builtin/service","TemplateVariables":{"Name":"api"}}`},
		{"token update appends", map[string]string{"GET " + tokenPath: aToken, "PUT " + tokenPath: aToken}, "", "token update -id 11111111-2222-3333-4444-555555555555 -append-node-identity n:dc1 -append-service-identity web:dc1,dc2 -append-templated-policy builtin/dns", 0, "AccessorID", `"NodeIdentities":[{"Datacenter":"dc1","NodeName":"n"}],"Policies":[{"ID":"p1","Name":"one"}],"SecretID":"s3cret","ServiceIdentities":[{"Datacenters":["dc1","dc2"],"ServiceName":"web"}],"TemplatedPolicies":[{"TemplateName":"builtin/dns"}]`},
		{"token update replaces policies and keeps no roles", map[string]string{"GET " + tokenPath: aToken, "PUT " + tokenPath: aToken}, "", "token update -id 11111111-2222-3333-4444-555555555555 -policy-name two -merge-roles", 0, "AccessorID", `"Policies":[{"Name":"two"}]`},
		{"binding rules of a method", map[string]string{"GET /v1/acl/binding-rules": `[]`}, "", "binding-rule list -method ci", 0, "", "?authmethod=ci"},
		{"preview of a file", map[string]string{"POST /v1/acl/templated-policy/preview/builtin/node": `{"Name":"x"}`}, "", "templated-policy preview -file " + write(t, "one.hcl", `templated_policy "builtin/node" { name = "n1" }`), 0, "Name:", `{"name":"n1"}`},
		{"preview of several", nil, "", "templated-policy preview -file " + templates, 1, "", ""},
		{"preview of nothing", nil, "", "templated-policy preview", 1, "", ""},
		{"auth method", map[string]string{"PUT /v1/acl/auth-method": `{"Name":"ci","Type":"jwt","Config":{"BoundIssuer":"x"}}`}, `{"BoundIssuer":"x"}`, "auth-method create -name ci -type jwt -config -", 0, "BoundIssuer: \"x\"", `"Config":{"BoundIssuer":"x"}`},
		{"binding rule", map[string]string{"PUT /v1/acl/binding-rule": `{"ID":"b","BindType":"service","BindName":"${value.job}"}`}, "", "binding-rule create -method ci -bind-name ${value.job}", 0, "BindName:         ${value.job}", `"BindType":"service"`},
		{"agent's token", map[string]string{"PUT /v1/agent/token/agent_recovery": ""}, "", "set-agent-token recovery x", 0, "set successfully", `{"Token":"x"}`},
		{"odd agent token", nil, "", "set-agent-token odd x", 1, "", ""},
		{"templates", map[string]string{"GET /v1/acl/templated-policies": `{"builtin/service":{},"builtin/dns":{}}`}, "", "templated-policy list", 0, "builtin/dns\nbuiltin/service\n", ""},
	} {
		f := &fake{answers: c.answers}
		r := weft(t, f, c.stdin, nil, append([]string{"acl"}, strings.Fields(c.args)...)...)
		if r.code != c.code || !strings.Contains(r.out, c.out) || !strings.Contains(strings.Join(f.asked, "\n"), c.asked) {
			t.Errorf("%s: %d\n%s%s\nasked %q", c.name, r.code, r.out, r.errout, f.asked)
		}
	}
}

func TestLogin(t *testing.T) {
	dir := t.TempDir()
	sink, bearer := filepath.Join(dir, "sink"), write(t, "jwt", "abc\n")
	f := &fake{answers: map[string]string{"POST /v1/acl/login": aToken, "POST /v1/acl/logout": "true"}}
	if r := weft(t, f, "", nil, "login", "-method", "ci", "-bearer-token-file", bearer, "-token-sink-file", sink, "-meta", "pod=a"); r.code != 0 {
		t.Fatal(r)
	}
	if !strings.Contains(f.asked[0], `"BearerToken":"abc","Meta":{"pod":"a"}`) {
		t.Errorf("asked %q", f.asked)
	}
	data, err := os.ReadFile(sink)
	if err != nil || string(data) != "s3cret" {
		t.Errorf("%q %v", data, err)
	}
	if info, err := os.Stat(sink); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if r := weft(t, f, "", nil, "login", "-type", "kubernetes", "-method", "ci", "-bearer-token-file", bearer, "-token-sink-file", sink); r.code != 0 {
		t.Error(r)
	}
	if r := weft(t, f, "", nil, "login", "-type", "aws", "-method", "ci", "-bearer-token-file", bearer, "-token-sink-file", sink); r.code != 1 || !strings.Contains(r.errout, "jwt, oidc or kubernetes") {
		t.Error(r)
	}
	if r := weft(t, f, "", map[string]string{"WEFT_HTTP_TOKEN": "x"}, "logout"); r.code != 0 {
		t.Error(r)
	}
	if r := weft(t, f, "", nil, "login", "-method", "ci", "-bearer-token-file", write(t, "e", " \n"), "-token-sink-file", sink); r.code != 1 || !strings.Contains(r.errout, "No bearer token found") {
		t.Error(r)
	}
}

func TestACLExplain(t *testing.T) {
	for args, want := range map[string]string{
		"service:write web": "service \"web\" {\n      policy = \"write\"",
		"acl:read":          `acl = "read"`,
		`Permission denied: token with AccessorID 'a1' lacks permission 'intentions:write' on "api"`:            "intentions = \"write\"",
		`Permission denied: token with AccessorID 'a1' lacks permission 'key:read' on "a/b" in namespace "red"`: "namespace \"red\" {\n      key \"a/b\"",
		`Permission denied: anonymous token lacks permission 'node:read'. The anonymous token is used ...`:      "node_prefix \"\"",
	} {
		words := []string{"acl", "explain", args}
		if !strings.Contains(args, "denied") {
			words = append([]string{"acl", "explain"}, strings.Fields(args)...)
		}
		r := weft(t, nil, "", nil, words...)
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("%s: %d %s%s", args, r.code, r.out, r.errout)
		}
		var rule []string
		for line := range strings.Lines(r.out) {
			if strings.HasPrefix(line, "    ") {
				rule = append(rule, line)
			}
		}
		if _, err := acl.Parse(strings.Join(rule, "")); err != nil {
			t.Errorf("%s: the rule that is shown isn't one: %v", args, err)
		}
	}
	if r := weft(t, nil, "", nil, "acl", "explain", "nonsense"); r.code != 1 {
		t.Error(r)
	}
}
