// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/failpoint"
)

// Each seeded bug is found by the suite in one run of one row. The suite runs as it always does, in a process of its own, on a program
// that has the bug; the control has the same program without one.
func TestBugs(t *testing.T) {
	enabled(t)
	binary := withBugs(t)
	for _, c := range []struct {
		bug        failpoint.Seeded
		row, found string
	}{
		{"", "leader-killed", ""},
		{failpoint.AckEarly, "power-lost", `LOST on|NOT LINEARIZABLE`},
		{failpoint.Unchecked, "leader-paused", `NOT LINEARIZABLE`},
		{failpoint.SkipOne, "leader-killed", `LOST on|NOT LINEARIZABLE|digests of the servers' tables differ`},
		{failpoint.DropField, "all-killed", `snapshot|has other keys than before`},
		{failpoint.IgnoredCheck, "leader-killed", `NOT LINEARIZABLE|check-and-sets failed`},
	} {
		t.Run(string(c.bug)+" in "+c.row, func(t *testing.T) {
			if !long() && c.bug != failpoint.IgnoredCheck {
				t.Skip("in the long form: make robustness-bugs")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			factor := "0" // one history
			if c.bug == failpoint.Unchecked {
				factor = "0.33" // four: whether a read meets the paused leader in the moment in which it goes on is chance, some three in four
			}
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestRows$/^"+c.row+"$", "-test.v")
			cmd.Env = append(os.Environ(), "WEFT_BINARY="+binary, "WEFT_FAIL_BINARY="+binary, "WEFT_BUG="+string(c.bug), "TMPDIR="+t.TempDir(),
				"WEFT_ROBUST=long", "WEFT_ROBUST_FACTOR="+factor, "WEFT_ROBUST_REPORT=")
			data, err := cmd.CombinedOutput()
			out := string(data)
			switch {
			case c.bug == "" && err != nil:
				t.Errorf("the same program without a bug: %v\n%s", err, out)
			case c.bug != "" && (err == nil || !strings.Contains(out, "--- FAIL: TestRows/"+c.row)):
				t.Errorf("the bug isn't found: %v\n%s", err, out)
			case c.bug != "":
				line := regexp.MustCompile(`.*(` + c.found + `).*`).FindString(out)
				if line == "" {
					t.Errorf("the row failed for another reason:\n%s", out)
				}
				t.Log("found: ", strings.TrimSpace(line))
			}
		})
	}
}

// What is delivered has neither failpoints nor seeded bugs in it.
func TestNothingIsSeeded(t *testing.T) {
	enabled(t)
	for _, c := range []struct {
		binary string
		has    bool
	}{{weft(t), false}, {withFailpoints(t), true}, {withBugs(t), true}} {
		data, err := os.ReadFile(c.binary)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"WEFT_FAIL", "WEFT_BUG", "skipOne"} {
			if has := bytes.Contains(data, []byte(text)); has && !c.has || !has && c.has && text == "WEFT_FAIL" {
				t.Errorf("%s: %s is in it: %v", c.binary, text, has)
			}
		}
	}
}
