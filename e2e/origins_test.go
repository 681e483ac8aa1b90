// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// origin is a web server, in whose own words what reached it is told: each request's method and path as the server
// understood it. Below /admin/secret is what nobody may reach.
type origin struct {
	name string
	port int
	log  func() ([]string, error) // all requests so far, "METHOD PATH"
}

// goOrigin is net/http.
func goOrigin(t *testing.T) *origin {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []string
	note := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a body that breaks off is its sender's affair
		mu.Lock()
		seen = append(seen, r.Method+" "+r.URL.Path)
		mu.Unlock()
		_, _ = io.WriteString(w, "ok")
	}
	s := &http.Server{Handler: http.HandlerFunc(note)}
	go func() { _ = s.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = s.Close() })
	return &origin{"go", l.Addr().(*net.TCPAddr).Port, func() ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...), nil
	}}
}

// program runs a web server in the foreground, with a configuration in a folder of its own that is made for its port.
func program(t *testing.T, name string, binary, conf string, args func(dir string) []string) *origin {
	t.Helper()
	path, err := exec.LookPath(binary)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%v: run `make e2e`, which installs it", err)
		}
		t.Skipf("%v: run `make e2e`, which installs it", err)
	}
	dir, err := os.MkdirTemp("", "weft-origin-") // its workers are another user's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	port := mustPort(t)
	conf = strings.NewReplacer("{dir}", dir, "{port}", fmt.Sprint(port)).Replace(conf)
	for file, text := range map[string]string{"conf": conf, "page": "ok"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path, args(dir)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was told to
		if t.Failed() {
			t.Logf("%s: %s", name, out.String())
		}
	})
	until(t, 15*time.Second, func() error {
		return wantStatus(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/", port), http.StatusOK)
	})
	return &origin{name, port, func() ([]string, error) {
		b, err := os.ReadFile(filepath.Join(dir, "log"))
		return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' }), err
	}}
}

func nginxOrigin(t *testing.T) *origin {
	return program(t, "nginx", "nginx", `
daemon off;
worker_processes 1;
pid {dir}/pid;
error_log {dir}/error;
events { worker_connections 256; }
http {
	log_format seen escape=none "$request_method $uri";
	access_log {dir}/log seen;
	client_body_temp_path {dir}/body; proxy_temp_path {dir}/a; fastcgi_temp_path {dir}/b; uwsgi_temp_path {dir}/c; scgi_temp_path {dir}/d;
	server {
		listen 127.0.0.1:{port};
		location / { return 200 "ok"; }
	}
}`, func(dir string) []string {
		return []string{"-c", filepath.Join(dir, "conf"), "-e", filepath.Join(dir, "error")}
	})
}

func apacheOrigin(t *testing.T) *origin {
	return program(t, "apache", "apache2", `
ServerRoot {dir}
ServerName localhost
PidFile {dir}/pid
ErrorLog {dir}/error
Mutex file:{dir}
Listen 127.0.0.1:{port}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
User www-data
Group www-data
LogFormat "%m %U" seen
CustomLog {dir}/log seen
AllowEncodedSlashes NoDecode
AliasMatch "^/" "{dir}/page"
<Directory {dir}>
	Require all granted
</Directory>`, func(dir string) []string { return []string{"-DFOREGROUND", "-f", filepath.Join(dir, "conf")} })
}

// trick is an input by its number. What hides in it must reach no origin; the control is
// the same without the trick, and reaches each.
type trick struct{ id, in, control string }

func pathTricks() (all []trick) {
	get := func(target string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
	}
	for _, t := range [][3]string{
		{"C1", "//admin///secret", "//admin///open"}, {"C2", "/admin%2fsecret", "/admin%2fopen"}, {"C2", "/admin%2Fsecret", "/admin%2Fopen"},
		{"C3", `/admin\secret`, `/admin\open`}, {"C3", "/admin%5csecret", "/admin%5copen"}, {"C3", "/admin%5Csecret", "/admin%5Copen"},
		{"C4", "/x/../admin/secret", "/x/../admin/open"}, {"C4", "/x/%2e%2e/admin/secret", "/x/%2e%2e/admin/open"}, {"C4", "/x/%2E./admin/secret", "/x/%2E./admin/open"},
		{"C4", "/./admin/./secret", "/./admin/./open"}, {"C4", "/.%2e/admin/secret", "/.%2e/admin/open"}, {"C4", "/x/..%2fadmin/secret", "/x/..%2fadmin/open"},
		{"C4", "/x/..;/admin/secret", "/x/;/admin/open"},
		{"C5", "/x/%252e%252e%252fadmin%252fsecret", "/x/%252fadmin%252fopen"}, {"C5", "/%2561dmin/secret", "/%2561dmin/open"},
		{"C6", "/admin/secret#a", "/admin/open"}, {"C6", "/x#/../admin/secret", "/x"},
		{"C7", "/admin;x=y/secret", "/admin;x=y/open"}, {"C7", "/admin/secret;x=y", "/admin/open;x=y"},
		{"C8", "/admin/secret?", "/admin/open?"}, {"C8", "/admin/secret%3f", "/admin/open%3f"}, {"C8", "/admin/secret/", "/admin/open/"}, {"C8", "/admin/secret/.", "/admin/open/."},
		{"C8", "/admin/secret%20", "/admin/open%20"}, {"C8", "/admin/secret%09", "/admin/open"},
		{"C9", "/admin%00/secret", "/admin/open"}, {"C9", "/admin/secret%00", "/admin/open"}, {"C9", "/admin/secret%0d%0a", "/admin/open"}, {"C9", "/admin/\x7fsecret", "/admin/open"}, {"C9", "/admin/\xffsecret", "/admin/%ffopen"},
		{"C10", "/admin%c0%afsecret", "/admin%c0%afopen"}, {"C10", "/x/%c0%ae%c0%ae/admin/secret", "/x/%c0%ae%c0%ae/admin/open"}, {"C10", "/admin%e0%80%afsecret", "/admin%e0%80%afopen"},
		{"C11", "/%61dmin/secret", "/%61dmin/open"}, {"C11", "/admin/%73ecret", "/admin/%6fpen"},
		{"C13", "http://api/admin/secret", "http://api/admin/open"}, {"C13", "http://api//admin/./secret", "http://api//admin/./open"}, {"C13", "HTTP://api/admin/secret", "HTTP://api/admin/open"},
		{"C19", "/*/../admin/secret", "/*/../admin/open"}, {"C19", "/{a}/../admin/secret", "/{a}/../admin/open"},
	} {
		all = append(all, trick{t[0], get(t[1]), get(t[2])})
	}
	for _, h := range []string{"X-Envoy-Original-Path", "X-Original-URL", "X-Rewrite-URL", "X-Original-URI"} {
		all = append(all, trick{"C16", "GET /admin/secret HTTP/1.1\r\nHost: api\r\nConnection: close\r\n" + h + ": /admin/open\r\n\r\n", "GET /admin/open HTTP/1.1\r\nHost: api\r\nConnection: close\r\n" + h + ": /admin/open\r\n\r\n"})
	}
	return all
}

// smuggled is what hides in an input: a request of its own to whoever ends the one before it elsewhere.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: api\r\n\r\n"

func smugglingTricks() (all []trick) {
	hidden := fmt.Sprint(len(smuggled))
	post := func(fields, body string) string {
		return "POST /post HTTP/1.1\r\nHost: api\r\n" + fields + "\r\n" + body
	}
	chunked := post("Connection: close\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")
	length := post("Connection: close\r\nContent-Length: 5\r\n", "hello")
	all = append(all,
		trick{"C42 CL.TE", post("Content-Length: "+fmt.Sprint(5+len(smuggled))+"\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled), chunked},
		trick{"C43 TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", fmt.Sprintf("%x\r\n", len(smuggled))+smuggled+"\r\n0\r\n\r\n"), chunked})
	for _, te := range []string{
		"Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "Transfer-Encoding:\tchunked\t,", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked\x00",
		"Transfer-Encoding: \x0bchunked", "Transfer-Encoding\x00: chunked", "Transfer-Encoding:\r\n chunked", " Transfer-Encoding: chunked", "X: y\nTransfer-Encoding: chunked",
		"X: y\rTransfer-Encoding: chunked", "Transfer_Encoding: chunked", "Transfer-Encoding: chunk", "Transfer-Encoding: ch\xc3\xbcnked", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: cow",
	} {
		all = append(all, trick{"C44 " + te, post("Content-Length: "+fmt.Sprint(5+len(smuggled))+"\r\n"+te+"\r\n", "0\r\n\r\n"+smuggled), chunked})
	}
	for _, cl := range []string{"5\r\nContent-Length: " + hidden, hidden + "\r\nContent-Length: 5", "+5", "5, 5", "5,42", "0x5", "-1", "18446744073709551621", "5 5", "5;", "\"5\"", "５"} {
		all = append(all, trick{"C45 " + cl, post("Content-Length: "+cl+"\r\n", "hello"+smuggled), length})
	}
	for id, body := range map[string]string{
		"C46 size": "5\nhello\r\n0\r\n\r\n", "C46 data": "5\r\nhello\n0\r\n\r\n", "C46 last": "5\r\nhello\r\n0\n\r\n", "C46 end": "5\r\nhello\r\n0\r\n\n", "C47 CR": "5;a\rb\r\nhello\r\n0\r\n\r\n",
		"C47 LF": "5;a\nhello\r\n0\r\n\r\n", "C47 long": "5;" + strings.Repeat("a", 20<<10) + "\r\nhello\r\n0\r\n\r\n", "C48 overflow": "10000000000000005\r\nhello\r\n0\r\n\r\n",
		"C48 sign": "+5\r\nhello\r\n0\r\n\r\n", "C48 hex": "0x5\r\nhello\r\n0\r\n\r\n", "C48 more": "5\r\nhelloXX0\r\n\r\n", "C48 no end": "5\r\nhello\r\n0\r\nX",
		"C49 host": "5\r\nhello\r\n0\r\nHost: x\r\n\r\n", "C49 length": "5\r\nhello\r\n0\r\nContent-Length: " + hidden + "\r\n\r\n", "C49 coding": "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"C49 authorization": "5\r\nhello\r\n0\r\nAuthorization: x\r\n\r\n",
	} {
		all = append(all, trick{id, post("Transfer-Encoding: chunked\r\n", body+smuggled), chunked})
	}
	all = append(all,
		trick{"C50 CR", "POST /post HTTP/1.1\r\nHost: api\r\nX: a\r\rContent-Length: " + hidden + "\r\n\r\n" + smuggled, length},
		trick{"C50 LF", "POST /post HTTP/1.1\nHost: api\nContent-Length: 5\n\nhello" + smuggled, length},
		trick{"C50 space", post("Content-Length : 43\r\n", smuggled), length},
		trick{"C50 fold", post("X: y\r\n Content-Length: "+hidden+"\r\n", smuggled), length},
		trick{"C50 NUL", post("Content\x00-Length: 43\r\n", smuggled), length},
		trick{"C53 early", "POST /post HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: " + hidden + "\r\n\r\n" + smuggled, length},
		trick{"C53 CONNECT", "CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n" + smuggled, length},
		trick{"C54 h2c", "GET /x HTTP/1.1\r\nHost: api\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + smuggled, length})
	for _, m := range []string{"GET", "HEAD", "DELETE", "TRACE", "OPTIONS"} {
		all = append(all, trick{"C51 " + m, m + " /post HTTP/1.1\r\nHost: api\r\nConnection: close\r\nContent-Length: " + hidden + "\r\n\r\n" + smuggled, length})
	}
	return all
}

// send sends bytes on a connection of its own, and gives the statuses of what is answered until it is closed or silent.
func send(addr, in string) (statuses []int, err error) {
	conn, err := dialTCP(addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, in) // it may be refused before all is written
	// What isn't whole would be waited for. Who gets an answer first hasn't ended before it.
	defer time.AfterFunc(time.Second, func() { _ = conn.(*net.TCPConn).CloseWrite() }).Stop()
	for r := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(r, &http.Request{Method: strings.SplitN(in, " ", 2)[0]})
		if err != nil {
			return statuses, nil
		}
		_, err = io.Copy(io.Discard, resp.Body)
		statuses = append(statuses, resp.StatusCode)
		if err != nil {
			return statuses, nil
		}
	}
}

// behind is a pair of sidecars before an origin, below whose /admin/secret nobody may get, and gives where its callers call.
func (o *origin) behind(t *testing.T, w *World) (addr string) {
	m := w.mesh(t)
	m.protocol("api", "http")
	m.entry("service-intentions", "api", object{"Sources": []object{{"Name": "*", "Permissions": []object{
		{"Action": "deny", "HTTP": object{"PathPrefix": "/admin/secret"}}, {"Action": "allow", "HTTP": object{"PathPrefix": "/"}},
	}}}})
	m.instance("api", "api", o.port)
	addr = m.instance("web", "web", mustPort(t), "api").Up["api"]
	until(t, 15*time.Second, func() error { return wantStatus(h1For(), "http://"+addr+"/admin/secret", http.StatusForbidden) })
	until(t, 15*time.Second, func() error { return wantStatus(h1For(), "http://"+addr+"/", http.StatusOK) })
	return addr
}

func h1For() *http.Client { return &http.Client{Timeout: callWithin} }

var origins = []func(*testing.T) *origin{goOrigin, nginxOrigin, apacheOrigin}

// TestOrigins sends C1 to C54 through a pair of sidecars to nginx, Apache and Go's server: none of them ever understands a
// request for what is denied, or one that hides in another.
func TestOrigins(t *testing.T) {
	enabled(t)
	w := mustWorld(t, Builtin, "allow")
	for _, make := range origins {
		t.Run("", func(t *testing.T) {
			o := make(t)
			t.Logf("origin: %s", o.name)
			addr := o.behind(t, w)
			cases, answered := append(pathTricks(), smugglingTricks()...), 0
			for _, c := range cases {
				got, err := send(addr, c.control)
				if err != nil || len(got) != 1 || got[0] != http.StatusOK {
					t.Errorf("%s: the control %q is answered %v, %v", c.id, c.control, got, err)
				}
				if got, err = send(addr, c.in); err != nil {
					t.Errorf("%s: %v", c.id, err)
				}
				if len(got) > 1 {
					t.Errorf("%s: %q has %d answers: %v", c.id, c.in, len(got), got)
				}
				answered += len(got)
			}
			// What is left of an input at an origin would show with the next requests.
			for range 5 {
				if err := wantStatus(h1For(), "http://"+addr+"/after", http.StatusOK); err != nil {
					t.Error(err)
				}
			}
			log, err := o.log()
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range log {
				if strings.Contains(line, "/smuggled") || strings.Contains(line, " /admin/secret") {
					t.Errorf("%s understood %q", o.name, line)
				}
			}
			t.Logf("%s: %d inputs with a control each, %d answered, %d requests at the origin", o.name, len(cases), answered, len(log))
		})
	}
}
