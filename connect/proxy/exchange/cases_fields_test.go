// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/proxy/config"
)

func headerPolicy(allow bool, m config.HeaderMatch) *config.Policies {
	return &config.Policies{Allow: allow, Policies: []config.Policy{{
		Name: "field", Principal: config.Rule{Kind: config.Any}, Permission: config.Rule{Kind: config.HeaderIs, Header: &m},
	}}}
}

func TestC21_FieldsOfOneName(t *testing.T)   { fieldsCannotPass(t, "C21") }
func TestC22_Lists(t *testing.T)             { fieldsCannotPass(t, "C22") }
func TestC24_BytesBeyondASCII(t *testing.T)  { fieldsCannotPass(t, "C24") }
func TestC25_SpaceAroundValues(t *testing.T) { fieldsCannotPass(t, "C25") }

// Who reads names as CGI does takes _ for -: where that is asked for such names are refused. Otherwise it is another name.
func TestC23_NamesAlike(t *testing.T) {
	fieldsCannotPass(t, "C23")
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP1)
	r.put(func(s *config.Snapshot) {
		l := *s.Listeners["l"]
		h := *l.HTTP
		h.RejectUnderscores = true
		l.HTTP = &h
		s.Listeners = map[string]*config.Listener{"l": &l}
	})
	for name, want := range map[string]string{"x_role": "[400] 0", "X_Forwarded_Client_Cert": "[400] 0", "x-role": "[200] 1"} {
		got := rawly(t, r, "GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n"+name+": admin\r\n\r\n")
		if got := fmt.Sprint(got, len(o.take())); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// fieldsCannotPass is class B, as far as it is about what a policy sees. Each policy denies; the control is the same
// policy and a request that it is not about.
func fieldsCannotPass(t *testing.T, id string) {
	t.Helper()
	exact := func(name, v string) config.HeaderMatch {
		return config.HeaderMatch{Name: name, Value: config.StringMatch{Kind: config.MatchExact, Text: v}}
	}
	contains := func(name, v string) config.HeaderMatch {
		return config.HeaderMatch{Name: name, Value: config.StringMatch{Kind: config.MatchContains, Text: v}}
	}
	matches := func(name, v string) config.HeaderMatch {
		return config.HeaderMatch{Name: name, Value: config.StringMatch{Kind: config.MatchRegex, Regex: regexp.MustCompile("^(?:" + v + ")$")}}
	}
	present := func(name string) config.HeaderMatch { return config.HeaderMatch{Name: name, Present: true} }
	fold := func(m config.HeaderMatch) config.HeaderMatch { m.Value.CaseFold = true; return m }
	o := newOrigin(t)
	for _, c := range []struct {
		id              string
		deny            config.HeaderMatch
		in, status      string // what of the request comes after its first line; a status or "403"
		control, passes string
	}{
		// Of several fields of one name each is looked at: none gets by a rule behind another.
		{"C21", contains("x-role", "admin"), "x-role: user\r\nx-role: admin\r\n", "403", "x-role: user\r\nx-role: guest\r\n", "200"},
		{"C21", contains("x-role", "admin"), "x-role: admin\r\nx-role: user\r\n", "403", "x-role: guest\r\nx-role: user\r\n", "200"},
		{"C21", exact("x-role", "admin"), "X-Role: user\r\nx-ROLE: admin\r\n", "403", "x-role: user\r\n", "200"},
		{"C22", matches("x-role", ".*admin.*"), "x-role: \"a,b\", admin\r\n", "403", "x-role: \"a,b\"\r\n", "200"},
		{"C23", present("x-role"), "X-ROLE: a\r\n", "403", "X_ROLE: a\r\n", "200"}, // another name: nobody here takes _ for -
		{"C23", present("x-role"), "x-Role: a\r\n", "403", "x.role: a\r\n", "200"},
		{"C24", matches("x-role", "(?s).*"), "x-role: \x80\xff\r\n", "403", "x-other: \x80\xff\r\n", "200"},
		{"C24", contains("x-role", "admin"), "x-role: \xffadmin\xff\r\n", "403", "x-role: \xffuser\xff\r\n", "200"},
		{"C25", exact("x-role", "admin"), "x-role: \t admin \t\r\n", "403", "x-role: \t user \t\r\n", "200"},
		{"C25", present("x-role"), "x-role:\r\n", "403", "x-other:\r\n", "200"},
		{"C25", exact("x-role", "admin"), "x-role: ad\r\n min\r\n", "400", "x-role: ad\r\nmin: x\r\n", "200"},
		{"C26", exact(":authority", "secret.com"), "Host: secret.com\r\n", "403", "Host: open.com\r\n", "200"},
		{"C26", fold(exact(":authority", "secret.com")), "Host: SECRET.com\r\n", "403", "Host: OPEN.com\r\n", "200"},
		{"C28", exact(":authority", "secret.com"), "Host: open.com\r\nHost: secret.com\r\n", "400", "Host: open.com\r\n", "200"},
		{"C28", exact(":authority", "secret.com"), "Host: open.com,secret.com\r\n", "400", "Host: open.com\r\n", "200"},
		{"C29", exact(":method", "GET"), "X-HTTP-Method-Override: POST\r\n", "403", "", ""},
	} {
		if c.id != id {
			continue
		}
		t.Run(c.id+" "+c.in, func(t *testing.T) {
			r := sidecar(t, o.addr, config.HTTP1, headerPolicy(false, c.deny))
			request := func(fields string) string {
				if !strings.Contains(fields, "Host:") {
					fields += "Host: api\r\n"
				}
				return "GET / HTTP/1.1\r\n" + fields + "Connection: close\r\n\r\n"
			}
			if got := fmt.Sprint(rawly(t, r, request(c.in)), len(o.take())); got != "["+c.status+"] 0" {
				t.Errorf("status and requests at the origin: %s, want %s and none", got, c.status)
			}
			if c.passes == "" {
				return
			}
			if got := fmt.Sprint(rawly(t, r, request(c.control)), len(o.take())); got != "["+c.passes+"] 1" {
				t.Errorf("the control: %s", got)
			}
		})
	}
}

func TestC26_CapitalsInHosts(t *testing.T) { fieldsCannotPass(t, "C26"); hostsAndMethods(t, "C26") }
func TestC27_FormsOfHosts(t *testing.T)    { hostsAndMethods(t, "C27") }
func TestC28_TwoHosts(t *testing.T) {
	fieldsCannotPass(t, "C28")
	hostsAndMethods(t, "C28")
	http2ToHTTP1(t, "C28")
}
func TestC29_Methods(t *testing.T) { fieldsCannotPass(t, "C29"); hostsAndMethods(t, "C29") }

// hostsAndMethods: a virtual host is found by the authority in its normal form, and a method is what it is.
func hostsAndMethods(t *testing.T, id string) {
	t.Helper()
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP1, headerPolicy(false, config.HeaderMatch{Name: ":method", Value: config.StringMatch{Kind: config.MatchExact, Text: "GET"}}))
	r.put(func(s *config.Snapshot) {
		open := s.Routes["routes"].Hosts[0]
		secret := *open
		secret.Domains = []string{"secret.com", "[::1]"}
		secret.Authorize = []*config.Policies{{Allow: true}} // nobody
		s.Routes = map[string]*config.RouteTable{"routes": {Name: "routes", Hosts: []*config.VirtualHost{&secret, open}}}
	})
	for _, c := range []struct{ id, line, host, want string }{
		{"C26", "POST / HTTP/1.1", "secret.com", "[403] 0"},
		{"C26", "POST / HTTP/1.1", "SECRET.com", "[403] 0"},
		{"C27", "POST / HTTP/1.1", "secret.com:80", "[403] 0"},
		{"C27", "POST / HTTP/1.1", "SeCrEt.CoM:08443", "[403] 0"},
		{"C27", "POST / HTTP/1.1", "[::1]", "[403] 0"},
		{"C27", "POST / HTTP/1.1", "[::1]:80", "[403] 0"},
		{"C27", "POST / HTTP/1.1", "secret.com:", "[400] 0"},
		{"C27", "POST / HTTP/1.1", "secret.com:80:80", "[400] 0"},
		{"C27", "POST / HTTP/1.1", "s%65cret.com", "[400] 0"},
		{"C27", "POST / HTTP/1.1", "se\xc3\xa7ret.com", "[400] 0"},
		{"C27", "POST / HTTP/1.1", "xn--seret-yra.com", "[200] 1"},
		{"C28", "POST http://secret.com/ HTTP/1.1", "open.com", "[400] 0"},
		{"C28", "POST http://secret.com/ HTTP/1.1", "secret.com", "[403] 0"},
		{"C28", "POST http://open.com/ HTTP/1.1", "open.com", "[200] 1"},
		{"C29", "GET / HTTP/1.1", "open.com", "[403] 0"},
		{"C29", "POST / HTTP/1.1", "open.com", "[200] 1"},
		{"C29", "get / HTTP/1.1", "open.com", "[200] 1"}, // methods are compared with regard to case (RFC 9110 §9.1): it isn't GET
		{"C29", "PURGE / HTTP/1.1", "open.com", "[200] 1"},
	} {
		if c.id != id {
			continue
		}
		in := c.line + "\r\nHost: " + c.host + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
		got := rawly(t, r, in)
		log := o.take()
		if fmt.Sprint(got, len(log)) != c.want {
			t.Errorf("%s %s of %s: %v %v, want %s", c.id, c.line, c.host, got, log, c.want)
		}
		if method, _, _ := strings.Cut(c.line, " "); len(log) == 1 && log[0].method != method {
			t.Errorf("%s: the origin saw %s", c.line, log[0])
		}
	}
}

// Who calls is what the connection has proved, whatever a request says of it.
func TestC30_ForgedCallers(t *testing.T) {
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP1)
	r.put(func(s *config.Snapshot) {
		l := *s.Listeners["l"]
		h := *l.HTTP
		h.ForwardClient, h.ClientDetails = config.SanitizeSetClient, config.ClientDetails{URI: true}
		l.HTTP = &h
		s.Listeners = map[string]*config.Listener{"l": &l}
	})
	id := identity.Service{TrustDomain: "td.consul", Datacenter: "dc1", Service: "front"}
	uri, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	r.peer.Store(&config.Peer{Identity: id, URI: id.String(), TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte("x"), URIs: []*url.URL{uri}}}}})
	for name, fields := range map[string]string{
		"C30":          "X-Forwarded-Client-Cert: URI=spiffe://forged\r\n",
		"C30 twice":    "x-forwarded-client-cert: URI=spiffe://forged\r\nX-FORWARDED-CLIENT-CERT: By=forged\r\n",
		"C31":          "Connection: close, x-forwarded-client-cert\r\nX-Forwarded-Client-Cert: URI=spiffe://forged\r\n",
		"C31 capitals": "Connection: X-Forwarded-Client-Cert\r\n",
		"control":      "",
	} {
		in := "POST / HTTP/1.1\r\nHost: api\r\nConnection: close\r\nContent-Length: 0\r\n" + fields + "\r\n"
		got := rawly(t, r, in)
		log := o.take()
		if len(got) != 1 || got[0] != "200" || len(log) != 1 {
			t.Errorf("%s: %v %v", name, got, log)
			continue
		}
		if all := log[0].header.Values("X-Forwarded-Client-Cert"); len(all) != 1 || !strings.HasSuffix(all[0], ";URI="+id.String()) || strings.Contains(all[0], "forged") {
			t.Errorf("%s: the origin sees %q", name, all)
		}
	}
}

// What says who calls, and for whom, can't be taken out of a request by naming it as an affair of one connection; other fields can.
func TestC31_IdentityNamedByConnection(t *testing.T) {
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP1)
	for name, want := range map[string]string{
		"authorization": "[x]", "Cookie": "[x]", "x-forwarded-for": "[x]", "X-FORWARDED-HOST": "[x]", "X-Weft-Identity": "[x]", "traceparent": "[x]", "x-other": "[]",
	} {
		for _, options := range []string{name, "close, " + strings.ToLower(name), strings.ToUpper(name) + ",keep-alive"} {
			rawly(t, r, "GET / HTTP/1.1\r\nHost: api\r\n"+name+": x\r\nConnection: "+options+"\r\nConnection: close\r\n\r\n")
			log := o.take()
			if len(log) != 1 || fmt.Sprint(log[0].header.Values(name)) != want {
				t.Errorf("%s, named by Connection: %s: the origin sees %v", name, options, log)
			}
		}
	}
}
