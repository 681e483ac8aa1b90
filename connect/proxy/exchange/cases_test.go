// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// The numbered inputs that try to get past a policy or to have two readers see two things, C1 to C60. Each goes through the proxy
// as a service's sidecar has it, to net/http as the origin, and what the origin saw is the judge. Each has a control: nearly the
// same, without the trick, which passes. The tests with numbers run what has their number; security_test.go, at the root, says what isn't here, and why.

// origin is net/http with a log of what reached it.
type origin struct {
	addr string
	mu   sync.Mutex
	log  []seen
}

type seen struct {
	method, uri, host, body string
	header                  http.Header
}

func (s seen) String() string { return s.method + " " + s.uri + " " + s.body }

func newOrigin(t *testing.T) *origin {
	o := &origin{}
	o.addr = upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			body = append(body, " !"...)
		}
		o.mu.Lock()
		o.log = append(o.log, seen{r.Method, r.RequestURI, r.Host, string(body), r.Header.Clone()})
		o.mu.Unlock()
		_, _ = io.WriteString(w, "ok")
	}))
	return o
}

func (o *origin) take() []seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.log
	o.log = nil
	return l
}

// sidecar is a rig as weft configures a service's inbound side, with policies.
func sidecar(t *testing.T, upstream string, codec config.Codec, policies ...*config.Policies) *rig {
	return newRig(t, func(s *config.Snapshot) {
		l := s.Listeners["l"]
		l.Direction = config.Inbound
		l.HTTP.EscapedSlashes = config.UnescapeForward
		l.HTTP.Authorize = true
		l.HTTP.Websocket = true
		l.HTTP.HeaderTimeout = 500 * time.Millisecond
		s.Routes["routes"].Hosts[0].Authorize = policies
		s.Clusters["api"].Codec = codec
	}, upstream)
}

// patience is how long an answer may take; where a guard is taken away many are never given.
func patience() time.Duration {
	if os.Getenv("WEFT_UNGUARDED") != "" {
		return time.Second
	}
	return 10 * time.Second
}

// rawly sends bytes and gives the status of each answer, until the proxy closes. An answer that the proxy made itself says why.
func rawly(t *testing.T, r *rig, in string) (status []string) {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience()))
	go func() { _, _ = io.WriteString(conn, in) }() // the proxy may close before it has read all
	method, _, _ := strings.Cut(in, " ")
	for b := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(b, &http.Request{Method: method})
		if ne := net.Error(nil); err != nil {
			if e, ok := err.(net.Error); ok { //nolint:errorlint // the kind is wanted
				ne = e
			}
			if ne != nil && ne.Timeout() {
				status = append(status, "open")
			}
			return status
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		s := fmt.Sprint(resp.StatusCode)
		if resp.StatusCode >= 400 && resp.Header.Get(reason.Header) == "" {
			s += " by the origin"
		}
		status = append(status, s)
	}
}

func rule(kind config.RuleKind, s config.StringMatch) config.Rule {
	return config.Rule{Kind: kind, String: s}
}

// The two forms of a policy: all but the secret, and nothing but what is public.
func pathPolicy(allow bool, prefix string) *config.Policies {
	return &config.Policies{Allow: allow, Policies: []config.Policy{{
		Name: "path", Principal: config.Rule{Kind: config.Any},
		Permission: rule(config.PathIs, config.StringMatch{Kind: config.MatchPrefix, Text: prefix}),
	}}}
}

// canonical is how a slow reader takes a path: decoded once, backslashes as slashes, without dot segments.
func canonical(uri string) string {
	uri, _, _ = strings.Cut(uri, "?")
	uri, _, _ = strings.Cut(uri, "#")
	if p, err := url.PathUnescape(uri); err == nil {
		uri = p
	}
	return path.Clean("/" + strings.ReplaceAll(uri, `\`, "/"))
}

func TestC1_Slashes(t *testing.T)             { pathsCannotPass(t, "C1") }
func TestC2_EscapedSlashes(t *testing.T)      { pathsCannotPass(t, "C2") }
func TestC3_Backslashes(t *testing.T)         { pathsCannotPass(t, "C3") }
func TestC4_DotSegments(t *testing.T)         { pathsCannotPass(t, "C4") }
func TestC5_EscapedTwice(t *testing.T)        { pathsCannotPass(t, "C5") }
func TestC6_Fragments(t *testing.T)           { pathsCannotPass(t, "C6") }
func TestC7_Parameters(t *testing.T)          { pathsCannotPass(t, "C7") }
func TestC9_ControlCharacters(t *testing.T)   { pathsCannotPass(t, "C9") }
func TestC10_OverlongUTF8(t *testing.T)       { pathsCannotPass(t, "C10") }
func TestC11_EscapedLetters(t *testing.T)     { pathsCannotPass(t, "C11") }
func TestC12_EveryByteEscaped(t *testing.T)   { pathsCannotPass(t, "C12") }
func TestC13_FormsOfTargets(t *testing.T)     { pathsCannotPass(t, "C13") }
func TestC16_OtherPathsInFields(t *testing.T) { pathsCannotPass(t, "C16") }
func TestC19_PatternsInRequests(t *testing.T) { pathsCannotPass(t, "C19") }

// The end of a path; and what the policy says of one whole path holds for it with a query.
func TestC8_Ends(t *testing.T) {
	pathsCannotPass(t, "C8")
	o := newOrigin(t)
	exactly := pathPolicy(false, "/admin/secret")
	exactly.Policies[0].Permission.String.Kind = config.MatchExact
	r := sidecar(t, o.addr, config.HTTP1, exactly)
	for target, want := range map[string]string{"/admin/secret": "[403]", "/admin/secret?": "[403]", "/admin/secret?a=/public": "[403]", "/admin/open?a": "[200]", "/admin/secret/": "[200]"} {
		if got := fmt.Sprint(rawly(t, r, "GET "+target+" HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

// pathsCannotPass is class A. An input is refused, or what the origin sees is what the policy was asked about.
func pathsCannotPass(t *testing.T, id string) {
	t.Helper()
	o := newOrigin(t)
	deny := sidecar(t, o.addr, config.HTTP1, pathPolicy(false, "/admin/secret"))
	allow := sidecar(t, o.addr, config.HTTP1, pathPolicy(true, "/public"))
	for _, c := range pathCases() {
		if c.id != id {
			continue
		}
		t.Run(c.id+" "+c.target, func(t *testing.T) {
			in := "GET " + c.target + " HTTP/1.1\r\nHost: api\r\n" + c.fields + "Connection: close\r\n\r\n"
			got := rawly(t, deny, in)
			log := o.take()
			if len(got) != 1 || got[0] != c.status {
				t.Errorf("answered with %v, want %s; the origin saw %v", got, c.status, log)
			}
			for _, s := range log {
				if strings.HasPrefix(canonical(s.uri), "/admin/secret") {
					t.Errorf("the origin saw %s", s)
				}
			}
			// The same with the list of who may: what isn't public is never reached by a path that begins so.
			got = rawly(t, allow, strings.Replace(in, "GET ", "GET /public/..", 1))
			for _, s := range o.take() {
				if !strings.HasPrefix(canonical(s.uri), "/public") {
					t.Errorf("allow list: the origin saw %s (%v)", s, got)
				}
			}
			control := strings.NewReplacer("secret", "open", "SECRET", "OPEN").Replace(in)
			if c.control != "" {
				control = "GET " + c.control + " HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
			}
			if got := rawly(t, deny, control); len(got) != 1 || got[0] != "200" {
				t.Errorf("the control %q: %v", control, got)
			}
			o.take()
		})
	}
}

type pathCase struct {
	id, target, status string
	control            string // "": the target with another word than secret
	fields             string
}

func pathCases() []pathCase {
	all := []pathCase{
		{"C1", "/admin/secret", "403", "", ""},
		{"C1", "//admin///secret", "403", "", ""},
		{"C1", "/admin//secret//x", "403", "", ""},
		{"C2", "/admin%2fsecret", "403", "", ""},
		{"C2", "/admin%2Fsecret", "403", "", ""},
		{"C2", "%2fadmin/secret", "400", "/admin/open", ""},
		{"C3", `/admin\secret`, "403", "", ""},
		{"C3", `\admin\secret`, "400", "/admin/open", ""},
		{"C3", "/admin%5csecret", "403", "", ""},
		{"C3", "/admin%5Csecret", "403", "", ""},
		{"C4", "/x/../admin/secret", "403", "", ""},
		{"C4", "/x/%2e%2e/admin/secret", "403", "", ""},
		{"C4", "/x/%2E./admin/secret", "403", "", ""},
		{"C4", "/admin/./secret", "403", "", ""},
		{"C4", "/.%2e/admin/secret", "403", "", ""},
		{"C4", "/../../admin/secret", "403", "", ""},
		{"C4", "/x/..%2fadmin/secret", "403", "", ""},
		{"C4", "/x/..;/admin/secret", "400", "/x/;/admin/secret", ""},
		{"C7", "/x/..;a=b/admin/secret", "400", "/x/a=b/admin/secret", ""},
		{"C5", "/x/%252e%252e%252fadmin%252fsecret", "200", "", ""},
		{"C5", "/admin%252fsecret", "200", "", ""},
		{"C6", "/admin/secret#a", "400", "/admin/open", ""},
		{"C6", "/x#/../admin/secret", "400", "/x", ""},
		{"C7", "/admin;x=y/secret", "200", "", ""},
		{"C7", "/admin/secret;x=y", "403", "", ""},
		{"C8", "/admin/secret?", "403", "", ""},
		{"C8", "/admin/secret?a=/public", "403", "", ""},
		{"C8", "/admin/secret%3f", "403", "", ""},
		{"C8", "/admin/secret/", "403", "", ""},
		{"C8", "/admin/secret/.", "403", "", ""},
		{"C8", "/admin/secret%20", "403", "", ""},
		{"C8", "/admin/secret%09", "400", "/admin/open%20", ""},
		{"C9", "/admin%00/secret", "400", "/admin/open", ""},
		{"C9", "/admin/secret%00", "400", "/admin/open", ""},
		{"C9", "/admin/\x00secret", "400", "/admin/open", ""},
		{"C9", "/admin%0d%0a/secret", "400", "/admin/open", ""},
		{"C9", "/admin/\x7fsecret", "400", "/admin/open", ""},
		{"C9", "/admin/\xffsecret", "400", "/admin/%ffopen", ""},
		{"C10", "/admin%c0%afsecret", "200", "", ""},
		{"C10", "/admin%c1%9csecret", "200", "", ""},
		{"C10", "/admin%e0%80%afsecret", "200", "", ""},
		{"C10", "/x/%c0%ae%c0%ae/admin/secret", "200", "", ""},
		{"C11", "/%61dmin/secret", "403", "/%61dmin/open", ""},
		{"C11", "/admin/s%65cret", "403", "/admin/%6fpen", ""},
		{"C11", "/ADMIN/secret", "200", "", ""}, // paths are compared with regard to case, as origins do
		{"C13", "http://api/admin/secret", "403", "", ""},
		{"C13", "http://api//admin/%2e/secret", "403", "", ""},
		{"C13", "http://other/admin/secret", "400", "http://api/admin/open", ""},
		{"C13", "http://api?/admin/secret", "200", "", ""},
		{"C13", "api:80", "400", "/admin/open", ""},
		{"C13", "admin/secret", "400", "/admin/open", ""},
		{"C16", "/admin/secret", "403", "", "X-Envoy-Original-Path: /open\r\nX-Original-URL: /open\r\nX-Rewrite-URL: /open\r\n"},
		{"C19", "/admin/{secret}", "200", "", ""},
		{"C19", "/*/secret", "200", "", ""},
		{"C19", "/admin/secret.*", "403", "", ""},
		{"C19", "/adm[i]n/secret", "200", "", ""},
	}
	for b := range 256 { // C12
		want := "200"
		switch c := byte(b); {
		case c < ' ' || c == 0x7f:
			want = "400"
		case c == '/' || c == '\\':
			want = "403"
		}
		all = append(all, pathCase{"C12", fmt.Sprintf("/admin%%%02xsecret", b), want, "/admin%20open", ""})
	}
	return all
}

// The decision is about the path as it came, normalised, whatever the route makes of it.
func TestC17_RewrittenPaths(t *testing.T) {
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP1, pathPolicy(false, "/admin/secret"))
	r.put(func(s *config.Snapshot) {
		host := *s.Routes["routes"].Hosts[0]
		strip := *host.Routes[0]
		strip.Match.Prefix = "/v1/"
		f := *strip.Forward
		f.PrefixTo = "/"
		strip.Forward = &f
		host.Routes = append([]*config.Route{&strip}, host.Routes...)
		s.Routes = map[string]*config.RouteTable{"routes": {Name: "routes", Hosts: []*config.VirtualHost{&host}}}
	})
	for target, want := range map[string]string{
		"/v1/%2e%2e/admin/secret": "[403] []", "/v1/../admin/secret": "[403] []", "/v1/../admin/open": "[200] [GET /admin/open ]",
		"/v1/x": "[200] [GET /x ]", "/v1/admin%2fsecret": "[200] [GET /admin/secret ]", // what /v1 leads to is the route's to say
	} {
		if got := fmt.Sprint(rawly(t, r, "GET "+target+" HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"), " ", o.take()); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

// The head of a PROXY protocol, of which nobody here knows anything, is a malformed request: who calls is whose connection it is.
func TestC59_HeadsOfPROXYProtocol(t *testing.T) {
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP1)
	const get = "GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
	for name, head := range map[string]string{
		"1": "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "1 unknown": "PROXY UNKNOWN\r\n", "2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x00\x01\x00\x02",
		"2 overflow": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
	} {
		if got, log := rawly(t, r, head+get), o.take(); !refusedOnce(got, log) {
			t.Errorf("%s: %v, the origin saw %v", name, got, log)
		}
	}
	if got := fmt.Sprint(rawly(t, r, get)); got != "[200]" {
		t.Errorf("the control: %s", got)
	}
}

// Whatever new a caller asks for, no series of metrics is made for it.
func TestC76_NamesInMetrics(t *testing.T) {
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP1)
	series := func() (n int) {
		all := make(chan prometheus.Metric)
		go func() {
			r.metrics.Collect(all)
			close(all)
		}()
		for range all {
			n++
		}
		return n
	}
	ask := func(name string) {
		t.Helper()
		in := fmt.Sprintf("GET /%[1]s?token=%[1]s HTTP/1.1\r\nHost: %[1]s.example\r\nUser-Agent: %[1]s\r\nX-%[1]s: %[1]s\r\nConnection: close\r\n\r\n", name)
		if got := fmt.Sprint(rawly(t, r, in)); got != "[200]" {
			t.Fatalf("%s: %s", name, got)
		}
	}
	ask("first")
	before := series()
	for i := range 300 {
		ask(fmt.Sprint("n", i))
	}
	if n := series(); n != before || n == 0 {
		t.Errorf("%d series, %d before", n, before)
	}
}
