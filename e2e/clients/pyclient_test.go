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

// TestPythonClient does with py-consul what programs in Python do with it: see pyclient.py.
func TestPythonClient(t *testing.T) {
	enabled(t)
	python := os.Getenv("WEFT_PYTHON")
	if python == "" {
		t.Fatal("WEFT_PYTHON names no Python with py-consul: run `make clients`, which installs it")
	}
	host, port, err := net.SplitHostPort(agentAt(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, python, "pyclient.py", host, port).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
