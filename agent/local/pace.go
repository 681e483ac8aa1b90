// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"time"
)

// between is how far apart a follower's looks at the wanted state are at least.
const between = 10 * time.Millisecond

// Pace is for who follows the wanted state and looks at all of it each time: what comes alone is seen at once, and what
// comes in numbers is seen together, a look every 10 ms. While a thousand services were registered, a look after each of
// the journal's writes was a quarter of the agent's processor time: copies of the state, comparisons of all of it, and a
// command for each few records. The zero value is ready. It is used by one goroutine.
type Pace struct{ rest *time.Timer }

// Wait is called when something has changed, before the look at it: it returns as soon as that is due, or ctx ends.
func (p *Pace) Wait(ctx context.Context) {
	if p.rest == nil {
		p.rest = time.NewTimer(between)
		return
	}
	select {
	case <-p.rest.C:
		p.rest.Reset(between)
	case <-ctx.Done():
	}
}
