// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

// script has a program with a client library do its jobs on an agent of its own: variable says where what it needs is.
func script(t *testing.T, variable string, command func(at string) []string) {
	t.Helper()
	enabled(t)
	at := os.Getenv(variable)
	if at == "" {
		t.Fatal(variable + " isn't set: run `make clients`, which installs what it names")
	}
	host, port, err := net.SplitHostPort(agentAt(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append(command(at), host, port)
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestPythonClient does with py-consul what programs in Python do with it: see pyclient.py.
func TestPythonClient(t *testing.T) {
	script(t, "WEFT_PYTHON", func(python string) []string { return []string{python, "pyclient.py"} })
}

// TestNodeClient does with the npm package consul what programs in Node.js do with it: see jsclient.js.
func TestNodeClient(t *testing.T) {
	script(t, "WEFT_NODE_MODULES", func(string) []string { return []string{"node", "jsclient.js"} })
}
