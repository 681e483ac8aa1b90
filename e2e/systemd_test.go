// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnits: systemd takes the units that the documentation hands out.
func TestUnits(t *testing.T) {
	enabled(t)
	units, err := filepath.Glob("../website/systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, unit := range units {
		t.Run(filepath.Base(unit), func(t *testing.T) {
			data, err := os.ReadFile(unit)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(data, []byte("/usr/local/bin/weft ")) {
				t.Error("it doesn't start /usr/local/bin/weft")
			}
			name := strings.Replace(filepath.Base(unit), "@.", "@web.", 1)
			path := filepath.Join(t.TempDir(), name)
			// systemd looks whether the program is there.
			if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte("/usr/local/bin/weft "), []byte(binary()+" ")), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
			if err != nil || len(bytes.TrimSpace(out)) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		})
	}
}
