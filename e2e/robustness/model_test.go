// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"fmt"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// verb is what a client asks of a unit: of a key, or of a pair of keys that transactions write together.
type verb string

const (
	get       verb = "get"
	put       verb = "put"
	remove    verb = "delete"
	cas       verb = "cas"        // if the unit is as expected, "" being absent
	removeCAS verb = "delete-cas" // if the unit is as expected, or absent
	restored  verb = "restored"   // a snapshot was restored, in which the unit had this value
)

// input is an operation as it was asked for. Every value that is written is written once, so a value stands for the ModifyIndex that it
// got.
type input struct {
	unit     int
	verb     verb
	value    string // to write
	expected string // by a cas: the value that had the index it was given
}

// output is what a client knows of the outcome.
type output struct {
	known bool // false: it may have been done, or be done at any time to come, or never
	done  bool // of a cas: it matched
	value string
	index uint64 // the ModifyIndex, where it was told
}

// state of a unit: what it holds, and the highest index that a value of it is known to have had.
type state struct {
	value string
	index uint64
}

// model is a unit. index tells a value's ModifyIndex, 0 where nobody saw it: along the order that is found, they must rise.
func model(index map[string]uint64) porcupine.Model {
	write := func(s state, v string) (bool, any) {
		i := index[v]
		if v == "" || i == 0 {
			return true, state{v, s.index}
		}
		return i > s.index, state{v, i}
	}
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			by := map[int][]porcupine.Operation{}
			for _, o := range history {
				u := o.Input.(input).unit
				by[u] = append(by[u], o)
			}
			var out [][]porcupine.Operation
			for _, ops := range by {
				out = append(out, ops)
			}
			sort.Slice(out, func(i, j int) bool { return out[i][0].Input.(input).unit < out[j][0].Input.(input).unit })
			return out
		},
		Init: func() any { return state{} },
		Step: func(st, in, out any) (bool, any) {
			s, i, o := st.(state), in.(input), out.(output)
			switch i.verb {
			case get:
				return o.value == s.value, s
			case put:
				return write(s, i.value)
			case remove:
				return true, state{"", s.index}
			case restored:
				return true, state{i.value, 0}
			}
			matches := s.value == i.expected || i.verb == removeCAS && s.value == ""
			if o.known && o.done != matches {
				return false, s
			}
			if !matches {
				return true, s
			}
			return write(s, i.value)
		},
		DescribeOperation: func(in, out any) string {
			i, o := in.(input), out.(output)
			what := fmt.Sprintf("%s unit %d", i.verb, i.unit)
			switch i.verb {
			case put, restored:
				what += " " + i.value
			case cas, removeCAS:
				what += fmt.Sprintf(" %q → %q", i.expected, i.value)
			}
			switch {
			case !o.known:
				what += ": unknown"
			case i.verb == get:
				what += fmt.Sprintf(": %q (index %d)", o.value, o.index)
			case i.verb == cas || i.verb == removeCAS:
				what += fmt.Sprintf(": %v", o.done)
			}
			return what
		},
	}
}

// checkTime bounds the search for an order; a history for which none was found or excluded until then counts as a failure.
const checkTime = time.Minute

// linearizable finds an order of the history in which each answer is what one copy of the data would have given, or says for which unit
// there is none.
//
// What is known of nothing may have been done or never, so each doubles what the search has to look at: with a full disk a unit has twenty.
// Of most nobody saw a trace, so an order is looked for first in which these were never done, and without deletions of unknown outcome; an
// order without them is one of the whole. That there is none is said only of the whole.
func linearizable(ops []porcupine.Operation, index map[string]uint64) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	m := model(index)
	seen := map[string]bool{}
	for _, o := range ops {
		i, out := o.Input.(input), o.Output.(output)
		if i.verb == get {
			seen[out.value] = true
		}
		if out.known && out.done {
			seen[i.expected] = true
		}
	}
	for _, left := range []func(i input) bool{
		func(i input) bool { return i.verb == remove || i.verb == removeCAS || !seen[i.value] },
		func(i input) bool { return i.verb != remove && i.verb != removeCAS && !seen[i.value] },
	} {
		var known []porcupine.Operation
		for _, o := range ops {
			if o.Output.(output).known || !left(o.Input.(input)) {
				known = append(known, o)
			}
		}
		if got, info := porcupine.CheckOperationsVerbose(m, known, checkTime/3); got == porcupine.Ok {
			return got, info
		}
	}
	return porcupine.CheckOperationsVerbose(m, ops, checkTime)
}
