// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Scripts that call consul get weft's answers in the form that they parse.
func TestCalledConsul(t *testing.T) {
	enabled(t)
	link := filepath.Join(t.TempDir(), "consul")
	if err := os.Symlink(binary(), link); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(link, "version", "-format=json").Output()
	var v struct{ Version string }
	if err != nil || json.Unmarshal(out, &v) != nil || len(strings.Split(v.Version, ".")) != 3 {
		t.Errorf("%s, %v", out, err)
	}
	if out, err = exec.Command(link, "version").Output(); err != nil || !strings.HasPrefix(string(out), "Consul v"+v.Version+"\n") {
		t.Errorf("%s, %v", out, err)
	}
}

// Bash completes commands, those below them, and flags.
func TestCompletion(t *testing.T) {
	enabled(t)
	const script = `
eval "$(weft completion bash)"
complete_for() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _weft_complete; echo "${COMPREPLY[*]}"; }
complete_for weft inten
complete_for weft intention ma
complete_for weft intention list --fo
complete_for weft completion z
`
	cmd := exec.Command("bash", "-c", script)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary())+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if want := "intention\nmatch\n--format\nzsh\n"; err != nil || string(out) != want {
		t.Errorf("%q, want %q, %v", out, want, err)
	}
}
