// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftmesh/weft/server"
)

// serving runs a server with its API until the test ends.
func serving(t *testing.T, c server.Config) (url string) {
	t.Helper()
	s, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	web := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		cancel()
		web.CloseClientConnections()
		web.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-s.Ready()
	return web.URL
}

// realServer is one that knows its own node.
func realServer(t *testing.T) string {
	t.Helper()
	url := serving(t, server.Config{Datacenter: "dc1", NodeName: "s1"})
	req, err := http.NewRequest(http.MethodPut, url+"/v1/catalog/register", strings.NewReader(`{"Node":"s1","Address":"127.0.0.1"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
	return url
}

// reading is held while flags are read: urfave/cli's own help flag is one for all commands of a process, of which there is only one
// outside of tests.
var reading sync.Mutex

// runs runs a command at an address.
func runs(ctx context.Context, url, stdin string, args ...string) result {
	var out, errout bytes.Buffer
	reading.Lock()
	read := sync.OnceFunc(reading.Unlock)
	defer read()
	code := Run(ctx, Env{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errout, Getenv: func(k string) string {
		read() // the environment is looked at when the flags were
		return map[string]string{"WEFT_HTTP_ADDR": url, "SHELL": "/bin/sh"}[k]
	}}, append([]string{"weft"}, args...))
	return result{code, out.String(), errout.String()}
}

func TestKVCommands(t *testing.T) {
	url := realServer(t)
	file := write(t, "value", "from a file")
	for _, c := range []struct {
		args  string
		stdin string
		code  int
		out   string
		err   string
	}{
		{args: "kv get none", code: 1, err: "Error! No key exists at: none"},
		{args: "kv get", code: 1, err: "Error! Missing KEY argument"},
		{args: "kv put", code: 1, err: "Error! Missing KEY argument"},
		{args: "kv put app/a one", out: "Success! Data written to: app/a\n"},
		{args: "kv put -flags=42 /app/b/c @" + file, out: "Success! Data written to: app/b/c\n"},
		{args: "kv put app/stdin -", stdin: "typed", out: "Success! Data written to: app/stdin\n"},
		{args: "kv put -base64 app/b64 aGVsbG8=", out: "Success! Data written to: app/b64\n"},
		{args: "kv put -base64 app/b64 !", code: 1, err: "Error! Cannot base 64 decode data"},
		{args: "kv put -cas -modify-index=0 app/a x", code: 1, err: "Error! Did not write to app/a: CAS failed"},
		{args: "kv put --cas app/new x", out: "Success! Data written to: app/new\n"},
		{args: "kv put -acquire app/a", code: 1, err: "Missing -session"},
		{args: "kv put -release -session nope app/a x", code: 1, err: "Error! Did not release lock"},
		{args: "kv get app/a", out: "one\n"},
		{args: "kv get /app/a", out: "one\n"},
		{args: "kv get -base64 app/a", out: "b25l\n"},
		{args: "kv get -detailed app/b/c", out: "Flags            42\nKey              app/b/c\nLockIndex        0\n"},
		{args: "kv get -keys app/", out: "app/a\napp/b/\napp/b64\napp/new\napp/stdin\n"},
		{args: "kv get -keys -separator= app/b", out: "app/b/c\napp/b64\n"},
		{args: "kv get -recurse app/b", out: "app/b/c:from a file\napp/b64:hello\n"},
		{args: "kv get -recurse none"},
		{args: "kv export app/b", out: "[\n\t{\n\t\t\"key\": \"app/b/c\",\n\t\t\"flags\": 42,\n\t\t\"value\": \"ZnJvbSBhIGZpbGU=\"\n\t},"},
		{args: "kv import -prefix=copy/ -", stdin: `[{"key":"x","flags":7,"value":"aGk="}]`, out: "Imported: copy/x\n"},
		{args: "kv import -", stdin: `{`, code: 1, err: "what kv export prints"},
		{args: "kv get -detailed copy/x", out: "Flags            7"},
		{args: "kv delete -cas app/a", code: 1, err: "Must specify -modify-index"},
		{args: "kv delete -cas -modify-index=1 app/a", code: 1, err: "CAS failed"},
		{args: "kv delete app/a", out: "Success! Deleted key: app/a\n"},
		{args: "kv delete app/a", out: "Success! Deleted key: app/a\n"},
		{args: "kv delete -recurse app/", out: "Success! Deleted keys with prefix: app/\n"},
		{args: "kv get -keys -separator=", out: "copy/x\n"},
		{args: "watch -type=key -key=copy/x", out: `"Value": "aGk="`},
		{args: "watch -type=key -key=none", out: "null\n"},
		{args: "watch -type=keyprefix -prefix=copy/", out: "[\n    {"},
		{args: "watch -type=nodes", out: `"Node": "s1"`},
		{args: "watch -type=service", code: 1, err: "-type=service needs -service"},
		{args: "watch -type=odd", code: 1, err: "-type=odd: want key"},
		{args: "watch", code: 1, err: "Watch -type must be specified"},
		{args: "services export -name=db", code: 1, err: "Missing the required -consumer-peers"},
		{args: "services export -name=db -consumer-peers=east,west", out: `Successfully exported service "db" to east, west`},
		{args: "services export -name=db -consumer-peers=west,north", out: "to west, north"},
		{args: "services exported-services", out: "db       east, north, west"},
		{args: "services exported-services -format=json", out: `"Peers": [`},
		{args: "catalog nodes -detailed", out: "TaggedAddresses"},
		{args: "catalog nodes -service=none", out: "Node  ID  Address  DC\n"},
		{args: "catalog services -node=s1"},
		{args: "catalog services -node-meta=a=b -tags"},
		{args: "config list -kind=exported-services -filter=Name==default", out: "default\n"},
		{args: "config list -kind=exported-services -filter=Name==x"},
		{args: "lock", code: 1, err: "Key prefix and program must be given"},
		{args: "lock -n=0 a b", code: 1, err: "-n must be 1 or more"},
	} {
		got := runs(t.Context(), url, c.stdin, strings.Fields(c.args)...)
		if got.code != c.code || !strings.Contains(got.out, c.out) || !strings.Contains(got.errout, c.err) || c.out == "" && got.out != "" {
			t.Errorf("weft %s: %d\n%s%s\nwant %d %s %s", c.args, got.code, got.out, got.errout, c.code, c.out, c.err)
		}
	}
}

// held waits until a key is there, and gives it.
func held(t *testing.T, url, key string) kvPair {
	t.Helper()
	index := ""
	for {
		resp, err := http.Get(url + "/v1/kv/" + key + "?wait=10s&index=" + index)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		var list []kvPair
		if resp.StatusCode == 200 && json.Unmarshal(body, &list) == nil && list[0].Session != "" {
			return list[0]
		}
		index = resp.Header.Get("X-Consul-Index")
	}
}

func TestLockCommand(t *testing.T) {
	url := realServer(t)
	dir := t.TempDir()
	program := func(text string) string { return strings.ReplaceAll(text, "DIR", dir) }
	if got := runs(t.Context(), url, "", "lock", "-verbose", "l", program("echo $WEFT_LOCK_HELD > DIR/ran")); got.code != 0 || !strings.Contains(got.errout, "Lock acquired") {
		t.Fatalf("%+v", got)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "ran")); err != nil || string(data) != "true\n" {
		t.Errorf("%q, %v", data, err)
	}
	if got := runs(t.Context(), url, "", "kv", "get", "-keys", "-separator=", ""); strings.TrimSpace(got.out) != "" {
		t.Errorf("left behind: %s", got.out)
	}
	if got := runs(t.Context(), url, "", "lock", "l", "exit 3"); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if got := runs(t.Context(), url, "", "lock", "-child-exit-code", "l", "exit 3"); got.code != 2 {
		t.Errorf("%+v", got)
	}
	for _, n := range []string{"1", "2"} {
		holding := make(chan result, 2)
		ctx, cancel := context.WithCancel(t.Context())
		count := 1
		if n == "2" {
			count = 2
		}
		for range count {
			go func() { holding <- runs(ctx, url, "", "lock", "-n="+n, "held"+n, "exec sleep 60") }()
		}
		var session string
		if n == "1" {
			session = held(t, url, "held1/.lock").Session
		} else {
			for { // until both have a slot
				got := runs(t.Context(), url, "", "kv", "get", "held2/.lock")
				if strings.Count(got.out, "true") == 2 {
					break
				}
			}
		}
		if got := runs(t.Context(), url, "", "lock", "-n="+n, "-timeout=300ms", "held"+n, "true"); got.code != 1 || !strings.Contains(got.errout, "Lock acquisition failed") {
			t.Errorf("%+v", got)
		}
		if n == "1" { // the holder's session is ended: its program is too
			req, _ := http.NewRequest(http.MethodPut, url+"/v1/session/destroy/"+session, nil)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		} else {
			cancel()
		}
		for range count {
			select {
			case got := <-holding:
				if n == "1" && (got.code != 1 || !strings.Contains(got.errout, "the lock was lost")) {
					t.Errorf("%+v", got)
				}
				if n == "2" && got.code != 0 {
					t.Errorf("%+v", got)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the holder goes on")
			}
		}
		cancel()
	}
}

func TestWatchCommand(t *testing.T) {
	url := realServer(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan result, 1)
	fifo := filepath.Join(dir, "out")
	go func() {
		ended <- runs(ctx, url, "", "watch", "-type=key", "-key=w", "cat >> "+fifo+"; echo $CONSUL_INDEX >> "+fifo)
	}()
	seen := func(text string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if data, _ := os.ReadFile(fifo); strings.Contains(string(data), text) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the program wasn't told of %q", text)
			}
			<-tick.C
		}
	}
	seen("null")
	runs(t.Context(), url, "", "kv", "put", "w", "one")
	seen(`"Value": "b25l"`)
	runs(t.Context(), url, "", "kv", "put", "w", "two")
	seen(`"Value": "dHdv"`)
	cancel()
	if got := <-ended; got.code != 0 {
		t.Errorf("%+v", got)
	}
	if got := runs(t.Context(), url, "", "watch", "-type=key", "-key=w", "exit 4"); got.code != 1 || !strings.Contains(got.errout, "program failed") {
		t.Errorf("%+v", got)
	}
}
