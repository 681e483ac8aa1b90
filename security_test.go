// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The bad inputs that broke others, classes E to H: TLS and identity, authorisation of the control plane, requests that are forged
// and secrets that leak, gossip, DNS and stored state. Each has a test with its number in its name, with a control beside it,
// or a line that says why not. C1 to C78 are the proxy's: connect/proxy/exchange/cases_test.go, and e2e/floods_test.go.
const firstInput, lastInput = 79, 130

// notApplying are the inputs that have nothing here to be tried on, with why.
var notApplying = map[int]string{
	86:  "no certificate of weft's has name constraints, and no host name is believed by one",
	91:  "there are no mesh gateways yet",
	96:  "nothing passes between peered clusters yet",
	113: "namespaces aren't enforced yet: there are no tenants",
	114: "nothing is imported from peers yet",
}

// switched are the tests whose guard the build tag weftunguarded takes away: they must fail with it.
var switched = map[string]string{"./ca": "TestC82_", "./internal/api": "TestC119_"}

var inputTest = regexp.MustCompile(`(?m)^func (Test(?:C\d+_)+\w*)\(`)

// inputTests finds the tests with numbers in their names, by package.
func inputTests(t *testing.T) (byNumber map[int][]string, packages []string) {
	t.Helper()
	byNumber = map[int][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != "." || d.Name() == "clients" || d.Name() == "tools") {
			if d != nil && d.IsDir() && err == nil {
				return fs.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		data, err := os.ReadFile(path)
		for _, m := range inputTest.FindAllStringSubmatch(string(data), -1) {
			for _, n := range regexp.MustCompile(`C(\d+)_`).FindAllStringSubmatch(m[1], -1) {
				number, _ := strconv.Atoi(n[1]) // digits alone
				byNumber[number] = append(byNumber[number], m[1])
			}
			if p := "./" + filepath.Dir(path); !slices.Contains(packages, p) {
				packages = append(packages, p)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return byNumber, packages
}

// Every input is tested, or it is said why it has nothing to be tried on.
func TestEveryBadInputIsAnswered(t *testing.T) {
	tests, _ := inputTests(t)
	for n := firstInput; n <= lastInput; n++ {
		said := notApplying[n] != ""
		if tested := len(tests[n]) > 0; tested == said {
			t.Errorf("C%d: tested %v, said not to apply %v", n, tested, said)
		}
	}
}

// TestSecurityScore runs them all and prints the score: make security.
func TestSecurityScore(t *testing.T) {
	if os.Getenv("WEFT_SECURITY") != "1" {
		t.Skip("runs the tests of many packages: set WEFT_SECURITY=1, or run `make security`")
	}
	tests, packages := inputTests(t)
	failed := runInputs(t, packages)
	passed, apply := 0, 0
	for n := firstInput; n <= lastInput; n++ {
		switch {
		case notApplying[n] != "":
			fmt.Printf("C%-4d doesn't apply: %s\n", n, notApplying[n])
			continue
		case slices.ContainsFunc(tests[n], func(name string) bool { return failed[name] }):
			fmt.Printf("C%-4d FAILED: %s\n", n, strings.Join(tests[n], ", "))
			t.Errorf("C%d fails", n)
		default:
			passed++
			fmt.Printf("C%-4d passed: %s\n", n, strings.Join(tests[n], ", "))
		}
		apply++
	}
	fmt.Printf("\nweft withstands %d of %d bad inputs of C%d to C%d that apply; %d don't apply\n", passed, apply, firstInput, lastInput, len(notApplying))
	for _, p := range slices.Sorted(maps.Keys(switched)) {
		cmd := exec.Command("go", "test", "-count=1", "-tags", "weftunguarded", "-run", switched[p], p)
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%s %s: the tests pass without their guard:\n%s", p, switched[p], out)
		} else {
			fmt.Printf("without its guard fails, as it must: %s %s\n", p, switched[p])
		}
	}
}

// runInputs runs the tests with numbers of some packages, and says which didn't pass.
func runInputs(t *testing.T, packages []string) map[string]bool {
	t.Helper()
	packages = slices.DeleteFunc(packages, func(p string) bool { return p == "./." || strings.HasPrefix(p, "./e2e") })
	cmd := exec.Command("go", append([]string{"test", "-count=1", "-json", "-run", `^Test(C\d+_)+`}, packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	failed := map[string]bool{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct{ Action, Package, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		name, _, _ := strings.Cut(e.Test, "/")
		switch e.Action {
		case "fail":
			failed[name] = true
			if name == "" {
				t.Errorf("%s fails", e.Package)
			}
		case "output":
			if strings.Contains(e.Output, "_test.go:") {
				fmt.Print(e.Output)
			}
		}
	}
	_ = cmd.Wait() // what failed is known
	return failed
}
