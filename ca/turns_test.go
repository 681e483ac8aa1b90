// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/ca"
)

// As many as are allowed are in hand at once; the next waits until one is done, in the order of their coming, and half a second at most.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns ca.Turns
		for range 3 {
			if err := turns.Take(t.Context()); err != nil {
				t.Fatal("without a bound:", err)
			}
		}
		turns.Limit(1)
		began := time.Now()
		if err := turns.Take(t.Context()); !errors.Is(err, ca.ErrRateLimited) || time.Since(began) != 500*time.Millisecond {
			t.Fatalf("beyond the bound: %v after %s", err, time.Since(began))
		}
		turns.Done()
		turns.Done()
		turns.Done()
		if err := turns.Take(t.Context()); err != nil {
			t.Fatal("all were given back:", err)
		}

		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				if err := turns.Take(t.Context()); err != nil {
					t.Error(err)
				}
				order <- i
			}()
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Fatal("a turn was given while another was taken")
		}
		for want := range 2 {
			turns.Done()
			synctest.Wait()
			if got := <-order; got != want || len(order) != 0 {
				t.Fatalf("turn %d went to %d, and %d more", want, got, len(order))
			}
		}
		turns.Limit(0) // those who wait need no turn to be given back
		if got := <-order; got != 2 {
			t.Fatal(got)
		}
		turns.Limit(2)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := turns.Take(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal("who hangs up stops waiting:", err)
		}
		turns.Done()
		if err := turns.Take(t.Context()); err != nil {
			t.Fatal("who hung up holds no turn:", err)
		}
	})
}
