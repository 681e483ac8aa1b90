// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
)

func ask(t *testing.T, d local.CheckDefinition) (status, output string) {
	t.Helper()
	d.OutputMaxSize = 64
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return newProbe(&d, nil).ask(ctx)
}

func expect(t *testing.T, d local.CheckDefinition, status, output string) {
	t.Helper()
	got, text := ask(t, d)
	if got != status || !strings.Contains(text, output) {
		t.Errorf("%s: %s %q, want %s with %q", d.Type(), got, text, status, output)
	}
}

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestHTTP(t *testing.T) {
	hang := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("X-A") != "1" || r.Host != "web.example" {
			w.WriteHeader(http.StatusTeapot)
		}
		_, _ = w.Write([]byte(strings.Repeat("y", 1000)))
	})
	mux.HandleFunc("/busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.Handle("/moved", http.RedirectHandler("/busy", http.StatusFound))
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	defer close(hang)
	expect(t, local.CheckDefinition{HTTP: s.URL + "/ok", Method: "POST", Header: map[string][]string{"x-a": {"1"}, "Host": {"web.example"}}}, catalog.HealthPassing, "200 OK Output: yyy")
	expect(t, local.CheckDefinition{HTTP: s.URL + "/busy"}, catalog.HealthWarning, "429")
	expect(t, local.CheckDefinition{HTTP: s.URL + "/bad"}, catalog.HealthCritical, "500")
	expect(t, local.CheckDefinition{HTTP: s.URL + "/moved"}, catalog.HealthWarning, "429")
	expect(t, local.CheckDefinition{HTTP: s.URL + "/moved", DisableRedirects: true}, catalog.HealthCritical, "302")
	expect(t, local.CheckDefinition{HTTP: s.URL + "/hang", Timeout: 20 * time.Millisecond}, catalog.HealthCritical, "")
	expect(t, local.CheckDefinition{HTTP: "http://" + nobody(t)}, catalog.HealthCritical, "refused")
	expect(t, local.CheckDefinition{HTTP: "::"}, catalog.HealthCritical, "")
	if _, output := ask(t, local.CheckDefinition{HTTP: s.URL + "/ok"}); strings.Count(output, "y") > 64 {
		t.Errorf("the output isn't bounded: %d bytes", len(output))
	}
	tls := httptest.NewUnstartedServer(mux)
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	defer tls.Close()
	expect(t, local.CheckDefinition{HTTP: tls.URL + "/busy"}, catalog.HealthCritical, "certificate")
	expect(t, local.CheckDefinition{HTTP: tls.URL + "/busy", TLSSkipVerify: true}, catalog.HealthWarning, "429")
	expect(t, local.CheckDefinition{TCP: tls.Listener.Addr().String(), TCPUseTLS: true, TLSSkipVerify: true}, catalog.HealthPassing, "TCP+TLS connect")
}

// With the agent's own TLS a check believes its CA, and shows its certificate.
func TestOwnTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	d := local.CheckDefinition{HTTP: s.URL}
	for want, own := range map[string]*tls.Config{
		"certificate": nil, "403": {RootCAs: roots}, "200 OK": {RootCAs: roots, Certificates: s.TLS.Certificates},
	} {
		if _, output := newProbe(&d, own).ask(t.Context()); !strings.Contains(output, want) {
			t.Errorf("%q, want %q", output, want)
		}
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	expect(t, local.CheckDefinition{TCP: l.Addr().String()}, catalog.HealthPassing, "Success")
	expect(t, local.CheckDefinition{TCP: nobody(t)}, catalog.HealthCritical, "refused")
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, h := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(s, h)
	h.SetServingStatus("ill", healthpb.HealthCheckResponse_NOT_SERVING)
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	addr := l.Addr().String()
	expect(t, local.CheckDefinition{GRPC: addr}, catalog.HealthPassing, "success")
	expect(t, local.CheckDefinition{GRPC: addr + "/ill"}, catalog.HealthCritical, "NOT_SERVING")
	expect(t, local.CheckDefinition{GRPC: addr + "/none"}, catalog.HealthCritical, "NotFound")
	start := time.Now()
	expect(t, local.CheckDefinition{GRPC: nobody(t), Timeout: 15 * time.Second}, catalog.HealthCritical, "refused")
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("a refused connection is noticed after %v", d)
	}
}

func TestThresholds(t *testing.T) {
	const p, w, c = catalog.HealthPassing, catalog.HealthWarning, catalog.HealthCritical
	for _, tt := range []struct {
		name          string
		d             local.CheckDefinition
		answers, want []string
	}{
		{"none", local.CheckDefinition{}, []string{p, c, p, w, c}, []string{p, c, p, w, c}},
		{"the first at once", local.CheckDefinition{SuccessBeforePassing: 3, FailuresBeforeCritical: 3}, []string{p, c, c, c}, []string{p, p, p, c}},
		{"the first at once, failing", local.CheckDefinition{SuccessBeforePassing: 2, FailuresBeforeCritical: 2}, []string{c, p, p}, []string{c, c, p}},
		{"in a row", local.CheckDefinition{Status: p, FailuresBeforeCritical: 2}, []string{c, p, c, c}, []string{p, p, p, c}},
		{"back", local.CheckDefinition{Status: c, SuccessBeforePassing: 2}, []string{p, c, p, p, w}, []string{c, c, c, p, w}},
		{"warning first", local.CheckDefinition{Status: p, FailuresBeforeWarning: 1, FailuresBeforeCritical: 3}, []string{c, c, c, c}, []string{w, w, c, c}},
	} {
		decide := thresholds{d: &tt.d, status: tt.d.Status}
		for i, answer := range tt.answers {
			if got := decide.next(answer); got != tt.want[i] {
				t.Errorf("%s: answer %d (%s): %s, want %s", tt.name, i+1, answer, got, tt.want[i])
			}
		}
	}
}

// bubble runs a runner over a real local state in virtual time.
func bubble(t *testing.T, f func(t *testing.T, s *local.State, r *Runner)) {
	t.Helper()
	bubbleWith(t, http.NotFoundHandler(), f)
}

func bubbleWith(t *testing.T, servers http.Handler, f func(t *testing.T, s *local.State, r *Runner)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		s, err := local.New(local.Config{Node: catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "n1"}, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		r, err := New(Config{State: s, Servers: servers, Log: log, Rand: rand.New(rand.NewPCG(1, 1))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		f(t, s, r)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func status(s *local.State, id string) (status, output string) {
	synctest.Wait()
	w, _ := s.Wanted()
	if c, ok := w.Checks[id]; ok {
		return c.Record.Status, c.Record.Output
	}
	return "gone", ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTTL(t *testing.T) {
	bubble(t, func(t *testing.T, s *local.State, r *Runner) {
		must(t, s.RegisterCheck(local.CheckDefinition{Name: "c", TTL: 10 * time.Second}, ""))
		synctest.Wait()
		report := func(st string) {
			must(t, s.SetCheck("c", st, "mine"))
			r.Heartbeat("c")
			synctest.Wait()
		}
		for range 3 {
			report(catalog.HealthPassing)
			time.Sleep(9 * time.Second)
			if got, _ := status(s, "c"); got != catalog.HealthPassing {
				t.Fatalf("expired early: %s", got)
			}
		}
		time.Sleep(2 * time.Second)
		if got, output := status(s, "c"); got != catalog.HealthCritical || output != "TTL expired (last output before timeout follows): mine" {
			t.Errorf("%s %q", got, output)
		}
		report(catalog.HealthWarning)
		if got, _ := status(s, "c"); got != catalog.HealthWarning {
			t.Errorf("doesn't come back: %s", got)
		}
		r.Heartbeat("none") // nothing to do, and no panic
	})
}

// A service that is critical for too long goes; one that comes back in time stays.
func TestDeregisterCritical(t *testing.T) {
	bubble(t, func(t *testing.T, s *local.State, r *Runner) {
		_, err := s.Register(local.ServiceDefinition{Name: "web", Check: &local.CheckDefinition{
			ID: "c", TTL: 10 * time.Second, DeregisterCriticalServiceAfter: time.Minute,
		}}, "", false)
		must(t, err)
		must(t, s.RegisterCheck(local.CheckDefinition{Name: "node", TTL: time.Second, DeregisterCriticalServiceAfter: time.Second}, ""))
		time.Sleep(65 * time.Second) // critical for 55 s
		must(t, s.SetCheck("c", catalog.HealthPassing, ""))
		r.Heartbeat("c")
		time.Sleep(20 * time.Second) // critical for 10 s
		must(t, s.SetCheck("c", catalog.HealthCritical, "reported"))
		r.Heartbeat("c")
		time.Sleep(45 * time.Second)
		if got, _ := status(s, "c"); got != catalog.HealthCritical {
			t.Fatalf("%s, want critical", got)
		}
		time.Sleep(6 * time.Second)
		if w, _ := s.Wanted(); len(w.Services) != 0 {
			t.Error("still registered after a minute")
		}
		if got, _ := status(s, "node"); got != catalog.HealthCritical {
			t.Errorf("the node's check: %s", got)
		}
	})
}

func TestReaper(t *testing.T) {
	r := reaper{after: time.Minute}
	now := time.Unix(0, 0)
	for i, c := range []struct {
		status string
		at     time.Duration
		want   bool
	}{
		{catalog.HealthCritical, 0, false},
		{catalog.HealthCritical, 59 * time.Second, false},
		{catalog.HealthCritical, time.Minute, true},
		{catalog.HealthPassing, 61 * time.Second, false},
		{catalog.HealthCritical, 62 * time.Second, false},
		{catalog.HealthCritical, 122 * time.Second, true},
	} {
		if got := r.due(c.status, now.Add(c.at)); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}

func TestAlias(t *testing.T) {
	bubble(t, func(t *testing.T, s *local.State, _ *Runner) {
		must(t, s.RegisterCheck(local.CheckDefinition{Name: "a", AliasService: "web"}, ""))
		if got, output := status(s, "a"); got != catalog.HealthCritical || !strings.Contains(output, "web is not registered") {
			t.Errorf("%s %q", got, output)
		}
		_, err := s.Register(local.ServiceDefinition{Name: "web", Checks: []local.CheckDefinition{{ID: "c1", TTL: time.Hour}, {ID: "c2", TTL: time.Hour, Status: catalog.HealthPassing}}}, "", false)
		must(t, err)
		for _, st := range []string{catalog.HealthPassing, catalog.HealthWarning, catalog.HealthCritical} {
			must(t, s.SetCheck("c1", st, "because"))
			if got, _ := status(s, "a"); got != st {
				t.Errorf("%s, want %s", got, st)
			}
		}
		must(t, s.SetCheck("c1", catalog.HealthPassing, ""))
		must(t, s.SetMaintenance("", true, "")) // the node's checks count too
		if got, _ := status(s, "a"); got != catalog.HealthCritical {
			t.Errorf("%s while the node is in maintenance", got)
		}
		must(t, s.SetMaintenance("", false, ""))
		must(t, s.DeregisterCheck("a"))
		must(t, s.SetCheck("c1", catalog.HealthCritical, ""))
		if got, _ := status(s, "a"); got != "gone" {
			t.Errorf("a removed alias reports %s", got)
		}
	})
}

// TestC117_ACheckIsLedNowhere: what is checked can't have the agent ask another host, in whatever form its address comes.
func TestC117_ACheckIsLedNowhere(t *testing.T) {
	var asked atomic.Int64
	secret := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1) }))
	defer secret.Close()
	port := secret.URL[strings.LastIndex(secret.URL, ":"):]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
	}))
	defer s.Close()
	for _, host := range []string{"[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "localhost", "127.1", "[::ffff:a9fe:a9fe]", "169.254.169.254", "127.0.0.1.nip.io"} {
		expect(t, local.CheckDefinition{HTTP: s.URL + "/?to=" + url.QueryEscape("http://"+host+port+"/")}, catalog.HealthCritical, "302")
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("another host was asked %d times", n)
	}
	expect(t, local.CheckDefinition{HTTP: s.URL + "/?to=" + url.QueryEscape("http://127.0.0.1"+port+"/")}, catalog.HealthPassing, "200") // the control
	if asked.Load() != 1 {
		t.Error("the same host isn't asked")
	}
}
