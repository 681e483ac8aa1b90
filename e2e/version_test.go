// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNewerData: a data directory that a newer weft wrote is refused by name, and left as it is.
func TestNewerData(t *testing.T) {
	enabled(t)
	w := mustWorld(t, Builtin, "allow")
	if err := w.agent.stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(w.dir, "data", "*", "VERSION"))
	if err != nil || len(found) != 1 {
		t.Fatalf("files with the version: %v %v, want one", found, err)
	}
	if err := os.WriteFile(found[0], []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, err := weft(nil, "", w.args...)
	if err == nil {
		t.Fatalf("it was taken: %s%s", out, errs)
	}
	for _, want := range []string{filepath.Dir(found[0]), "99", "start the weft that wrote it"} {
		if !strings.Contains(errs, want) {
			t.Errorf("the message doesn't say %q: %s", want, errs)
		}
	}
	if data, err := os.ReadFile(found[0]); err != nil || string(data) != "99\n" {
		t.Errorf("the version is %q now, %v", data, err)
	}
}
