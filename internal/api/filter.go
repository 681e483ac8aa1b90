// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"

	"github.com/hashicorp/go-bexpr"
)

// The bounds of a filter expression. Nested parentheses cost the parser exponentially: it stops after so many steps.
const (
	maxFilterBytes = 8 << 10
	maxFilterSteps = 200_000
)

// Filter is a compiled filter expression; nil keeps all.
type Filter struct{ evaluator *bexpr.Evaluator }

// NewFilter compiles a go-bexpr expression; "" is nil.
func NewFilter(expr string) (*Filter, error) {
	if expr == "" {
		return nil, nil
	}
	if len(expr) > maxFilterBytes {
		return nil, bad("Invalid filter: it has %d bytes, more than %d", len(expr), maxFilterBytes)
	}
	e, err := bexpr.CreateEvaluator(expr, bexpr.WithMaxExpressions(maxFilterSteps))
	if err != nil {
		return nil, &StatusError{Code: http.StatusInternalServerError, Text: "Failed to create boolean expression evaluator: " + err.Error(), Err: err}
	}
	return &Filter{e}, nil
}

// Keeps says whether a value matches.
func (f *Filter) Keeps(v any) (bool, error) {
	if f == nil {
		return true, nil
	}
	ok, err := f.evaluator.Evaluate(v)
	if err != nil {
		return false, &StatusError{Code: http.StatusInternalServerError, Text: "Failed to filter the answer: " + err.Error(), Err: err}
	}
	return ok, nil
}

// FilterList keeps the elements of a list that match a go-bexpr expression; "" keeps all.
func FilterList[T any](expr string, list []T) ([]T, error) {
	f, err := NewFilter(expr)
	if f == nil || err != nil {
		return list, err
	}
	kept := make([]T, 0, len(list))
	for i := range list {
		ok, err := f.Keeps(list[i])
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, list[i])
		}
	}
	return kept, nil
}
