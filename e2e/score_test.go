// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestOriginsScore is TestOrigins for both kinds of sidecars, input by input, and prints which of C1 to C54 each withstands: make security.
// Envoy's is no condition: it is told beside weft's, as weft configures it.
func TestOriginsScore(t *testing.T) {
	enabled(t)
	if os.Getenv("WEFT_SECURITY") != "1" {
		t.Skip("minutes of inputs: set WEFT_SECURITY=1, or run `make security`")
	}
	scores := map[Kind]map[int][]string{}
	for _, kind := range []Kind{Builtin, Envoy} {
		score := map[int][]string{}
		scores[kind] = score
		w := mustWorld(t, kind, "allow")
		for _, make := range origins {
			t.Run(fmt.Sprint(kind), func(t *testing.T) { tryTricks(t, w, make(t), score) })
		}
	}
	for _, n := range slices.Sorted(maps.Keys(scores[Builtin])) {
		for _, kind := range []Kind{Builtin, Envoy} {
			if failed := scores[kind][n]; len(failed) > 0 {
				fmt.Printf("C%-4d %s: %s\n", n, kind, strings.Join(failed, "; "))
			}
		}
	}
	for _, kind := range []Kind{Builtin, Envoy} {
		withstood := 0
		for _, failed := range scores[kind] {
			if len(failed) == 0 {
				withstood++
			}
		}
		fmt.Printf("%s: %d of the %d of C1 to C54 that an origin can tell of, with nginx, Apache and Go's server behind it\n", kind, withstood, len(scores[kind]))
		if kind == Builtin && withstood < len(scores[kind]) {
			t.Errorf("weft withstands %d of %d", withstood, len(scores[kind]))
		}
	}
}

// tryTricks notes by number what went wrong with each input.
func tryTricks(t *testing.T, w *World, o *origin, score map[int][]string) {
	addr, seen := o.behind(t, w), 0
	for i, c := range append(pathTricks(), smugglingTricks()...) {
		number, _, _ := strings.Cut(strings.TrimPrefix(c.id, "C"), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		failed := score[n]
		note := func(format string, args ...any) {
			failed = append(failed, fmt.Sprintf("%s, %.60q: ", o.name, c.in)+fmt.Sprintf(format, args...))
		}
		if got, err := send(addr, c.control); err != nil || len(got) != 1 || got[0] != http.StatusOK {
			note("the control %.60q is answered %v", c.control, got)
		}
		got, err := send(addr, c.in)
		if err != nil {
			t.Error(err)
		}
		if len(got) > 1 {
			note("%d answers", len(got))
		}
		// What is left of an input at an origin shows with the next request, whose own line says that all before it is in the log.
		mark := fmt.Sprintf("/after%d", i)
		var log []string
		until(t, 15*time.Second, func() error {
			if err := wantStatus(h1For(), "http://"+addr+mark, http.StatusOK); err != nil {
				return err
			}
			if log, err = o.log(); err != nil {
				return err
			}
			if !slices.ContainsFunc(log[seen:], func(line string) bool { return strings.HasSuffix(line, mark) }) {
				return fmt.Errorf("%s hasn't told of %s yet", o.name, mark)
			}
			return nil
		})
		for _, line := range log[seen:] {
			if strings.Contains(line, "/smuggled") || strings.Contains(line, " /admin/secret") {
				note("understood as %q", line)
			}
		}
		seen = len(log)
		score[n] = failed
	}
}
