// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// What the tests are told: WEFT_E2E=1 runs them, WEFT_ROBUST=long runs the long form, WEFT_ROBUST_FACTOR multiplies its histories,
// WEFT_ROBUST_TIME is how long a row begins new ones;
// WEFT_BINARY is weft's program, WEFT_FAIL_BINARY one with failpoints and WEFT_BUG_BINARY one with seeded bugs; WEFT_ROBUST_REPORT is the
// report's file.
func long() bool { return os.Getenv("WEFT_ROBUST") == "long" }

func weft(*testing.T) string { return os.Getenv("WEFT_BINARY") }

func withFailpoints(t *testing.T) string { return special(t, "WEFT_FAIL_BINARY") }

func withBugs(t *testing.T) string { return special(t, "WEFT_BUG_BINARY") }

func special(t *testing.T, name string) string {
	path := os.Getenv(name)
	if _, err := exec.LookPath(path); err != nil {
		t.Fatalf("%s=%q: no program is there; run `make robustness`, which builds it", name, path)
	}
	return path
}

func TestMain(m *testing.M) {
	if os.Getenv("WEFT_E2E") == "1" {
		if _, err := exec.LookPath(os.Getenv("WEFT_BINARY")); err != nil {
			fmt.Fprintf(os.Stderr, "WEFT_BINARY=%q: no program is there; run `make robustness`\n", os.Getenv("WEFT_BINARY"))
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// enabled skips a test unless it was asked for. Who isn't root has no namespaces; in CI that is a failure.
func enabled(t *testing.T) {
	t.Helper()
	if os.Getenv("WEFT_E2E") != "1" {
		t.Skip("runs other programs: set WEFT_E2E=1, or run `make robustness`")
	}
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root: NOTHING of this was tested")
	}
}

// times is how many histories a row has.
func times(n int) int {
	if !long() {
		return 1
	}
	if f, err := strconv.ParseFloat(os.Getenv("WEFT_ROBUST_FACTOR"), 64); err == nil {
		n = max(1, int(f*float64(n)+0.5))
	}
	return n
}

// over says whether no new history is to begin.
func over(began time.Time) bool {
	d, err := time.ParseDuration(os.Getenv("WEFT_ROBUST_TIME"))
	return err == nil && time.Since(began) > d
}
