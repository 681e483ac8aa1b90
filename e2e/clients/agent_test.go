// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// enabled skips a test unless end-to-end tests were asked for.
func enabled(t *testing.T) {
	t.Helper()
	if os.Getenv("WEFT_E2E") != "1" {
		t.Skip("runs another program: set WEFT_E2E=1 and WEFT_BINARY, or run `make clients`")
	}
}

// freePorts finds ports that nobody listens on just now.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// until tries f again and again, and fails the test if it never succeeds.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-tick.C
	}
}

// agent runs a dev agent until the test ends and gives a client of it.
func agent(t *testing.T) *api.Client {
	t.Helper()
	return clientOf(t, agentAt(t))
}

func clientOf(t *testing.T, address string) *api.Client {
	t.Helper()
	c, err := api.NewClient(&api.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// agentAt runs a dev agent until the test ends and gives the address of its HTTP API.
func agentAt(t *testing.T) string {
	t.Helper()
	ports := freePorts(t, 2)
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.json")
	text := fmt.Sprintf(`{"node_name":"host","ports":{"http":%d,"grpc":%d,"dns":-1,"serf_lan":%d}}`, ports[0], ports[1], freePorts(t, 1)[0])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Getenv("WEFT_BINARY"), "agent", "-dev", "-config-file", file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			data, _ := os.ReadFile(log.Name())
			t.Logf("the agent's log:\n%s", data)
		}
	})
	address := "127.0.0.1:" + strconv.Itoa(ports[0])
	c := clientOf(t, address)
	until(t, "the node in the catalog", func() error {
		n, _, err := c.Catalog().Node("host", nil)
		if err == nil && n == nil {
			err = fmt.Errorf("not there")
		}
		return err
	})
	return address
}
