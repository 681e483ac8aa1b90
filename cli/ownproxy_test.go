// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/cli/apiclient"
)

// A proxy without a registration makes one of its flags, and says why flags don't fit.
func TestOwnProxyFlags(t *testing.T) {
	const both = "-service web -listen 127.0.0.2:21000 -service-addr 127.0.0.1:8080"
	for _, c := range []struct {
		name, args, asked, err string
	}{
		{"in and out, found by others", both + " -upstream db:9191 -upstream cache:127.0.0.3:9192 -register -register-id two", `{"Kind":"connect-proxy","ID":"web-proxy-two","Name":"web-proxy","Address":"127.0.0.2",`, ""},
		{"its proxy", both + " -upstream db:9191 -upstream cache:127.0.0.3:9192 -register", `"Proxy":{"DestinationServiceName":"web","LocalServiceAddress":"127.0.0.1","LocalServicePort":8080,"Config":{"bind_address":"127.0.0.2"},"Upstreams":[{"DestinationName":"db","LocalBindPort":9191},{"DestinationName":"cache","LocalBindAddress":"127.0.0.3","LocalBindPort":9192}]}`, ""},
		{"its check", both + " -register", `"Checks":[{"ID":"web-proxy-ttl","Name":"Connect Proxy Running","Status":"passing","TTL":30000000000,"DeregisterCriticalServiceAfter":600000000000}]`, ""},
		{"not found by others", both, `{"ID":"web-proxy-unregistered","Name":"Not To Be Called"`, ""},
		{"everywhere", "-service web -listen :21000 -service-addr 127.0.0.1:8080", `"Port":21000`, ""},
		{"out alone, where nobody can call", "-service web -upstream db:9191", `"Config":{"bind_address":"127.0.0.1"}`, ""},
		{"and registered", "-service web -proxy-id p -upstream db:9191", "", "exclude each other"},
		{"nothing to do", "-service web", "", "needs -listen, for others to call it, or -upstream"},
		{"a listener for nothing", "-service web -listen :21000", "", "-listen needs -service-addr"},
		{"a service that nobody calls", "-service web -service-addr 127.0.0.1:8080 -upstream db:1", "", "-service-addr needs -listen"},
		{"found, but not reached", "-service web -upstream db:9191 -register", "", "-register needs -listen"},
		{"upstreams of a registered proxy", "-proxy-id p -upstream db:9191", "", "-upstream needs -service; a proxy that is registered takes it from its registration"},
		{"a prepared query", "-service web -upstream db.query:9191", "", "not prepared queries"},
		{"an upstream without a port", "-service web -upstream db", "", "want NAME:PORT"},
		{"an upstream at no port", "-service web -upstream db:0", "", "-upstream db"},
		{"an upstream at a name", "-service web -upstream db:here:9191", "", `"here" isn't an IP address`},
		{"an odd listener", "-service web -listen 21000 -service-addr 127.0.0.1:8080", "", "-listen"},
		{"the host proxy", "-shared -socket /x -service web", "", "-service is for the proxy of one service"},
		{"the host proxy's upstreams", "-shared -socket /x -upstream db:1", "", "-upstream is for the proxy of one service"},
	} {
		// The agent takes the registration and then knows no such proxy: the command ends, and takes the registration back.
		f := &fake{answers: map[string]string{"PUT /v1/agent/service/register": "", "PUT /v1/agent/service/deregister/web-proxy": "", "PUT /v1/agent/service/deregister/web-proxy-two": ""}}
		r := weft(t, f, "", nil, append([]string{"connect", "proxy"}, strings.Fields(c.args)...)...)
		all := strings.Join(f.asked, "\n")
		if r.code != 1 || !strings.Contains(all, c.asked) || !strings.Contains(r.errout, c.err) {
			t.Errorf("%s: %d, want %q, %q\nasked %s\n%s", c.name, r.code, c.asked, c.err, all, r.errout)
		}
		if c.asked != "" && !strings.Contains(f.asked[len(f.asked)-1], "/v1/agent/service/deregister/web-proxy") {
			t.Errorf("%s: the registration stayed: %s", c.name, all)
		}
	}
}

func TestOwnProxyLife(t *testing.T) {
	f := &fake{answers: map[string]string{"PUT /v1/agent/service/register": "", "PUT /v1/agent/service/deregister/web-proxy": ""}}
	s := httptest.NewServer(f)
	defer s.Close()
	cl, err := apiclient.New(apiclient.Config{Address: s.URL, Getenv: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	def := local.ServiceDefinition{ID: "web-proxy", Port: 21000, Meta: map[string]string{ownMeta: "1"}, Checks: []local.CheckDefinition{{ID: "web-proxy-ttl"}}}
	o := &ownProxy{cl: cl, log: slog.New(slog.DiscardHandler), def: def}
	last := func() string { return f.asked[len(f.asked)-1] }

	// An agent that has forgotten the check is told anew.
	if err := o.pass(t.Context()); err != nil || !strings.HasPrefix(last(), "PUT /v1/agent/service/register ") {
		t.Errorf("%v, %s", err, last())
	}
	// The registration of other flags is left alone, that of the same ones taken over, with its port.
	f.answers["GET /v1/agent/service/web-proxy"] = `{"Port":4000,"Meta":{"connect-proxy-flags":"2"}}`
	if err := o.register(t.Context()); err == nil || strings.HasPrefix(last(), "PUT") {
		t.Errorf("another's: %v, %s", err, last())
	}
	f.answers["GET /v1/agent/service/web-proxy"] = `{"Port":4000,"Meta":{"connect-proxy-flags":"1"}}`
	o.def.Port = 0
	if err := o.register(t.Context()); err != nil || !strings.Contains(last(), `"Port":4000`) {
		t.Errorf("its own: %v, %s", err, last())
	}
	// It goes with the process, unless there is a successor.
	over, end := context.WithCancel(t.Context())
	end()
	retired := make(chan struct{})
	if err := o.keep(over, retired); err != nil || !strings.HasPrefix(last(), "PUT /v1/agent/service/deregister/") {
		t.Errorf("%v, %s", err, last())
	}
	close(retired)
	before := len(f.asked)
	if err := o.keep(over, retired); err != nil || len(f.asked) != before {
		t.Errorf("%v, asked %s", err, f.asked[before:])
	}
}
