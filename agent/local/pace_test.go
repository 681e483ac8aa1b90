// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// What comes alone isn't held up; what comes behind it is, but never for long, and not after the end.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var p Pace
		waits := func(want time.Duration) {
			t.Helper()
			begin := time.Now()
			p.Wait(ctx)
			if took := time.Since(begin); took != want {
				t.Errorf("waited %v, want %v", took, want)
			}
		}
		waits(0)
		waits(between)
		waits(between)
		time.Sleep(between / 2)
		waits(between / 2)
		time.Sleep(time.Hour)
		waits(0)
		cancel()
		waits(0)
	})
}
