// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"fmt"
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

// What nobody knows the outcome of, and nobody saw, doesn't hinder finding an order; what was seen counts, and a stale answer stays one.
func TestUnknownOutcomes(t *testing.T) {
	var ops []porcupine.Operation
	at := int64(0)
	known := func(in input, out output) {
		at += 10
		out.known = true
		ops = append(ops, porcupine.Operation{Input: in, Call: at, Output: out, Return: at + 5})
	}
	unknown := func(in input) {
		at += 10
		ops = append(ops, porcupine.Operation{ClientId: 1 + len(ops), Input: in, Call: at, Output: output{}, Return: math.MaxInt64})
	}
	result := func() porcupine.CheckResult {
		got, _ := linearizable(ops, map[string]uint64{})
		return got
	}
	for i := range 40 { // none of them is needed for an order
		unknown(input{verb: cas, expected: fmt.Sprint("k", i), value: fmt.Sprint("lost", i)})
		unknown(input{verb: put, value: fmt.Sprint("never", i)})
		known(input{verb: put, value: fmt.Sprint("k", i)}, output{})
		known(input{verb: get}, output{value: fmt.Sprint("k", i)})
	}
	unknown(input{verb: put, value: "late"})
	known(input{verb: get}, output{value: "late"})
	if got := result(); got != porcupine.Ok {
		t.Errorf("%v, want an order", got)
	}
	ops, at = nil, 0
	unknown(input{verb: put, value: "unseen"})
	known(input{verb: put, value: "a"}, output{})
	known(input{verb: put, value: "b"}, output{})
	known(input{verb: get}, output{value: "a"})
	if got := result(); got != porcupine.Illegal {
		t.Errorf("a stale answer: %v, want that there is no order", got)
	}
	ops, at = nil, 0
	known(input{verb: put, value: "a"}, output{})
	unknown(input{verb: remove})
	known(input{verb: get}, output{value: ""})
	if got := result(); got != porcupine.Ok {
		t.Errorf("a deletion that was seen: %v, want an order", got)
	}
}
