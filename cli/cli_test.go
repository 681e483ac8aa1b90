// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// fake is an agent that answers from a table and remembers what it was asked.
type fake struct {
	mu      sync.Mutex
	answers map[string]string // "GET /path" → answer; one that begins with "!404 " is an error
	asked   []string
	tokens  []string
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	what := r.Method + " " + r.URL.EscapedPath()
	line := what
	if r.URL.RawQuery != "" {
		line += "?" + r.URL.RawQuery
	}
	if len(body) > 0 {
		line += " " + string(body)
	}
	f.asked = append(f.asked, line)
	f.tokens = append(f.tokens, r.Header.Get("X-Consul-Token"))
	answer, ok := f.answers[what]
	if !ok {
		answer = "!404 not here"
	}
	if code, text, failed := strings.Cut(strings.TrimPrefix(answer, "!"), " "); strings.HasPrefix(answer, "!") && failed {
		var status int
		_, _ = fmt.Sscan(code, &status)
		http.Error(w, text, status)
		return
	}
	w.Header().Set("X-Weft-Warning", "mind this")
	_, _ = io.WriteString(w, answer)
}

type result struct {
	code        int
	out, errout string
}

// weft runs a command against a fake agent.
func weft(t *testing.T, f *fake, stdin string, env map[string]string, args ...string) result {
	t.Helper()
	if f != nil {
		s := httptest.NewServer(f)
		defer s.Close()
		if env == nil {
			env = map[string]string{}
		}
		if env["WEFT_HTTP_ADDR"] == "" && env["CONSUL_HTTP_ADDR"] == "" {
			env["WEFT_HTTP_ADDR"] = s.URL
		}
	}
	var out, errout bytes.Buffer
	code := Run(t.Context(), Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errout, Getenv: func(k string) string { return env[k] },
	}, append([]string{"weft"}, args...))
	return result{code, out.String(), errout.String()}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

const webAllowed = `{"ID":"1","SourceName":"web","DestinationName":"api","Action":"allow","Precedence":9}`

func TestCommands(t *testing.T) {
	exact, intentions := "/v1/connect/intentions/exact", "/v1/connect/intentions"
	good := write(t, "good.hcl", "service {\n name = \"web-proxy\"\n kind = \"connect-proxy\"\n}\nservice {\n name = \"web\"\n id = \"w1\"\n port = 80\n}\n")
	for _, c := range []struct {
		name    string
		answers map[string]string
		stdin   string
		args    []string
		code    int
		out     string   // contained in the output
		err     string   // contained in the error output
		asked   []string // each contained in the request at its place
	}{
		{name: "version", args: []string{"version"}, out: "weft v"},
		{name: "version as JSON", args: []string{"version", "-format=json"}, out: `"Prerelease": "dev"`},
		{name: "version by flag", args: []string{"--version"}, out: "weft v"},
		{name: "completion", args: []string{"completion", "zsh"}, out: "#compdef weft consul"},
		{name: "completion of no shell", args: []string{"completion", "csh"}, code: 1, err: "bash, fish, zsh"},
		{name: "no remote commands", args: []string{"exec", "-node", "x", "ls"}, code: 1, err: "ssh"},
		{
			name: "intentions of namespaces", answers: map[string]string{"GET /v1/connect/intentions": `[{"SourceNS":"default","SourceName":"web","DestinationNS":"red","DestinationName":"api","Action":"allow"}]`},
			args: []string{"intention", "list", "-namespace", "red"}, out: "web     allow   red/api", asked: []string{"GET /v1/connect/intentions?ns=red"},
		},
		{name: "no partitions to look after", args: []string{"partition", "list"}, code: 1, err: "-partition"},
		{
			name: "namespaces", answers: map[string]string{"GET /v1/namespaces": `[{"Name":"red","Description":"d"},{"Name":"default"}]`}, args: []string{"namespace", "list"},
			out: "Name:            default\nDescription:     \n\nName:            red\n",
		},
		{
			name: "namespace create", answers: map[string]string{"PUT /v1/namespace": `{"Name":"red","Description":"d"}`}, out: "Name:            red",
			args: []string{"namespace", "create", "-name", "red", "-description=d", "-meta", "a=b"}, asked: []string{`PUT /v1/namespace {"Description":"d","Meta":{"a":"b"},"Name":"red"}`},
		},
		{
			name: "namespace update", answers: map[string]string{"GET /v1/namespace/red": `{"Name":"red","Description":"d","Meta":{"a":"b"}}`, "PUT /v1/namespace/red": `{"Name":"red"}`},
			args: []string{"namespace", "update", "-name", "red", "-meta", "c=d"}, asked: []string{"GET /v1/namespace/red", `PUT /v1/namespace/red {"Description":"d","Meta":{"a":"b","c":"d"},"Name":"red"}`},
		},
		{
			name: "namespace write", answers: map[string]string{"GET /v1/namespace/red": "!404 none", "PUT /v1/namespace": `{"Name":"red"}`}, stdin: `name = "red"`,
			args: []string{"namespace", "write", "-"}, asked: []string{"GET /v1/namespace/red", `PUT /v1/namespace {"Description":"","Meta":null,"Name":"red"}`},
		},
		{name: "namespace read", answers: map[string]string{"GET /v1/namespace/red": `{"Name":"red","ModifyIndex":7}`}, args: []string{"namespace", "read", "-show-meta", "red"}, out: "Modify Index:    7"},
		{
			name: "namespace delete, refused", answers: map[string]string{"DELETE /v1/namespace/red": "!409 isn't empty"}, args: []string{"namespace", "delete", "red"}, code: 1,
			err: "Error deleting namespace red: Unexpected response code: 409 (isn't empty)",
		},
		{
			name: "a namespace where there is one", answers: map[string]string{"GET /v1/catalog/services": `{}`}, args: []string{"catalog", "services", "-namespace", "red"},
			asked: []string{"GET /v1/catalog/services?ns=red"},
		},
		{
			name: "scope and consistency", answers: map[string]string{"GET /v1/catalog/datacenters": `["dc1"]`}, out: "dc1\n",
			args:  []string{"catalog", "datacenters", "-datacenter=dc2", "-namespace", "n", "--partition=p", "-stale"},
			asked: []string{"GET /v1/catalog/datacenters?dc=dc2&partition=p&stale="},
		},
		{
			name: "register with a tagged address", answers: map[string]string{"PUT /v1/agent/service/register": ""},
			args:  []string{"services", "register", "-name", "web", "-port", "80", "-tagged-address", "wan=198.51.100.7:81", "-tagged-address", "lan=10.0.0.1"},
			asked: []string{`"TaggedAddresses":{"lan":{"Address":"10.0.0.1","Port":80},"wan":{"Address":"198.51.100.7","Port":81}}`},
		},
		{
			name: "intentions from a file", answers: map[string]string{"GET " + exact: "!404 Intention not found", "POST " + intentions: `{"ID":"2"}`},
			args: []string{"intention", "create", "-file", write(t, "i.json", `[{"SourceName":"web","DestinationName":"api","Action":"deny"}]`)}, out: "Created: web => api (deny)",
		},
		{
			name: "CA configuration", answers: map[string]string{"GET /v1/connect/ca/configuration": `{"Provider":"consul","Config":{}}`},
			args: []string{"connect", "ca", "get-config"}, out: "{\n\t\"Provider\": \"consul\"",
		},
		{
			name: "CA configuration set", answers: map[string]string{"PUT /v1/connect/ca/configuration": ``},
			args: []string{"connect", "ca", "set-config", "-force-without-cross-signing", "-config-file", write(t, "ca.json", `{"Provider":"consul"}`)},
			out:  "Configuration updated!", asked: []string{`{"ForceWithoutCrossSigning":true,"Provider":"consul"}`},
		},
		{
			name: "expose", out: `Successfully set up intention for "gw" -> "web"`,
			answers: map[string]string{
				"GET /v1/config/ingress-gateway/gw": `{"Kind":"ingress-gateway","Name":"gw","Listeners":[{"Port":80,"Protocol":"http","Services":[{"Name":"api"}]}],"ModifyIndex":7}`,
				"PUT /v1/config":                    "true", "GET " + exact: "!404 Intention not found", "POST " + intentions: `{"ID":"2"}`,
			},
			args:  []string{"connect", "expose", "-ingress-gateway", "gw", "-service", "web", "-port", "80", "-protocol", "http", "-host", "w.example"},
			asked: []string{"GET", `PUT /v1/config?cas=7 {"Kind":"ingress-gateway","Listeners":[{"Port":80,"Protocol":"http","Services":[{"Name":"api"},{"Name":"web","Hosts":["w.example"]}]}],"Name":"gw"}`, "GET " + exact, "POST " + intentions},
		},
		{name: "peering token", answers: map[string]string{"POST /v1/peering/token": `{"PeeringToken":"t0ken"}`}, args: []string{"peering", "generate-token", "-name", "east"}, out: "t0ken\n"},
		{name: "no peers", answers: map[string]string{"GET /v1/peerings": `[]`}, args: []string{"peering", "list"}, out: "There are no peering connections."},
		{
			name: "peers", answers: map[string]string{"GET /v1/peerings": `[{"Name":"east","State":"ACTIVE","StreamStatus":{"ImportedServices":["a","b"]}}]`},
			args: []string{"peering", "list"}, out: "Name  State   Imported Svcs  Exported Svcs  Meta\neast  ACTIVE  2",
		},
		{
			name: "a proxy that refused", code: 1, out: "==> ! proxy p of web refused its configuration: no",
			answers: map[string]string{
				"GET /v1/agent/connect/proxies":      `[{"ProxyID":"p","Service":"web","Connected":true,"Refusal":"no"}]`,
				"GET /v1/agent/connect/certificates": `[{"Kind":"leaf","Name":"web","Left":0.5}]`,
			}, args: []string{"troubleshoot", "proxy"},
		},
		{
			name: "usage", args: []string{"operator", "usage", "instances", "-all-datacenters"},
			answers: map[string]string{"GET /v1/catalog/datacenters": `["dc1"]`, "GET /v1/operator/usage": `{"Usage":{"dc1":{"Services":3,"ServiceInstances":5,"BillableServiceInstances":4,"ConnectServiceInstances":{"connect-proxy":1,"connect-native":0}}}}`},
			out:     "Billable Service Instances Total: 4\nDatacenter  Services  Service instances\ndc1         3         4\nTotal       3         4\n\nConnect Service Instances Total: 1\n",
			asked:   []string{"GET /v1/catalog/datacenters", "GET /v1/operator/usage?dc=dc1"},
		},
		{name: "usage of one sort", args: []string{"operator", "usage", "instances", "-connect"}, answers: map[string]string{"GET /v1/operator/usage": `{"Usage":{"dc1":{"ConnectServiceInstances":{"connect-proxy":1}}}}`}, out: "Connect Service Instances Total: 1\nDatacenter  Type           Service instances\ndc1         connect-proxy  1\n"},
		{name: "usage of both sorts", args: []string{"operator", "usage", "instances", "-connect", "-billable"}, code: 1, err: "exclude each other"},
		{name: "the first page", args: nil, out: "weft demo"},
		{name: "unknown command", args: []string{"agnet"}, code: 127, err: `unknown command "agnet"`},
		{name: "unknown command of a group", args: []string{"intention", "make"}, code: 127, err: `weft intention: unknown command "make"`},
		{name: "group alone", args: []string{"intention"}, code: 1, out: "say who may call whom"},
		{name: "unknown flag", args: []string{"intention", "list", "-frmat", "json"}, code: 1, err: "frmat"},
		{name: "odd format", answers: map[string]string{"GET " + intentions: "[]"}, args: []string{"intention", "list", "-format", "xml"}, code: 1, err: "Unknown format: xml"},

		{
			name: "register, ordinary services first, as one", answers: map[string]string{"PUT /v1/agent/services/register": ""}, args: []string{"services", "register", good},
			out: "Registered service: web\nRegistered service: web-proxy\n", err: "Warning: mind this",
			asked: []string{`{"Services":[{"ID":"w1","Name":"web","Port":80},{"Kind":"connect-proxy","Name":"web-proxy"}]}`},
		},
		{
			name: "register from flags", answers: map[string]string{"PUT /v1/agent/service/register": ""},
			args:  []string{"services", "register", "-name", "web", "-port", "80", "-tag", "a", "-tag", "b", "-meta", "k=v=w"},
			out:   "Registered service: web",
			asked: []string{`{"Name":"web","Tags":["a","b"],"Meta":{"k":"v=w"},"Port":80}`},
		},
		{
			name: "commas split no value", answers: map[string]string{"PUT /v1/agent/service/register": ""},
			args:  []string{"services", "register", "-name", "web", "-tag", "a,b", "-meta", "k=x,y"},
			asked: []string{`{"Name":"web","Tags":["a,b"],"Meta":{"k":"x,y"}}`},
		},
		{name: "commas in -hcl", args: []string{"agent", "-dev", "-hcl", `recursors = ["192.0.2.1", "odd"]`}, code: 1, err: `"odd"`},
		{
			name: "a token that others establish with", answers: map[string]string{"POST /v1/peering/token": `{"PeeringToken":"t"}`},
			args:  []string{"peering", "generate-token", "-name", "east", "-server-external-addresses", "a:1, b:2", "-server-external-addresses", "c:3"},
			asked: []string{`"ServerExternalAddresses":["a:1","b:2","c:3"]`},
		},
		{name: "register nothing", args: []string{"services", "register"}, code: 1, err: "name the file to read"},
		{name: "register a bad meta", args: []string{"services", "register", "-name", "web", "-meta", "k"}, code: 1, err: "want key=value"},
		{name: "register a missing file", args: []string{"services", "register", "/none.hcl"}, code: 1, err: "/none.hcl: no such file"},
		{name: "register an unknown field", args: []string{"services", "register", write(t, "bad.hcl", "service {\n name = \"web\"\n prot = 80\n}\n")}, code: 1, err: "bad.hcl:3: "},
		{name: "register a file without services", args: []string{"services", "register", write(t, "none.hcl", "")}, code: 1, err: "no service in it"},
		{name: "register two of an ID", args: []string{"services", "register", good, write(t, "two.json", `{"service":{"name":"x","id":"w1"}}`)}, code: 1, err: `service "w1" has the same ID`},
		{
			name: "register, refused", answers: map[string]string{"PUT /v1/agent/service/register": "!400 Missing service name"},
			args: []string{"services", "register", "-name", "web", "-id", "w1"}, code: 1, err: `service "w1" was refused: Unexpected response code: 400 (Missing service name)`,
		},
		{
			name: "register many, refused", answers: map[string]string{"PUT /v1/agent/services/register": "!400 service \"w1\": no"},
			args: []string{"services", "register", good}, code: 1, err: `400 (service "w1": no)`,
		},
		{
			name: "register from standard input", answers: map[string]string{"PUT /v1/agent/service/register": ""}, stdin: ` {"service": {"name": "web"}}`,
			args: []string{"services", "register", "-"}, out: "Registered service: web", asked: []string{`{"Name":"web"}`},
		},
		{
			name: "deregister", answers: map[string]string{"PUT /v1/agent/service/deregister/a%2Fb": ""}, args: []string{"services", "deregister", "-id", "a/b"},
			out: "Deregistered service: a/b", asked: []string{"PUT /v1/agent/service/deregister/a%2Fb"},
		},

		{
			name: "info", answers: map[string]string{"GET /v1/agent/self": `{"Stats":{"b":{"y":"2","x":"1"},"a":{"z":"3"}}}`}, args: []string{"info"},
			out: "a:\n\tz = 3\nb:\n\tx = 1\n\ty = 2\n",
		},
		{
			name: "monitor", answers: map[string]string{"GET /v1/agent/monitor": "one line\n"}, args: []string{"monitor", "-log-level", "debug"},
			out: "one line\n", asked: []string{"loglevel=debug"},
		},
		{name: "monitor, refused", answers: map[string]string{"GET /v1/agent/monitor": "!400 Unknown log level: x"}, args: []string{"monitor", "-log-level", "x"}, code: 1, err: "Unknown log level: x"},
		{
			name: "maint of a service", answers: map[string]string{"PUT /v1/agent/service/maintenance/web": ""}, args: []string{"maint", "-enable", "-service", "web", "-reason", "a b"},
			out: `Service "web" maintenance is now enabled`, asked: []string{"enable=true&reason=a+b"},
		},
		{
			name: "maint of the node", answers: map[string]string{"PUT /v1/agent/maintenance": ""}, args: []string{"maint", "-disable"},
			out: "Node maintenance is now disabled", asked: []string{"enable=false"},
		},
		{
			name: "maint, what is out", args: []string{"maint"},
			answers: map[string]string{"GET /v1/agent/checks": `{"_node_maintenance":{"Node":"n1","Notes":"why"},"_service_maintenance:w":{"ServiceID":"w","Notes":"so"},"x":{}}`},
			out:     "Node:\n  Name:   n1\n  Reason: why\n\nService:\n  ID:     w\n  Reason: so\n",
		},
		{name: "maint both ways", args: []string{"maint", "-enable", "-disable"}, code: 1, err: "Only one of -enable or -disable"},
		{name: "maint neither way", args: []string{"maint", "-service", "web"}, code: 1, err: "Either -enable or -disable"},
		{name: "debug of what isn't there", args: []string{"debug", "-capture", "trace"}, code: 1, err: "want one of agent, host"},
		{name: "debug for no time", args: []string{"debug", "-duration", "1ms"}, code: 1, err: "a second at least"},

		{name: "catalog services", answers: map[string]string{"GET /v1/catalog/services": `{"web":["b","a"],"api":[]}`}, args: []string{"catalog", "services", "-tags"}, out: "api  \nweb  b,a\n"},
		{
			name: "catalog nodes", answers: map[string]string{"GET /v1/catalog/nodes": `[{"Node":"n1","ID":"0123456789","Address":"10.0.0.1","Datacenter":"dc1"}]`},
			args: []string{"catalog", "nodes"}, out: "Node  ID        Address   DC\nn1    01234567  10.0.0.1  dc1\n",
		},
		{name: "catalog of a datacenter", answers: map[string]string{"GET /v1/catalog/services": "{}"}, args: []string{"catalog", "services", "-datacenter", "dc2"}, asked: []string{"?dc=dc2"}},

		{
			name: "create", answers: map[string]string{"POST " + intentions: `{"ID":"1"}`}, args: []string{"intention", "create", "-deny", "-description", "why", "web", "api"},
			out: "Created: web => api (deny)", asked: []string{"GET " + exact + "?destination=api&source=web", `POST ` + intentions + ` {"SourceName":"web","DestinationName":"api","SourceType":"consul","Action":"deny","Description":"why"}`},
		},
		{
			name: "create over another", answers: map[string]string{"GET " + exact: webAllowed}, args: []string{"intention", "create", "-deny", "web", "api"},
			code: 1, err: `an intention from "web" to "api" stands already (allow): give -replace`, asked: []string{"GET "},
		},
		{
			name: "replace", answers: map[string]string{"PUT " + exact: "true"}, args: []string{"intention", "create", "-deny", "-replace", "web", "api"},
			out: "Created: web => api (deny)", asked: []string{"PUT " + exact},
		},
		{name: "both", args: []string{"intention", "create", "-allow", "-deny", "web", "api"}, code: 1, err: "exclude each other"},
		{name: "create without names", args: []string{"intention", "create", "web"}, code: 1, err: "want a source and a destination"},
		{name: "list", answers: map[string]string{"GET " + intentions: "[" + webAllowed + "]"}, args: []string{"intention", "list"}, out: "ID  Source  Action  Destination  Precedence\n1   web     allow   api          9\n"},
		{name: "list as JSON", answers: map[string]string{"GET " + intentions: "[" + webAllowed + "]"}, args: []string{"intention", "list", "-format", "json"}, out: `"SourceName": "web"`},
		{name: "get", answers: map[string]string{"GET " + exact: webAllowed}, args: []string{"intention", "get", "web", "api"}, out: "Source:       web\n"},
		{name: "get none", args: []string{"intention", "get", "web", "api"}, code: 1, err: `no intention from "web" to "api"`},
		{name: "check, allowed", answers: map[string]string{"GET /v1/connect/intentions/check": `{"Allowed":true}`}, args: []string{"intention", "check", "web", "api"}, out: "Allowed\n"},
		{name: "check, denied", answers: map[string]string{"GET /v1/connect/intentions/check": `{"Allowed":false}`}, args: []string{"intention", "check", "web", "api"}, code: 1, out: "Denied\n"},
		{name: "check, unknown", answers: map[string]string{"GET /v1/connect/intentions/check": "!500 boom"}, args: []string{"intention", "check", "web", "api"}, code: 2, err: "boom"},
		{name: "delete", answers: map[string]string{"DELETE " + exact: "true"}, args: []string{"intention", "delete", "web", "api"}, out: "Intention deleted."},
		{name: "match", answers: map[string]string{"GET /v1/connect/intentions/match": `{"api":[` + webAllowed + `]}`}, args: []string{"intention", "match", "-source", "api"}, out: "web", asked: []string{"by=source"}},

		{
			name: "config write", answers: map[string]string{"PUT /v1/config": "true"}, args: []string{"config", "write", write(t, "e.hcl", "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"http\"\n")},
			out: "Config entry written: service-defaults/api", asked: []string{`"Protocol":"http"`},
		},
		{name: "config write without a kind", args: []string{"config", "write", write(t, "e.hcl", "Name = \"api\"\n")}, code: 1, err: "kind is missing"},
		{name: "config write, refused", answers: map[string]string{"PUT /v1/config": "!400 Invalid protocol"}, stdin: `{"kind":"service-defaults","name":"api"}`, args: []string{"config", "write", "-"}, code: 1, err: "the entry service-defaults/api was refused: Unexpected response code: 400 (Invalid protocol)"},
		{name: "config write, too late", answers: map[string]string{"PUT /v1/config": "false"}, stdin: `{"kind":"service-defaults","name":"api"}`, args: []string{"config", "write", "-cas", "-modify-index", "7", "-"}, code: 1, err: "its ModifyIndex isn't 7", asked: []string{"?cas=7"}},
		{name: "config read", answers: map[string]string{"GET /v1/config/service-defaults/api": `{"Kind":"service-defaults","A":"<&>"}`}, args: []string{"config", "read", "-kind", "service-defaults", "-name", "api"}, out: `"A": "<&>"`},
		{name: "config read without a name", args: []string{"config", "read", "-kind", "service-defaults"}, code: 1, err: "name"},
		{name: "config list", answers: map[string]string{"GET /v1/config/service-defaults": `[{"Name":"a"},{"Name":"b"}]`}, args: []string{"config", "list", "-kind", "service-defaults"}, out: "a\nb\n"},
		{name: "config delete", answers: map[string]string{"DELETE /v1/config/service-defaults/api": "{}"}, args: []string{"config", "delete", "-kind", "service-defaults", "-name", "api"}, out: "Config entry deleted"},
		{name: "config delete, too late", answers: map[string]string{"DELETE /v1/config/service-defaults/api": "false"}, args: []string{"config", "delete", "-cas", "-kind", "service-defaults", "-name", "api"}, code: 1, err: "was not deleted"},

		{
			name: "tls cert", answers: map[string]string{"GET /v1/agent/connect/certificates": `[{"Kind":"leaf","Name":"web","ValidBefore":"2001-01-01T00:00:00Z","Left":0.25,"Error":"no server"}]`},
			args: []string{"tls", "cert"}, out: "25 %, can't be renewed: no server",
		},
		{
			name: "tls cert as a check", answers: map[string]string{"GET /v1/agent/connect/certificates": `[{"Kind":"leaf","Name":"web","Status":"warning","Left":0.25,"Error":"no server"}]`},
			args: []string{"tls", "cert", "-check"}, code: 1, out: "warning: leaf web has 25 % of its life left",
		},
		{
			name: "tls cert as a check, all well", answers: map[string]string{"GET /v1/agent/connect/certificates": `[{"Kind":"leaf","Name":"web","Status":"passing"}]`},
			args: []string{"tls", "cert", "-check"}, out: "passing: 1 certificates",
		},
		{name: "explain", args: []string{"explain", "rbac_denied"}, out: "What to do: "},
		{name: "explain what isn't", args: []string{"explain", "nonsense"}, code: 1, err: `no reason is called "nonsense"`},

		{name: "a sidecar for nobody", answers: map[string]string{"GET /v1/agent/services": "{}"}, args: []string{"connect", "proxy", "-sidecar-for", "web"}, code: 1, err: "No sidecar proxy registered for web: no service of this ID"},
		{name: "a sidecar that isn't registered", answers: map[string]string{"GET /v1/agent/services": `{"web":{"ID":"web"}}`}, args: []string{"connect", "envoy", "-sidecar-for", "web"}, code: 1, err: "add `connect { sidecar_service {} }`"},
		{
			name: "two sidecars", args: []string{"connect", "envoy", "-sidecar-for", "web"}, code: 1, err: "More than one sidecar proxy registered for web",
			answers: map[string]string{"GET /v1/agent/services": `{"p1":{"Proxy":{"DestinationServiceID":"web"}},"p2":{"Proxy":{"DestinationServiceName":"web"}}}`},
		},
		{name: "a proxy that isn't registered", args: []string{"connect", "proxy", "-proxy-id", "p"}, code: 1, err: `no proxy "p" is registered on this agent`},
		{name: "no proxy named", args: []string{"connect", "envoy"}, code: 1, err: "One of -proxy-id or -sidecar-for is required"},
		{name: "shared without a socket", args: []string{"connect", "proxy", "-shared"}, code: 1, err: "-shared needs -socket"},
		{
			name: "Envoy that isn't there", args: []string{"connect", "envoy", "-proxy-id", "p", "-envoy-binary", "/none/envoy"}, code: 1, err: "-envoy-binary",
			answers: map[string]string{"GET /v1/agent/connect/proxy/p": `{"ProxyID":"p","Service":"web","ADSAddress":"127.0.0.1:8502"}`},
		},
		{
			name: "Envoy that is too old", args: []string{"connect", "envoy", "-proxy-id", "p", "-envoy-binary", script(t, "envoy  version: abc/1.20.3/Clean/RELEASE/BoringSSL")}, code: 1, err: "is Envoy 1.20.3, and weft is tested with",
			answers: map[string]string{"GET /v1/agent/connect/proxy/p": `{"ProxyID":"p","Service":"web","ADSAddress":"127.0.0.1:8502"}`},
		},
		{
			name: "what isn't Envoy", args: []string{"connect", "envoy", "-proxy-id", "p", "-envoy-binary", script(t, "hello")}, code: 1, err: "is it Envoy?",
			answers: map[string]string{"GET /v1/agent/connect/proxy/p": `{"ProxyID":"p","Service":"web","ADSAddress":"127.0.0.1:8502"}`},
		},
		{
			name: "bootstrap", args: []string{"connect", "envoy", "-proxy-id", "p", "-bootstrap", "-admin-bind", "127.0.0.1:19001"}, out: "19001",
			answers: map[string]string{"GET /v1/agent/connect/proxy/p": `{"ProxyID":"p","Service":"web","ADSAddress":"127.0.0.1:8502"}`},
		},

		{
			name: "members", args: []string{"members"}, out: "n1    10.0.0.1:8301   alive   server  0.1.0  2         dc1  default    <all>\nn2    [fd00::2]:8301",
			answers: map[string]string{"GET /v1/agent/members": membersJSON}, asked: []string{"GET /v1/agent/members?segment=_all"},
		},
		{name: "members by status", args: []string{"members", "-status", "failed|left", "-wan"}, out: "failed", answers: map[string]string{"GET /v1/agent/members": membersJSON}, asked: []string{"wan=1"}},
		{name: "no members", args: []string{"members", "-status", "^none$"}, code: 2, answers: map[string]string{"GET /v1/agent/members": membersJSON}},
		{name: "members in detail", args: []string{"members", "-detailed"}, out: "build=0.1.0:abc,dc=dc1,role=consul,vsn=2", answers: map[string]string{"GET /v1/agent/members": membersJSON}},
		{name: "members by what isn't an expression", args: []string{"members", "-status", "("}, code: 1, err: "Failed to compile status regexp"},
		{name: "join", args: []string{"join", "-wan", "10.0.0.1", "10.0.0.2:9302"}, out: "Successfully joined cluster by contacting 2 nodes.", answers: map[string]string{"PUT /v1/agent/join/10.0.0.1": "", "PUT /v1/agent/join/10.0.0.2:9302": ""}, asked: []string{"wan=1", "wan=1"}},
		{name: "join nobody", args: []string{"join", "10.0.0.9"}, code: 1, err: "Failed to join any nodes."},
		{name: "join nothing", args: []string{"join"}, code: 1, err: "At least one address"},
		{name: "leave", args: []string{"leave"}, out: "Graceful leave complete", answers: map[string]string{"PUT /v1/agent/leave": ""}},
		{name: "force-leave", args: []string{"force-leave", "-prune", "n2"}, answers: map[string]string{"PUT /v1/agent/force-leave/n2": ""}, asked: []string{"prune=1"}},
		{name: "force-leave two", args: []string{"force-leave", "a", "b"}, code: 1, err: "A single node name"},
		{name: "event", args: []string{"event", "-name", "deploy", "-service", "web", "v2"}, out: "Event ID: e1", answers: map[string]string{"PUT /v1/event/fire/deploy": `{"ID":"e1"}`}, asked: []string{"service=web"}},
		{name: "event without a name", args: []string{"event"}, code: 1, err: "Event name must be specified"},
		{name: "event with a tag alone", args: []string{"event", "-name", "x", "-tag", "a"}, code: 1, err: "without service filter"},
		{
			name: "keyring", args: []string{"keyring", "-list"}, out: "\nWAN:\n  a [1/1]\n\ndc1 (LAN):\n  a [3/3]\n  b [2/3]\n",
			answers: map[string]string{"GET /v1/operator/keyring": `[{"WAN":true,"Keys":{"a":1},"NumNodes":1},{"Datacenter":"dc1","Keys":{"b":2,"a":3},"NumNodes":3}]`},
		},
		{name: "keyring's key", args: []string{"keyring", "-use", "k", "-relay-factor", "2"}, out: "Changing primary", answers: map[string]string{"PUT /v1/operator/keyring": ""}, asked: []string{"relay-factor=2"}},
		{name: "keyring without an action", args: []string{"keyring"}, code: 1, err: "Only a single action"},
		{name: "keyring with two", args: []string{"keyring", "-list", "-use", "k"}, code: 1, err: "Only a single action"},
		{name: "keyring with a large factor", args: []string{"keyring", "-list", "-relay-factor", "6"}, code: 1, err: "relay factor"},
		{name: "rtt", args: []string{"rtt", "n1", "n2"}, out: "Estimated n1 <-> n2 rtt: 5.500 ms (using LAN coordinates)", answers: map[string]string{"GET /v1/coordinate/nodes": coordinatesJSON}},
		{name: "rtt from here", args: []string{"rtt", "n2"}, out: "n2 <-> n1 rtt", answers: map[string]string{"GET /v1/coordinate/nodes": coordinatesJSON, "GET /v1/agent/self": `{"Config":{"NodeName":"n1"}}`}},
		{name: "rtt to nobody", args: []string{"rtt", "n1", "n3"}, code: 1, err: `coordinate for node "n3"`, answers: map[string]string{"GET /v1/coordinate/nodes": coordinatesJSON}},
		{
			name: "rtt in the WAN", args: []string{"rtt", "-wan", "n1.dc1", "n2.dc2"}, out: "(using WAN coordinates)",
			answers: map[string]string{"GET /v1/coordinate/datacenters": `[{"Datacenter":"dc1","Coordinates":[{"Node":"n1","Coord":{"Vec":[1]}}]},{"Datacenter":"dc2","Coordinates":[{"Node":"n2","Coord":{"Vec":[2]}}]}]`},
		},
		{name: "rtt without a datacenter", args: []string{"rtt", "-wan", "n1", "n2"}, code: 1, err: "NODE.DATACENTER", answers: map[string]string{"GET /v1/coordinate/datacenters": `[]`}},
		{name: "rtt of nothing", args: []string{"rtt"}, code: 1, err: "One or two node names"},
		{name: "keygen", args: []string{"keygen"}, out: "=\n"},

		{
			name: "list-peers", args: []string{"operator", "raft", "list-peers"}, out: "s2    b   10.0.0.2:8300  follower  false  3             90            10 commits\n",
			answers: map[string]string{"GET /v1/operator/raft/configuration": `{"Servers":[{"ID":"a","Node":"s1","Address":"10.0.0.1:8300","Leader":true,"Voter":true,"ProtocolVersion":"3","LastIndex":100},
				{"ID":"b","Node":"s2","Address":"10.0.0.2:8300","ProtocolVersion":"3","LastIndex":90}]}`},
		},
		{name: "remove-peer", args: []string{"operator", "raft", "remove-peer", "-id", "b"}, out: `Removed peer with id "b"`, answers: map[string]string{"DELETE /v1/operator/raft/peer": ""}, asked: []string{"?id=b"}},
		{name: "remove-peer without one", args: []string{"operator", "raft", "remove-peer"}, code: 1, err: "an address or id is required"},
		{name: "transfer-leader", args: []string{"operator", "raft", "transfer-leader", "-id", "b"}, out: "Success", answers: map[string]string{"POST /v1/operator/raft/transfer-leader": `{"Success":true}`}, asked: []string{"?id=b"}},
		{name: "recover what isn't", args: []string{"operator", "raft", "recover", "-data-dir", t.TempDir()}, code: 1, err: "isn't an agent's data_dir"},
		{
			name: "autopilot", args: []string{"operator", "autopilot", "set-config", "-min-quorum", "3", "-cleanup-dead-servers=false"}, out: "Configuration updated!",
			answers: map[string]string{"GET /v1/operator/autopilot/configuration": `{"CleanupDeadServers":true,"LastContactThreshold":"200ms","ModifyIndex":7}`, "PUT /v1/operator/autopilot/configuration": "true"},
			asked:   []string{"GET ", `?cas=7 {"CleanupDeadServers":false,"LastContactThreshold":"200ms","MaxTrailingLogs":0,"MinQuorum":3`},
		},
		{name: "autopilot, too late", args: []string{"operator", "autopilot", "set-config", "-min-quorum", "3"}, code: 1, err: "could not be atomically updated", answers: map[string]string{"GET /v1/operator/autopilot/configuration": "{}", "PUT /v1/operator/autopilot/configuration": "false"}},
		{name: "autopilot state", args: []string{"operator", "autopilot", "state"}, out: "      Node Type:       zone-standby\n      Zone:            a\n", answers: map[string]string{"GET /v1/operator/autopilot/state": `{"Healthy":true,"Servers":{"x":{"Name":"s1","NodeType":"zone-standby","RedundancyZone":"a"}}}`}},
		{name: "snapshot that is damaged", args: []string{"snapshot", "save", filepath.Join(t.TempDir(), "a.snap")}, code: 1, err: "the snapshot is damaged", answers: map[string]string{"GET /v1/snapshot": "not one"}},
		{name: "inspect what is no snapshot", args: []string{"snapshot", "inspect", write(t, "a.snap", "no")}, code: 1, err: "it isn't gzip"},
		{name: "snapshot restore", args: []string{"snapshot", "restore", write(t, "a.snap", "bytes")}, out: "Restored snapshot", answers: map[string]string{"PUT /v1/snapshot": ""}, asked: []string{"bytes"}},

		{name: "validate", args: []string{"validate", write(t, "a.hcl", "server = true\ndata_dir = \"/x\"\n")}, out: "valid"},
		{name: "validate what is wrong", args: []string{"validate", write(t, "a.hcl", "servr = true\n")}, code: 1, err: "a.hcl:1: servr: unknown field"},
		{name: "an agent with a bad file", args: []string{"agent", "-dev", "-config-file", write(t, "a.hcl", "servr = true\n")}, code: 1, err: "a.hcl:1: servr: unknown field"},
		{name: "an agent without a directory", args: []string{"agent", "-server"}, code: 1, err: "data_dir is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{answers: c.answers}
			got := weft(t, f, c.stdin, nil, c.args...)
			if got.code != c.code || !strings.Contains(got.out, c.out) || !strings.Contains(got.errout, c.err) {
				t.Errorf("weft %q:\nexit code %d, want %d\noutput:\n%s\nwant %q\nerrors:\n%s\nwant %q", c.args, got.code, c.code, got.out, c.out, got.errout, c.err)
			}
			if c.asked != nil && len(f.asked) != len(c.asked) {
				t.Fatalf("asked %q, want %q", f.asked, c.asked)
			}
			for i, want := range c.asked {
				if !strings.Contains(f.asked[i], want) {
					t.Errorf("request %d: %s\nwant %s", i, f.asked[i], want)
				}
			}
		})
	}
}

// membersJSON is an answer of the agent's list of members.
const membersJSON = `[{"Name":"n2","Addr":"fd00::2","Port":8301,"Status":4,"Tags":{"role":"node","dc":"dc1","vsn":"2","build":"0.1.0"}},
	{"Name":"n1","Addr":"10.0.0.1","Port":8301,"Status":1,"Tags":{"role":"consul","dc":"dc1","vsn":"2","build":"0.1.0:abc"}}]`

const coordinatesJSON = `[{"Node":"n1","Coord":{"Vec":[0.003,0],"Height":0.0002,"Adjustment":0.0001}},{"Node":"n2","Coord":{"Vec":[0,0.004],"Height":0.0002}}]`

// script is a program that prints one line.
func script(t *testing.T, line string) string {
	t.Helper()
	p := write(t, "envoy", "#!/bin/sh\necho '"+line+"'\n")
	if err := os.Chmod(p, 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

// Whom a command asks and as whom: flags before WEFT_* before CONSUL_*, a token file before a token.
func TestAddressAndToken(t *testing.T) {
	f := &fake{answers: map[string]string{"GET /v1/catalog/datacenters": `["dc1"]`}}
	s := httptest.NewServer(f)
	defer s.Close()
	file := write(t, "token", "filed\n")
	for _, c := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{map[string]string{"WEFT_HTTP_ADDR": s.URL, "CONSUL_HTTP_ADDR": "127.0.0.1:1", "CONSUL_HTTP_TOKEN": "c"}, nil, "c"},
		{map[string]string{"CONSUL_HTTP_ADDR": strings.TrimPrefix(s.URL, "http://"), "CONSUL_HTTP_TOKEN": "c", "WEFT_HTTP_TOKEN": "w"}, nil, "w"},
		{map[string]string{"WEFT_HTTP_ADDR": "127.0.0.1:1", "WEFT_HTTP_TOKEN": "w"}, []string{"-http-addr", s.URL, "-token", "flag"}, "flag"},
		{map[string]string{"WEFT_HTTP_ADDR": s.URL}, []string{"-token", "flag", "-token-file", file}, "filed"},
	} {
		got := weft(t, nil, "", c.env, append([]string{"catalog", "datacenters"}, c.args...)...)
		if got.code != 0 || got.out != "dc1\n" || f.tokens[len(f.tokens)-1] != c.want {
			t.Errorf("%v %v: %+v, token %q", c.env, c.args, got, f.tokens[len(f.tokens)-1])
		}
	}
	for addr, want := range map[string]string{
		"127.0.0.1:1": "no agent answers at http://127.0.0.1:1", "ftp://x": "want host:port", "unix:///none": "no agent answers",
	} {
		if got := weft(t, nil, "", nil, "catalog", "datacenters", "-http-addr", addr); got.code != 1 || !strings.Contains(got.errout, want) {
			t.Errorf("%s: %+v", addr, got)
		}
	}
	if got := weft(t, nil, "", nil, "catalog", "datacenters", "-token-file", "/none"); got.code != 1 || !strings.Contains(got.errout, "Error loading token file") {
		t.Errorf("%+v", got)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: &fake{answers: map[string]string{"GET /v1/catalog/datacenters": `["dc1"]`}}}}
	s.Start()
	defer s.Close()
	if got := weft(t, nil, "", nil, "catalog", "datacenters", "-http-addr", "unix://"+path); got.code != 0 || got.out != "dc1\n" {
		t.Errorf("%+v", got)
	}
}
