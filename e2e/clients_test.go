// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool is a program that `make e2e` installs beside weft's binary's folder, in .cache/bin.
func tool(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(filepath.Dir(binary())), ".cache", "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make e2e`, which installs it", err)
	}
	return path
}

// client starts a program that asks the world's agent, until the test ends.
func client(t *testing.T, w *World, name string, args ...string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), name+".log")
	p, err := start(name, log, tool(t, name), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s\nof the agent:\n%s", name, tail(log, 20), tail(w.agentLog(), 20))
		}
	})
}

// kvPut writes a key.
func kvPut(t *testing.T, w *World, key, value string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://"+loopback(w.http)+"/v1/kv/"+key, strings.NewReader(value))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("put %s: %s", key, resp.Status)
	}
}

// consul-template renders services, a key and a list of keys, and again when one of them changes, and only then.
func TestConsulTemplate(t *testing.T) {
	enabled(t)
	w := mustWorld(t, Builtin, "allow")
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.ctmpl"), filepath.Join(dir, "out")
	const template = `{{range service "web"}}{{.Name}} {{.Address}}:{{.Port}} {{.Status}}
{{end}}key={{keyOrDefault "app/mode" "none"}}
{{range ls "app/list"}}{{.Key}}={{.Value}}
{{end}}{{range datacenters}}dc {{.}}
{{end}}{{range services}}{{if eq .Name "web"}}tags {{.Tags}}
{{end}}{{end}}`
	if err := os.WriteFile(in, []byte(template), 0o600); err != nil {
		t.Fatal(err)
	}
	register := func(id string, port int) {
		t.Helper()
		if err := w.do(http.MethodPut, "/v1/agent/service/register", object{"ID": id, "Name": "web", "Port": port, "Address": "10.0.0.1", "Tags": []string{"v1"}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	register("w1", 80)
	client(t, w, "consul-template", "-consul-addr", loopback(w.http), "-template", in+":"+out, "-log-level", "debug")
	rendered := func(want string) {
		t.Helper()
		took := until(t, 30*time.Second, func() error {
			b, err := os.ReadFile(out)
			if err != nil {
				return err
			}
			if string(b) != want {
				return fmt.Errorf("rendered\n%s\nwant\n%s", b, want)
			}
			return nil
		})
		t.Logf("rendered within %s", took)
	}
	rendered("web 10.0.0.1:80 passing\nkey=none\ndc dc1\ntags [v1]\n")
	kvPut(t, w, "app/mode", "blue")
	kvPut(t, w, "app/list/a", "1")
	rendered("web 10.0.0.1:80 passing\nkey=blue\na=1\ndc dc1\ntags [v1]\n")
	register("w2", 81)
	rendered("web 10.0.0.1:80 passing\nweb 10.0.0.1:81 passing\nkey=blue\na=1\ndc dc1\ntags [v1]\n")
	if err := w.do(http.MethodPut, "/v1/agent/service/deregister/w1", nil, nil); err != nil {
		t.Fatal(err)
	}
	rendered("web 10.0.0.1:81 passing\nkey=blue\na=1\ndc dc1\ntags [v1]\n")
}
