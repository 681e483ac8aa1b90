// SPDX-License-Identifier: Apache-2.0

package check

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
)

func script(text string) local.CheckDefinition {
	return local.CheckDefinition{ScriptArgs: []string{"/bin/sh", "-c", text}}
}

// A program's exit code is the status, the end of what it says the output; what it started ends with it.
func TestScript(t *testing.T) {
	expect(t, script("echo fine; echo and well >&2"), catalog.HealthPassing, "fine\nand well\n")
	expect(t, script("echo so so; exit 1"), catalog.HealthWarning, "so so")
	expect(t, script("exit 3"), catalog.HealthCritical, "")
	expect(t, script("kill -9 $$"), catalog.HealthCritical, "")
	expect(t, script("seq 1000"), catalog.HealthPassing, "Captured 64 of 3893 bytes\n...\n")
	if _, out := ask(t, script("seq 1000")); !strings.HasSuffix(out, "\n999\n1000\n") {
		t.Errorf("the end is lost: %q", out)
	}
	expect(t, local.CheckDefinition{ScriptArgs: []string{"/nonexistent"}}, catalog.HealthCritical, "no such file")
	slow := script("sleep 60 & wait")
	slow.Timeout = 50 * time.Millisecond
	begin := time.Now()
	expect(t, slow, catalog.HealthCritical, "Timed out (50ms) running check")
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A script that doesn't end in time is critical at once, however many failures that would take.
func TestScriptBreaks(t *testing.T) {
	p := newProbe(&local.CheckDefinition{ScriptArgs: []string{"/nonexistent"}, FailuresBeforeCritical: 3}, nil).(*scriptProbe)
	if p.ask(t.Context()); !p.abrupt() {
		t.Error("a program that isn't there counts as an answer")
	}
}

func TestUDP(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, local.CheckDefinition{UDP: silent.LocalAddr().String(), Timeout: 50 * time.Millisecond}, catalog.HealthPassing, "UDP connect "+silent.LocalAddr().String()+": Success")
	gone := silent.LocalAddr().String()
	if err := silent.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, local.CheckDefinition{UDP: gone, Timeout: 5 * time.Second}, catalog.HealthCritical, "refused")
}

func TestH2Ping(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	addr := s.Listener.Addr().String()
	expect(t, local.CheckDefinition{H2PING: addr, TLSSkipVerify: true}, catalog.HealthPassing, "HTTP2 ping was successful")
	expect(t, local.CheckDefinition{H2PING: addr}, catalog.HealthCritical, "certificate")
	off := false
	expect(t, local.CheckDefinition{H2PING: addr, H2PingUseTLS: &off, Timeout: 5 * time.Second}, catalog.HealthCritical, "")
	expect(t, local.CheckDefinition{H2PING: nobody(t)}, catalog.HealthCritical, "refused")
	plain := httptest.NewUnstartedServer(http.NotFoundHandler())
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	defer plain.Close()
	expect(t, local.CheckDefinition{H2PING: plain.Listener.Addr().String(), H2PingUseTLS: &off}, catalog.HealthPassing, "HTTP2 ping was successful")
}
