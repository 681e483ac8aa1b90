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

// The bad inputs that broke others: paths, fields and framing that get by a policy or are read in two ways (C1 to C60), floods (C61 to
// C78), TLS and identity, authorisation of the control plane, requests that are forged and secrets that leak, gossip, DNS and stored
// state. Each has a test with its number in its name, with a control beside it, or a line that says why not. The same against whole
// processes: e2e/origins_test.go and e2e/floods_test.go.
const firstInput, lastInput = 1, 130

// notApplying are the inputs that have nothing here to be tried on, with why.
var notApplying = map[int]string{
	18:  "no listener comes from outside: configuration in Envoy's own JSON has no effect, and says so",
	60:  "after a change to websocket its frames pass as bytes, and the application judges them",
	86:  "no certificate of weft's has name constraints, and no host name is believed by one",
	91:  "there are no mesh gateways yet",
	96:  "nothing passes between peered clusters yet",
	113: "namespaces aren't enforced yet: there are no tenants",
	114: "nothing is imported from peers yet",
}

// noGuard are the inputs whose guard can't be taken away by a line of ours, with why. Their tests are looked at by people alone.
var noGuard = map[int]string{
	5:   "nothing is there to take away: what was decoded is never looked at again",
	10:  "nothing is there to take away: bytes beyond ASCII are never decoded",
	16:  "nothing is there to take away: no field is read for a path",
	17:  "it is an order of steps: a request is rewritten after it was decided about",
	19:  "nothing is there to take away: what a request says is never taken for a pattern",
	22:  "nothing is there to take away: a value is matched as one string",
	24:  "nothing is there to take away: bytes are matched as they came",
	29:  "nothing is there to take away: a method is compared as it came, and no field stands for one",
	35:  "four programs are asked and have to agree: the rules, the simulator, the proxy and, in make agree, Envoy",
	59:  "nothing is there to take away: nobody reads PROXY protocol, so that its head is no request",
	71:  "crypto/tls is the guard: it ends a connection after so many changes of keys in a row",
	76:  "nothing is there to take away: no label is made of what a caller says",
	94:  "crypto/tls is the guard: without it the port would speak another protocol",
	106: "nothing is there to take away: a datacenter's tokens are in its own catalog alone, and nobody else's are asked",
	108: "nothing is there to take away: what is shown of the CA's configuration has no field for a key",
	127: "there isn't one guard: each field is validated by its own kind's rules, and what panics all the same is an error of that command",
}

var inputTest = regexp.MustCompile(`(?m)^func (Test(?:C\d+_)+\w*)\(`)

// inputTests finds the tests with numbers in their names, and their packages.
func inputTests(t *testing.T) (byNumber, packages map[int][]string) {
	t.Helper()
	byNumber, packages = map[int][]string{}, map[int][]string{}
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
				if p := "./" + filepath.Dir(path); !slices.Contains(packages[number], p) {
					packages[number] = append(packages[number], p)
				}
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
	failed := runInputs(t, slices.Concat(slices.Collect(maps.Values(packages))...))
	passed, apply, can := 0, 0, guards(t)
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
			fmt.Printf("C%-4d passed: %s%s\n", n, strings.Join(tests[n], ", "), proved(can, n))
		}
		apply++
	}
	fmt.Printf("\nweft withstands %d of %d bad inputs of C%d to C%d that apply; %d don't apply\n", passed, apply, firstInput, lastInput, len(notApplying))
	fmt.Printf("of %d a guard can be taken away, and their tests fail then (make security-guards); of %d it can't\n", len(can), len(noGuard))
}

// proved says how it is known that an input's test can fail.
func proved(can map[int]bool, n int) string {
	if can[n] {
		return " (fails without its guard: make security-guards)"
	}
	return " (no guard can be taken away: " + noGuard[n] + ")"
}

// runInputs runs the tests with numbers of some packages, and says which didn't pass.
func runInputs(t *testing.T, packages []string) map[string]bool {
	t.Helper()
	slices.Sort(packages)
	packages = slices.DeleteFunc(slices.Compact(packages), func(p string) bool { return p == "./." || strings.HasPrefix(p, "./e2e") })
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

var guardPoint = regexp.MustCompile(`guard\.Off\("C(\d+)"\)`)

// guards are the inputs whose guard can be taken away.
func guards(t *testing.T) map[int]bool {
	t.Helper()
	out := map[int]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "." {
			if err == nil {
				return fs.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		data, err := os.ReadFile(path)
		for _, m := range guardPoint.FindAllStringSubmatch(string(data), -1) {
			n, _ := strconv.Atoi(m[1]) // digits alone
			out[n] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A guard that can be taken away has a test, which is to fail then: TestSecurityGuards. Of an input that applies it is said why none can.
func TestEveryGuardHasItsTest(t *testing.T) {
	tests, _ := inputTests(t)
	can := guards(t)
	for n := firstInput; n <= lastInput; n++ {
		switch {
		case can[n] && len(tests[n]) == 0:
			t.Errorf("the guard of C%d has no test", n)
		case notApplying[n] == "" && can[n] == (noGuard[n] != ""):
			t.Errorf("C%d: its guard can be taken away: %v; said not to be: %q", n, can[n], noGuard[n])
		}
	}
}

// TestSecurityGuards takes one guard after the other away, and sees its test fail, which passes with it: make security-guards.
func TestSecurityGuards(t *testing.T) {
	if os.Getenv("WEFT_SECURITY") != "1" {
		t.Skip("builds the tests of many packages: set WEFT_SECURITY=1, or run `make security-guards`")
	}
	tests, packages := inputTests(t)
	u := unguarded{dir: t.TempDir(), binaries: map[string]string{}}
	can, proved, apply := slices.Sorted(maps.Keys(guards(t))), 0, 0
	for _, n := range can {
		fails := false
		for _, p := range packages[n] {
			if out, failed := u.run(t, p, n, ""); failed {
				t.Errorf("C%d in %s fails with its guard:\n%s", n, p, out)
			}
			_, failed := u.run(t, p, n, fmt.Sprint("C", n))
			fails = fails || failed
		}
		if !fails {
			t.Errorf("C%d: its tests pass without their guard", n)
			continue
		}
		proved++
		fmt.Printf("C%-4d fails without its guard: %s\n", n, strings.Join(tests[n], ", "))
	}
	for n := firstInput; n <= lastInput; n++ {
		if notApplying[n] == "" {
			apply++
		}
		if noGuard[n] != "" {
			fmt.Printf("C%-4d no guard can be taken away: %s\n", n, noGuard[n])
		}
	}
	fmt.Printf("\n%d of %d guards that can be taken away are proved; %d inputs apply\n", proved, len(can), apply)
}

// unguarded runs tests that are built with the tag weftunguarded; their binaries are by package.
type unguarded struct {
	dir      string
	binaries map[string]string
}

// run runs a package's tests of an input without the guard of that name, "" for none, and says whether one of them failed; what isn't a
// test's failure, an end by a time limit say, proves nothing.
func (u *unguarded) run(t *testing.T, p string, n int, off string) (output string, failed bool) {
	t.Helper()
	if u.binaries[p] == "" {
		u.binaries[p] = filepath.Join(u.dir, fmt.Sprint(len(u.binaries), ".test"))
		if out, err := exec.Command("go", "test", "-c", "-tags", "weftunguarded", "-o", u.binaries[p], p).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", p, err, out)
		}
	}
	cmd := exec.Command(u.binaries[p], "-test.timeout", "120s", "-test.run", fmt.Sprintf(`^Test(C\d+_)*C%d_`, n))
	cmd.Dir, cmd.Env = p, append(os.Environ(), "WEFT_UNGUARDED="+off)
	out, err := cmd.CombinedOutput()
	if failed = regexp.MustCompile(`(?m)^--- FAIL: Test`).Match(out); err != nil && !failed {
		t.Errorf("C%d in %s, %q taken away: %v\n%s", n, p, off, err, out)
	}
	return string(out), failed
}
