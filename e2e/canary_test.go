// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	mrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/uuid"
)

// printed is the join token that the first server prints for the others, on its standard output alone.
const printed = "printed join token"

// flock is a locked server and an agent into which secrets are put that are known here, and what came out of them.
type flock struct {
	t       *testing.T
	dir     string
	urls    map[string]string // by node
	secrets map[string]string // by what they are
	answers bytes.Buffer
	root    string
	logs    []string // of sidecars
}

// secret makes a secret and has it sought.
func (f *flock) secret(what string) string {
	f.t.Helper()
	s, err := uuid.New(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	f.secrets[what] = s
	return s
}

// ask makes a request of a node with a token in its header; the answer is searched, unless it is shown, to who made the secret, on purpose.
func (f *flock) ask(node, method, path, token, body string, shown bool) (int, string) {
	f.t.Helper()
	req, err := http.NewRequest(method, f.urls[node]+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // follows nothing
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	if !shown {
		fmt.Fprintf(&f.answers, "%s %s of %s: %d %v %s\n", method, strings.SplitN(path, "?", 2)[0], node, resp.StatusCode, resp.Header, data)
	}
	return resp.StatusCode, string(data)
}

func (f *flock) want(code int, node, method, path, token, body string, shown bool) string {
	f.t.Helper()
	got, text := f.ask(node, method, path, token, body, shown)
	if got != code {
		f.t.Fatalf("%s %s of %s: %d %s, want %d", method, path, node, got, text, code)
	}
	return text
}

// find says where a text is in data: as it is, in hexadecimal, or in base64.
func find(data []byte, text string) string {
	for _, form := range []string{text, hex.EncodeToString([]byte(text)), base64.StdEncoding.EncodeToString([]byte(text))[:len(text)]} {
		if i := bytes.Index(data, []byte(form)); i >= 0 {
			return fmt.Sprintf("…%q…", data[max(0, i-150):min(len(data), i+len(form)+50)])
		}
	}
	return ""
}

// unpacked is what a file holds, and what is packed in it.
func unpacked(t *testing.T, data []byte) []byte {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return data
	}
	whole, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.Clone(whole)
	for r := tar.NewReader(bytes.NewReader(whole)); ; {
		if _, err := r.Next(); err != nil {
			return out
		}
		entry, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(entry, []byte{0x1f, 0x8b}) {
			out = append(out, unpacked(t, entry)...)
		}
	}
}

// folder is what the files of a folder hold.
func folder(t *testing.T, dir string) []byte {
	t.Helper()
	var out []byte
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil {
			out = append(append(out, path...), unpacked(t, data)...)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil // another file has taken its place
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Secrets that are put into a locked server and an agent, by every way that takes some, in requests that are refused too and in URLs, are in
// nothing that comes out: logs at their loudest, audit logs, access logs of both kinds of sidecars, metrics, what agents say of themselves, debug bundles, snapshots, answers to others,
// arguments of processes. The control is a text in the nodes' names, which most of these have: it is found there.
func TestSecretsAreNowhere(t *testing.T) {
	enabled(t)
	control, err := uuid.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &flock{t: t, dir: t.TempDir(), urls: map[string]string{}, secrets: map[string]string{}}
	f.begin(control)
	f.tokens()
	f.authorities()
	f.services()
	f.refusals()
	f.mesh(control)
	f.hidden()
	f.seek(control)
}

// begin starts the server and the agent.
func (f *flock) begin(control string) {
	f.t.Helper()
	t, net := f.t, fmt.Sprintf("127.%d.%d.", 1+mrand.IntN(250), mrand.IntN(250))
	gossip := make([]byte, 32)
	if _, err := rand.Read(gossip); err != nil {
		t.Fatal(err)
	}
	f.secrets["gossip key"], f.root = base64.StdEncoding.EncodeToString(gossip), f.secret("management token")
	run := func(name, config string, n int, more ...string) {
		at, file := fmt.Sprint(net, n), filepath.Join(f.dir, name+".hcl")
		config += "\nlog_level = \"debug\"\naudit { enabled = true }\n"
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := start(name, filepath.Join(f.dir, name+".log"), binary(), append([]string{
			"agent", "-data-dir", filepath.Join(f.dir, name), "-node", name + "-" + control, "-bind", at, "-client", at, "-config-file", file,
		}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.kill)
		f.urls[name] = "http://" + at + ":8500"
		until(t, 30*time.Second, func() error {
			resp, err := http.Get(f.urls[name] + "/v1/status/leader")
			if err != nil {
				return fmt.Errorf("%w: %s", err, tail(p.log, 5))
			}
			defer resp.Body.Close()
			if data, _ := io.ReadAll(resp.Body); !bytes.Contains(data, []byte(":8300")) {
				return fmt.Errorf("no leader: %s", data)
			}
			return nil
		})
	}
	run("s1", fmt.Sprintf("encrypt = %q\nacl { tokens { initial_management = %q } }", f.secrets["gossip key"], f.root), 1, "-server", "-locked")
	until(t, 20*time.Second, func() error {
		if code, text := f.ask("s1", "GET", "/v1/acl/token/self", f.root, "", true); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	var join struct{ Token string }
	if err := json.Unmarshal([]byte(f.want(200, "s1", "POST", "/v1/weft/join/tokens", f.root, "{}", true)), &join); err != nil {
		t.Fatal(err)
	}
	f.secrets["join token"] = join.Token
	file := filepath.Join(f.dir, "join")
	if err := os.WriteFile(file, []byte(join.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	run("a1", fmt.Sprintf("acl { enable_token_persistence = true }\nports { grpc = 8502 }\nservice { name = \"file\"  port = 81  token = %q }", f.secret("token of a service's file")), 101, "-join-token=@"+file)
}

// tokens makes ACL tokens, uses them in every place that takes one, and gives the agent its own.
func (f *flock) tokens() {
	f.t.Helper()
	for what, rules := range map[string]string{
		"token": `key_prefix \"app/\" { policy = \"write\" }`, "service's token": `service_prefix \"\" { policy = \"write\" }`,
		"agent's token": `node_prefix \"\" { policy = \"write\" }`, "sidecars' token": `service_prefix \"\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }`,
	} {
		name := regexp.MustCompile(`\W`).ReplaceAllString(what, "-")
		f.want(200, "s1", "PUT", "/v1/acl/policy", f.root, `{"Name":"`+name+`","Rules":"`+rules+`"}`, false)
		f.want(200, "s1", "PUT", "/v1/acl/token", f.root, `{"SecretID":"`+f.secret(what)+`","Policies":[{"Name":"`+name+`"}]}`, true)
	}
	token := f.secrets["token"]
	for node := range f.urls {
		f.want(200, node, "PUT", "/v1/kv/app/x?token="+token, "", f.secret("value of a key at "+node), false)
		f.want(403, node, "GET", "/v1/kv/other?token="+token, "", "", false)
		f.want(403, node, "PUT", "/v1/kv/other?token="+token, "", "x", false)
		f.want(200, node, "GET", "/v1/agent/metrics?token="+f.root, "", "", false)
	}
	for _, kind := range []string{"agent", "default"} {
		f.want(200, "a1", "PUT", "/v1/agent/token/"+kind, f.root, `{"Token":"`+f.secrets["agent's token"]+`"}`, false)
	}
	f.want(200, "s1", "GET", "/v1/acl/tokens", f.root, "", false)
}

// authorities gives the servers an auth method's secret, and a CA's key and token.
func (f *flock) authorities() {
	f.t.Helper()
	account := f.secret("auth method's secret")
	f.want(200, "s1", "PUT", "/v1/acl/auth-method", f.root, `{"Name":"k","Type":"kubernetes","Config":{"Host":"http://127.0.0.1:1","ServiceAccountJWT":"`+account+`"}}`, true)
	f.ask("a1", "PUT", "/v1/acl/auth-method", f.root, `{"Name":"l","Type":"kubernetes","Config":{"Hast":"x","ServiceAccountJWT":"`+account+`"}}`, false)
	f.ask("a1", "PUT", "/v1/acl/auth-method", f.root, `{"Name":"l","Type":"oidc","Config":{"OIDCClientSecret":"`+account+`"}}`, false)
	for node := range f.urls {
		f.want(403, node, "POST", "/v1/acl/login", "", `{"AuthMethod":"k","BearerToken":"`+f.secret("bearer token at "+node)+`"}`, false)
	}
	vault := f.secret("Vault's token")
	code, _ := f.ask("a1", "PUT", "/v1/connect/ca/configuration", f.root, `{"Provider":"vault","Config":{"Address":"http://127.0.0.1:1","Token":"`+vault+`","RootPKIPath":"r","IntermediatePKIPath":"i"}}`, false)
	if code/100 == 2 {
		f.t.Error("a Vault that isn't there is taken")
	}
	f.ask("a1", "PUT", "/v1/connect/ca/configuration", f.root, `{"Provider":"consul","Config":{"RootCert":"x","PrivateKey":"`+f.secret("CA's key that is none")+`"}}`, false)
	root := newAuthority(f.t, "another.consul")
	der, err := x509.MarshalECPrivateKey(root.key)
	if err != nil {
		f.t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	body, err := json.Marshal(object{"Provider": "consul", "Config": object{
		"RootCert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})), "PrivateKey": key,
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.want(200, "a1", "PUT", "/v1/connect/ca/configuration", f.root, string(body), false)
	f.secrets["CA's key"] = strings.Split(key, "\n")[1]
	f.want(200, "s1", "GET", "/v1/connect/ca/configuration", f.root, "", false)
	f.want(200, "s1", "GET", "/v1/connect/ca/roots", "", "", false)
	another := make([]byte, 32)
	if _, err := rand.Read(another); err != nil {
		f.t.Fatal(err)
	}
	f.secrets["another gossip key"] = base64.StdEncoding.EncodeToString(another)
	f.want(200, "a1", "POST", "/v1/operator/keyring", f.root, `{"Key":"`+f.secrets["another gossip key"]+`"}`, false)
	f.ask("a1", "POST", "/v1/operator/keyring", f.root, `{"Key":"`+f.secret("gossip key that is none")+`"}`, false)
}

// services registers some, one whose check has a secret in its header and which fails.
func (f *flock) services() {
	f.t.Helper()
	check := `{"Name":"h","HTTP":"http://127.0.0.1:1/","Interval":"1s","Header":{"Authorization":["Bearer ` + f.secret("check's header") + `"]}}`
	f.want(200, "a1", "PUT", "/v1/agent/service/register?token="+f.secrets["service's token"], "", `{"Name":"web","Port":80,"Check":`+check+`}`, false)
	f.ask("a1", "PUT", "/v1/agent/service/register", f.root, `{"Name":"sync","Port":82,"Token":"`+f.secret("service's token that is none")+`"}`, false)
	f.ask("a1", "PUT", "/v1/agent/service/register", f.root, `{"Name":"bad","Port":"x","Token":"`+f.secret("token in a body that is refused")+`","Check":`+check+`}`, false)
	f.ask("a1", "PUT", "/v1/agent/check/register", f.root, strings.Replace(check, "1s", "often", 1), false)
	f.want(200, "a1", "GET", "/v1/agent/services", f.root, "", false)
	until(f.t, 20*time.Second, func() error {
		if _, text := f.ask("a1", "GET", "/v1/agent/checks", f.root, "", false); !strings.Contains(text, "127.0.0.1:1") {
			return fmt.Errorf("the check hasn't failed yet: %s", text)
		}
		return nil
	})
}

// refusals asks for what is refused, with secrets in URLs, headers and bodies.
func (f *flock) refusals() {
	f.t.Helper()
	wrong := f.secret("token that nobody has")
	for node := range f.urls {
		f.want(403, node, "GET", "/v1/kv/x", wrong, "", false)
		for _, path := range []string{
			"/v1/kv/x?token=", "/v1/kv/x?recurse&token=", "/v1/nothing?token=", "/v1/catalog/nodes?dc=nowhere&token=", "/v1/catalog/nodes?index=x&token=", "/v1/kv/x?wait=x%3by&token=",
			"/v1/kv/x?%zz&token=", "//v1//kv/x?token=", "/ui?token=", "/v1/agent/self?token=", "/v1/agent/monitor?token=", "/v1/snapshot?token=", "/v1/catalog/nodes?filter=x+y+z&token=",
		} {
			for _, method := range []string{"GET", "PUT", "BREW"} {
				f.ask(node, method, path+wrong, "", "{", false)
			}
		}
		f.ask(node, "PUT", "/v1/acl/bootstrap", "", `{"BootstrapSecret":"`+wrong+`"}`, false)
		f.ask(node, "POST", "/v1/acl/logout?token="+wrong, "", "", false)
		f.ask(node, "POST", "/v1/weft/join", "", `{"Secret":"`+wrong+`"}`, false)
		f.ask(node, "PUT", "/v1/txn?token="+wrong, "", `[{"KV":{"Verb":"set","Key":"x","Value":""}}]`, false)
		f.ask(node, "PUT", "/v1/acl/token", f.root, `{"SecretID":"`+wrong+`","Policies":[{"Name":"none"}]}`, false)
	}
}

// mesh has requests with secrets go through sidecars of both kinds, which log each: one that is answered, and one that is refused.
func (f *flock) mesh(control string) {
	f.t.Helper()
	t, token := f.t, f.secrets["sidecars' token"]
	bearer, cookie, answered := f.secret("bearer of a request"), f.secret("cookie of a request"), f.secret("cookie of an answer")
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Set-Cookie", "session="+answered) }))
	t.Cleanup(backend.Close)
	local, err := netip.ParseAddrPort(backend.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range []string{
		`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"},"AccessLogs":{"Enabled":true}}`,
		`{"Kind":"service-intentions","Name":"back","Sources":[{"Name":"front","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/open"}}]}]}`,
	} {
		f.want(200, "s1", "PUT", "/v1/config", f.root, entry, false)
	}
	upstream := mustPort(t)
	for name, sidecar := range map[string]string{
		"back": "{}", "front": fmt.Sprintf(`{"Proxy":{"Upstreams":[{"DestinationName":"back","LocalBindPort":%d}]}}`, upstream),
	} {
		f.want(200, "a1", "PUT", "/v1/agent/service/register", token, fmt.Sprintf(`{"Name":%q,"Port":%d,"Connect":{"SidecarService":%s}}`, name, local.Port(), sidecar), false)
	}
	file := filepath.Join(f.dir, "sidecars-token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"front": {"proxy"}, "back": {"envoy", "-envoy-binary", envoy(), "-admin-bind", loopback(mustPort(t))}} {
		log := filepath.Join(f.dir, name+"-sidecar.log")
		p, err := start(name, log, binary(), append(append([]string{"connect"}, args...), "-sidecar-for", name, "-http-addr", f.urls["a1"], "-token-file", file)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.kill)
		f.logs = append(f.logs, log)
		var access struct{ Secret string }
		if err := json.Unmarshal([]byte(f.want(200, "a1", "GET", "/v1/agent/connect/proxy/"+name+"-sidecar-proxy", token, "", true)), &access); err != nil || access.Secret == "" {
			t.Fatalf("%v", err)
		}
		f.secrets["secret of the sidecar of "+name] = access.Secret
		var leaf struct{ PrivateKeyPEM string }
		if err := json.Unmarshal([]byte(f.want(200, "a1", "GET", "/v1/agent/connect/ca/leaf/"+name, token, "", true)), &leaf); err != nil {
			t.Fatal(err)
		}
		f.secrets["key of "+name] = strings.Split(leaf.PrivateKeyPEM, "\n")[1]
	}
	for path, want := range map[string]int{"/open/": 200, "/closed/": 403} {
		until(t, 30*time.Second, func() error {
			req, err := http.NewRequest(http.MethodGet, "http://"+loopback(upstream)+path+control, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+bearer)
			req.Header.Set("Cookie", "session="+cookie)
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != want {
				return fmt.Errorf("%s: %d: %s", path, resp.StatusCode, tail(f.logs[0], 5))
			}
			return nil
		})
	}
	for _, log := range f.logs { // they are written a moment later
		until(t, 15*time.Second, func() error {
			data, err := os.ReadFile(log)
			if err == nil && !(strings.Contains(string(data), "/open/"+control) && strings.Contains(string(data), "/closed/"+control)) {
				err = fmt.Errorf("%s has no line of each request: %s", log, tail(log, 5))
			}
			return err
		})
	}
}

// hidden has those sought that the nodes made themselves.
func (f *flock) hidden() {
	f.t.Helper()
	for node := range f.urls {
		data, err := os.ReadFile(filepath.Join(f.dir, node, "plane", "identity.json"))
		var id struct{ Key, AuthorityKey, AgentToken string }
		if err == nil {
			err = json.Unmarshal(data, &id)
		}
		if err != nil || id.AgentToken == "" {
			f.t.Fatalf("%v: %v", node, err)
		}
		f.secrets["node's key of "+node], f.secrets["token of the agent "+node] = strings.Split(id.Key, "\n")[1], id.AgentToken
		if id.AuthorityKey != "" {
			f.secrets["nodes' authority's key at "+node] = strings.Split(id.AuthorityKey, "\n")[1]
		}
	}
	said, err := os.ReadFile(filepath.Join(f.dir, "s1.log"))
	if f.secrets[printed] = regexp.MustCompile(`weft-join-[\w-]+`).FindString(string(said)); err != nil || f.secrets[printed] == "" {
		f.t.Fatalf("no join token is printed: %v", err)
	}
	out, stderr, err := weft(nil, "", "operator", "seal", "export", "-data-dir", filepath.Join(f.dir, "s1"))
	keys := regexp.MustCompile(`[A-Za-z0-9+/]{43}=`).FindAllString(out, -1)
	if err != nil || len(keys) == 0 {
		f.t.Fatalf("no seal key: %v %s%s", err, out, stderr)
	}
	f.secrets["seal key"] = keys[0]
}

// seek collects what comes out, and seeks all secrets in it.
func (f *flock) seek(control string) {
	t := f.t
	out, unnamed := map[string][]byte{}, map[string]bool{}
	for node, url := range f.urls {
		for path, named := range map[string]bool{
			"/v1/agent/self": true, "/v1/agent/members": true, "/v1/agent/host": false, "/v1/agent/checks": node == "a1",
			"/v1/agent/metrics": false, "/v1/agent/metrics?format=prometheus": false,
		} {
			out[path+" of "+node] = []byte(f.want(200, node, "GET", path, f.root, "", true))
			unnamed[path+" of "+node] = !named
		}
		env := []string{"WEFT_HTTP_ADDR=" + url, "WEFT_HTTP_TOKEN=" + f.root}
		for name, args := range map[string][]string{
			"bundle": {"debug", "-duration=2s", "-interval=1s", "-output", filepath.Join(f.dir, node+"-bundle")}, "snapshot": {"snapshot", "save", filepath.Join(f.dir, node+"-snapshot")},
		} {
			said, stderr, err := weft(env, "", args...)
			if err != nil {
				t.Fatalf("%s: %v: %s%s", name, err, said, stderr)
			}
			files, err := filepath.Glob(filepath.Join(f.dir, node+"-"+name+"*"))
			if err != nil || len(files) != 1 {
				t.Fatalf("%s: %v %v", name, files, err)
			}
			out[name+" of "+node] = append([]byte(said+stderr), folder(t, files[0])...)
		}
		for _, file := range []string{node + ".log", node + "/audit/audit.json"} {
			data, err := os.ReadFile(filepath.Join(f.dir, file))
			if err != nil {
				t.Fatal(err)
			}
			out[file] = data
		}
	}
	for _, log := range f.logs {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(log)] = data
	}
	running, err := processesOf(control)
	if err != nil || len(running) < len(f.urls) {
		t.Fatalf("%d processes: %v", len(running), err)
	}
	for pid, line := range running {
		out[fmt.Sprintf("arguments of process %d", pid)] = []byte(line)
	}
	out["answers"] = f.answers.Bytes()
	for where, data := range out {
		if len(data) == 0 || !unnamed[where] && find(data, control) == "" {
			t.Errorf("%s: not even the control is found in %d bytes", where, len(data))
		}
		for what, secret := range f.secrets {
			if strings.HasPrefix(what, "value of a key") && strings.HasPrefix(where, "snapshot") || what == printed && where == "s1.log" {
				continue // keys and values are what a snapshot is for
			}
			if hit := find(data, secret); hit != "" {
				t.Errorf("%s: the %s is there: %s", where, what, hit)
			}
		}
	}
	t.Logf("%d secrets were sought in %d outputs", len(f.secrets), len(out))
}
