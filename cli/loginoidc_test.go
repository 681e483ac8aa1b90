// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// browserLogin is a weft login that waits for a browser.
type browserLogin struct {
	*testing.T
	agent    *fake
	redirect *url.URL // where the browser comes back to
	sink     string
	errout   strings.Builder
	ended    chan int
	end      context.CancelFunc
}

func beginLogin(t *testing.T, answers map[string]string, args ...string) *browserLogin {
	t.Helper()
	l := &browserLogin{T: t, agent: &fake{answers: answers}, sink: filepath.Join(t.TempDir(), "sink"), ended: make(chan int, 1)}
	agent := httptest.NewServer(l.agent)
	t.Cleanup(agent.Close)
	opener := filepath.Join(t.TempDir(), "browser")
	opened := opener + ".opened"
	if err := os.WriteFile(opener, []byte("#!/bin/sh\nprintf %s \"$1\" > "+opened+".part && mv "+opened+".part "+opened+"\n"), 0o700); err != nil { //nolint:gosec // it is a program
		t.Fatal(err)
	}
	env := map[string]string{"WEFT_HTTP_ADDR": agent.URL, "BROWSER": opener}
	out, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	l.end = cancel
	go func() {
		defer w.Close()
		l.ended <- Run(ctx, Env{Stdin: strings.NewReader(""), Stdout: w, Stderr: &l.errout, Getenv: func(k string) string { return env[k] }},
			append([]string{"weft", "login", "-method", "corp", "-type=oidc", "-oidc-callback-listen-addr=localhost:0", "-token-sink-file", l.sink}, args...))
	}()
	lines := bufio.NewScanner(out)
	printed := ""
	for lines.Scan() && !strings.HasPrefix(printed, "https://") {
		printed = strings.TrimSpace(lines.Text())
	}
	go io.Copy(io.Discard, out) //nolint:errcheck // until the command ends
	if printed == "" {
		t.Fatalf("no address is printed; %d", <-l.ended)
	}
	for range 3000 {
		if data, err := os.ReadFile(opened); err == nil {
			if string(data) != printed {
				t.Errorf("the browser was opened at %q, printed is %q", data, printed)
			}
			break
		}
		if testDeadline(t, 10*time.Millisecond) {
			break
		}
	}
	if _, err := os.Stat(opened); err != nil {
		t.Error("no browser was opened")
	}
	_, body, _ := strings.Cut(l.asked()[0], " {")
	var b struct{ RedirectURI string }
	if err := json.Unmarshal([]byte("{"+body), &b); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.redirect, err = url.Parse(b.RedirectURI); err != nil || l.redirect.Hostname() != "localhost" || l.redirect.Path != "/oidc/callback" {
		t.Fatal(b, err)
	}
	return l
}

// testDeadline waits for a moment, and says whether the test is over.
func testDeadline(t *testing.T, d time.Duration) bool {
	select {
	case <-time.After(d):
		return false
	case <-t.Context().Done():
		return true
	}
}

func (l *browserLogin) asked() []string {
	l.agent.mu.Lock()
	defer l.agent.mu.Unlock()
	return append([]string(nil), l.agent.asked...)
}

// come is a request of the callback; change makes another one of it.
func (l *browserLogin) come(query string, change func(*http.Request)) (int, string) {
	l.Helper()
	u := *l.redirect
	u.RawQuery = query
	req, err := http.NewRequestWithContext(l.Context(), http.MethodGet, u.String(), nil)
	if err != nil {
		l.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	if h := resp.Header; h.Get("Cache-Control") != "no-store" || h.Get("Referrer-Policy") != "no-referrer" || !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'") {
		l.Errorf("headers %v", h)
	}
	return resp.StatusCode, string(data)
}

const (
	authURL  = `{"AuthURL":"https://idp.example/authorize?state=s1&nonce=n"}`
	askURL   = "POST /v1/acl/oidc/auth-url"
	askToken = "POST /v1/acl/oidc/callback"
)

// TestC119_TheCallbackIsForItsLogin: the port that waits for a browser takes one request, for its own name and with its own state. What a page elsewhere
// can have a browser send, by a name that leads here or from another site, ends no login; the control is the request without that.
func TestC119_TheCallbackIsForItsLogin(t *testing.T) {
	l := beginLogin(t, map[string]string{askURL: authURL, askToken: aToken}, "-meta", "pod=a")
	for name, c := range map[string]struct {
		query  string
		change func(*http.Request)
		code   int
	}{
		"rebound name":       {"state=s1&code=evil", func(r *http.Request) { r.Host = "evil.example:" + l.redirect.Port() }, 403},
		"another port":       {"state=s1&code=evil", func(r *http.Request) { r.Host = "localhost:1" }, 403},
		"fetched by a page":  {"state=s1&code=evil", func(r *http.Request) { r.Header.Set("Sec-Fetch-Mode", "no-cors") }, 403},
		"another state":      {"state=s2&code=evil", nil, 403},
		"no state":           {"code=evil", nil, 403},
		"an error of others": {"state=&error=access_denied", nil, 403},
		"a form":             {"state=s1&code=evil", func(r *http.Request) { r.Method = http.MethodPost }, 405},
		"another place":      {"state=s1&code=evil", func(r *http.Request) { r.URL.Path = "/" }, 404},
	} {
		if code, _ := l.come(c.query, c.change); code != c.code {
			t.Errorf("%s: %d, want %d", name, code, c.code)
		}
	}
	if n := len(l.asked()); n != 1 {
		t.Fatalf("asked %q", l.asked())
	}
	code, body := l.come("state=s1&code=good", func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	})
	if code != 200 || !strings.Contains(body, "You are logged in") {
		t.Errorf("%d %s", code, body)
	}
	if code := <-l.ended; code != 0 {
		t.Errorf("%d %s", code, l.errout.String())
	}
	asked := strings.Join(l.asked(), "\n")
	if !strings.Contains(asked, `"State":"s1"`) || !strings.Contains(asked, `"Code":"good"`) || !strings.Contains(asked, `"Meta":{"pod":"a"}`) || strings.Count(asked, `"ClientNonce":""`) > 0 {
		t.Error(asked)
	}
	data, err := os.ReadFile(l.sink)
	if err != nil || string(data) != "s3cret" {
		t.Errorf("%q %v", data, err)
	}
	if info, err := os.Stat(l.sink); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// What goes wrong is said in the browser and by the command, and no token is written.
func TestLoginInBrowserFails(t *testing.T) {
	for _, c := range []struct{ name, token, query, want string }{
		{"refused by the provider", aToken, "state=s1&error=access_denied&error_description=<b>not+you</b>", "access_denied"},
		{"refused by the servers", "!403 Permission denied: the login took longer than 10m0s: begin again", "state=s1&code=c", "begin again"},
		{"no code", aToken, "state=s1", "no code"},
		{"no token", "{}", "state=s1&code=c", "no token"},
	} {
		l := beginLogin(t, map[string]string{askURL: authURL, askToken: c.token})
		code, body := l.come(c.query, nil)
		if code != 403 || !strings.Contains(body, c.want) || strings.Contains(body, "<b>") {
			t.Errorf("%s: %d %s", c.name, code, body)
		}
		if code := <-l.ended; code != 1 || !strings.Contains(l.errout.String(), c.want) {
			t.Errorf("%s: %d %s", c.name, code, l.errout.String())
		}
		if _, err := os.Stat(l.sink); err == nil {
			t.Errorf("%s: a token is written", c.name)
		}
	}
	gone := beginLogin(t, map[string]string{askURL: authURL})
	gone.end()
	if code := <-gone.ended; code == 0 {
		t.Error("a login that was given up succeeds")
	}
	for args, want := range map[string]string{
		"-type oidc -oidc-callback-listen-addr 0.0.0.0:8550":      "must be a port on this machine",
		"-type oidc -oidc-callback-listen-addr 8550":              "must be a port on this machine",
		"-type oidc -bearer-token-file x":                         "isn't for -type oidc",
		"-type jwt -oidc-callback-listen-addr localhost:1":        "bearer-token-file",
		"-type oidc -oidc-callback-listen-addr localhost:0 -meta": "flag needs an argument",
	} {
		r := weft(t, &fake{answers: map[string]string{}}, "", nil, append(strings.Fields("login -method m -token-sink-file x"), strings.Fields(args)...)...)
		if r.code != 1 || !strings.Contains(r.errout, want) {
			t.Errorf("%s: %d %s", args, r.code, r.errout)
		}
	}
	for answer, want := range map[string]string{
		`{"AuthURL":"file:///etc/passwd"}`:       "no web page's",
		`{"AuthURL":"--help"}`:                   "no web page's",
		`{"AuthURL":"https://idp.example/?x=y"}`: "without a state",
		"!403 Permission denied: auth method":    "Permission denied",
	} {
		r := weft(t, &fake{answers: map[string]string{askURL: answer}}, "", nil, strings.Fields("login -method m -type oidc -oidc-callback-listen-addr 127.0.0.1:0 -token-sink-file x")...)
		if r.code != 1 || !strings.Contains(r.errout, want) {
			t.Errorf("%s: %d %s", answer, r.code, r.errout)
		}
	}
}
