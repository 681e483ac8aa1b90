// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBadInput: each bad input gets a message that says where it is and what to do, and nothing is half applied.
func TestBadInput(t *testing.T) {
	enabled(t)
	w := mustWorld(t, Builtin, "allow")
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := []string{"WEFT_HTTP_ADDR=" + loopback(w.http)}
	if out, errs, err := weft(env, "", "intention", "create", "-allow", "web", "api"); err != nil {
		t.Fatal(err, out, errs)
	}
	register := []string{"services", "register"}
	old := filepath.Join(dir, "old-envoy")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho \"$0  version: abc/1.22.3/Clean/RELEASE/BoringSSL\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	good := "service {\n name = \"good\"\n port = 9000\n connect { sidecar_service {} }\n}\n"
	if out, errs, err := weft(env, good, append(register, "-")...); err != nil {
		t.Fatal(err, out, errs)
	}
	envoyCommand := []string{"connect", "envoy", "-sidecar-for", "good", "-admin-bind", "127.0.0.1:0", "-envoy-binary"}
	for _, c := range []struct {
		name string
		args []string
		want []string // of the message
	}{
		{"unknown field", append(register, file("unknown.hcl", "service {\n name = \"x\"\n prot = 1\n}\n")), []string{"unknown.hcl", "3", "prot", "port"}},
		{"wrong type", append(register, file("type.hcl", "service {\n name = \"x\"\n port = \"many\"\n}\n")), []string{"type.hcl", "3", "port", "number"}},
		{"two services of one ID", append(register, file("twice.hcl", "service {\n name = \"x\"\n port = 1\n}\nservice {\n name = \"x\"\n port = 2\n}\n")), []string{"twice.hcl", `"x"`, "another id"}},
		{"port out of range", append(register, file("port.hcl", "service {\n name = \"x\"\n port = 70000\n}\n")), []string{`"x"`, "70000", "65535"}},
		{"upstream to itself", append(register, file("self.hcl", "service {\n name = \"x\"\n port = 1\n connect { sidecar_service { proxy { upstreams { destination_name = \"x\"\n local_bind_port = 2 } } } }\n}\n")), []string{"upstream", `"x"`, "itself"}},
		{"invalid UTF-8", append(register, file("utf8.hcl", "service {\n name = \"x\xff\"\n port = 1\n}\n")), []string{"utf8.hcl", "UTF-8"}},
		{"syntax", append(register, file("syntax.hcl", "service {\n name = \"x\"\n")), []string{"syntax.hcl"}},
		{"no file", append(register, filepath.Join(dir, "none.hcl")), []string{"none.hcl", "no such file"}},
		{"no agent", append(register, "-http-addr", loopback(mustPort(t)), file("good.hcl", good)), []string{"no agent answers", "-http-addr"}},
		{"sidecar of nobody", []string{"connect", "proxy", "-sidecar-for", "nobody"}, []string{"nobody", "registered"}},
		{"malformed intention", []string{"intention", "create", "-allow", "web"}, []string{"source", "destination"}},
		{"intention of a bad name", []string{"intention", "create", "-allow", "we*b", "api"}, []string{"we*b"}},
		{"intention both ways", []string{"intention", "create", "-allow", "-deny", "web", "api"}, []string{"-allow", "-deny"}},
		{"deny where an allow stands", []string{"intention", "create", "-deny", "web", "api"}, []string{"stands already", "-replace"}},
		{"entry of an unknown kind", []string{"config", "write", file("kind.hcl", "kind = \"service-default\"\nname = \"web\"\n")}, []string{"kind.hcl", "service-default", "service-defaults"}},
		{"entry with an unknown field", []string{"config", "write", file("entry.hcl", "kind = \"service-defaults\"\nname = \"web\"\nprotcol = \"http\"\n")}, []string{"entry.hcl", "protcol"}},
		{"entry without a name", []string{"config", "write", file("noname.hcl", "kind = \"service-defaults\"\n")}, []string{"noname.hcl", "name"}},
		{"Envoy missing", append(envoyCommand, filepath.Join(dir, "no-envoy")), []string{"no-envoy", "install", "weft connect proxy"}},
		{"Envoy too old", append(envoyCommand, old), []string{"1.22.3", "1.40", "-ignore-envoy-compatibility"}},
		{"unknown command", []string{"servces", "list"}, []string{"servces", "weft demo"}},
		{"no data directory", []string{"agent", "-server"}, []string{"data_dir", "-dev"}},
		{"unknown key", []string{"validate", file("agent.hcl", "servr = true\n")}, []string{"agent.hcl", "1", "servr", "server"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, err := weft(env, "", c.args...)
			if err == nil {
				t.Fatalf("it was taken: %s%s", out, errs)
			}
			if strings.Contains(errs, "goroutine ") {
				t.Errorf("it panics")
			}
			for _, want := range c.want {
				if !strings.Contains(errs, want) {
					t.Errorf("the message doesn't say %q", want)
				}
			}
			if t.Failed() {
				t.Logf("the message: %s", errs)
			}
		})
	}
	var all map[string]object
	if err := w.do(http.MethodGet, "/v1/agent/services", nil, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all["good"] == nil {
		t.Errorf("%d services are registered, want good and its sidecar alone: something was half applied: %v", len(all), all)
	}
	if err := w.do(http.MethodGet, "/v1/config/service-defaults/web", nil, nil); err == nil {
		t.Error("a refused config entry is there")
	}
	var check struct{ Allowed bool }
	if err := w.do(http.MethodGet, "/v1/connect/intentions/check?source=web&destination=api", nil, &check); err != nil || !check.Allowed {
		t.Errorf("the intention that stood has changed: %v", err)
	}
}

// TestBigInput: a body of 100 MB is refused, 10,000 registrations in one file are taken, and a data directory of a newer
// version is left alone.
func TestBigInput(t *testing.T) {
	enabled(t)
	w := mustWorld(t, Builtin, "allow")
	env := []string{"WEFT_HTTP_ADDR=" + loopback(w.http)}
	t.Run("body of 100 MB", func(t *testing.T) {
		req, err := http.NewRequest(http.MethodPut, "http://"+loopback(w.http)+"/v1/agent/service/register",
			bytes.NewReader(append([]byte(`{"Name":"`), bytes.Repeat([]byte("x"), 100<<20)...)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatalf("want an answer that says why, got %v", err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s, want 413", resp.Status)
		}
	})
	t.Run("10000 registrations", func(t *testing.T) {
		var b strings.Builder
		const n = 10000
		for i := range n {
			fmt.Fprintf(&b, "service {\n name = \"s%d\"\n port = 9000\n}\n", i)
		}
		path := filepath.Join(t.TempDir(), "many.hcl")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, errs, err := weft(env, "", "services", "register", path); err != nil {
			t.Fatal(err, errs)
		}
		var all map[string]object
		if err := w.do(http.MethodGet, "/v1/agent/services", nil, &all); err != nil || len(all) != n {
			t.Errorf("%d services, %v; want %d", len(all), err, n)
		}
		inCatalog(t, w, n)
		t.Logf("in the catalog after %v", time.Since(start))
	})
	t.Run("10000 in the configuration", func(t *testing.T) {
		var b strings.Builder
		const n = 10000
		for i := range n {
			fmt.Fprintf(&b, "service {\n name = \"c%d\"\n port = 9000\n}\n", i)
		}
		w := mustWorld(t, Builtin, "allow")
		if err := w.agent.stop(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "many.hcl")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		w.args = append(w.args, "-config-file", path)
		if err := w.startAgent(); err != nil {
			t.Fatal(err)
		}
		inCatalog(t, w, n)
	})
}

// inCatalog waits until the catalog has this many services.
func inCatalog(t *testing.T, w *World, n int) {
	t.Helper()
	if _, err := tryUntil(time.Minute, func() error {
		var names map[string][]string
		if err := w.do(http.MethodGet, "/v1/catalog/services", nil, &names); err != nil {
			return err
		}
		if len(names) < n {
			return fmt.Errorf("%d services", len(names))
		}
		return nil
	}); err != nil {
		t.Errorf("the catalog: %v", err)
	}
}
