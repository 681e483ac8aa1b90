// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var interopRows = []Row{{Name: "grpc interoperability", Run: interoperability}}

// interopCases are those of grpc-go's client that need no cloud and that its own server takes.
var interopCases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "timeout_on_sleeping_server",
	"cancel_after_begin", "cancel_after_first_response", "status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service", "orca_per_rpc", "orca_oob",
}

// loadReports has the client read what servers report of their load; without it, it fails the orca cases against the server itself too.
const loadReports = `{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`

// interopSoaks open many calls, and many connections.
var interopSoaks = []string{"rpc_soak", "channel_soak"}

// interoperability runs gRPC's interoperability cases, of grpc-go's client and server, through the sidecars.
func interoperability(t *testing.T, w *World) {
	dir := os.Getenv("WEFT_INTEROP")
	if dir == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("WEFT_INTEROP names no folder: run `make e2e`, which builds grpc-go's client and server into one")
		}
		t.Skip("needs grpc-go's client and server: run `make e2e`, which builds them")
	}
	port := mustPort(t)
	server := exec.Command(filepath.Join(dir, "interop-server"), "-port", strconv.Itoa(port))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
	})
	m := w.mesh(t)
	m.protocol("api", "grpc")
	m.intend("allow", "web", "api")
	m.instance("api", "api", port)
	web := m.instance("web", "web", mustPort(t), "api")
	run := func(name string, more ...string) ([]byte, error) {
		_, to, err := net.SplitHostPort(web.Up["api"])
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		args := append([]string{"-server_host", "127.0.0.1", "-server_port", to, "-test_case", name}, more...)
		return exec.CommandContext(ctx, filepath.Join(dir, "interop-client"), args...).CombinedOutput()
	}
	until(t, 15*time.Second, func() error {
		_, err := run("empty_unary")
		return err
	})
	passed := 0
	for _, name := range interopCases {
		var more []string
		if strings.HasPrefix(name, "orca_") {
			more = []string{"-service_config_json", loadReports}
		}
		if out, err := run(name, more...); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
			continue
		}
		passed++
	}
	for _, name := range interopSoaks {
		if out, err := run(name, "-soak_iterations", "100", "-soak_num_threads", "4", "-soak_overall_timeout_seconds", "50",
			"-soak_per_iteration_max_acceptable_latency_ms", "20000"); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
			continue
		}
		passed++
	}
	t.Logf("%d of %d cases", passed, len(interopCases)+len(interopSoaks))
}
