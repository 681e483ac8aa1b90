// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// A server that crashes as soon as it has begun, or is full, may close each HTTP/2 connection before its SETTINGS. After one the next is made 10 ms later,
// and after each further one twice as long, up to 160 ms; up to half of that less by chance, so that not all proxies come at once. All requests of a host
// wait for the same connection: else each makes three. One that has three tries fails within half a second.
const (
	firstBackOff = 10 * time.Millisecond
	doublings    = 4
)

// refusals are the HTTP/2 connections to a host that ended so since the last one that didn't. It is guarded by pool.mu.
type refusals struct {
	n     int
	until time.Time   // when the next may be made
	code  reason.Code // of the last, as err
	err   error
}

// refused notes one more.
func (h *host) refused(code reason.Code, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &h.refusals
	d := firstBackOff << min(r.n, doublings)
	*r = refusals{r.n + 1, time.Now().Add(d - rand.N(d/2)), code, err}
}

// refuses says why the last one ended, if the next is not to be made yet.
func (h *host) refuses() (reason.Code, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := &h.refusals; time.Now().Before(r.until) {
		return r.code, r.err
	}
	return reason.None, nil
}

// backOff waits until the next may be made.
func (h *host) backOff(ctx context.Context) {
	h.mu.Lock()
	until := h.refusals.until
	h.mu.Unlock()
	calm.Pause(ctx, time.Until(until))
}
