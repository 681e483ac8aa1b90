// SPDX-License-Identifier: Apache-2.0

package server

import (
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/rate"
)

// RequestLimits bound how often a server is asked over its HTTP API, whoever asks; reads and writes by themselves. The zero value and nil
// bound nothing.
type RequestLimits struct {
	reads, writes rate.Limiter
	mode          atomic.Int32
	said          atomic.Int64 // when it was last logged that there was too much, Unix nanoseconds
}

const (
	limitsOff = iota
	limitsLog
	limitsRefuse
)

// burstOf is how many seconds' worth may come at once, and sayEvery how often it is logged that there is too much.
const (
	burstOf  = 10
	sayEvery = int64(10 * time.Second)
)

// Set puts bounds in force: mode is "enforcing", "permissive" (what is too much is logged alone) or anything else for none; a rate of -1 is
// no bound.
func (l *RequestLimits) Set(mode string, reads, writes float64) {
	l.reads.Set(reads, int(max(1, reads*burstOf)))
	l.writes.Set(writes, int(max(1, writes*burstOf)))
	l.mode.Store(map[string]int32{"permissive": limitsLog, "enforcing": limitsRefuse}[mode])
}

func (l *RequestLimits) allow(r *http.Request, now time.Time, log *slog.Logger) error {
	if l == nil || l.mode.Load() == limitsOff || strings.HasPrefix(r.URL.Path, "/v1/weft/") || strings.HasPrefix(r.URL.Path, "/v1/status/") {
		return nil // weft's own are how agents learn what tokens grant
	}
	of, what := &l.reads, "reads"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		of, what = &l.writes, "writes"
	}
	if of.Allow(now) {
		return nil
	}
	if last := l.said.Load(); now.UnixNano()-last > sayEvery && l.said.CompareAndSwap(last, now.UnixNano()) {
		log.Warn("more is asked than limits.request_limits allows", "what", what, "refused", l.mode.Load() == limitsRefuse)
	}
	if l.mode.Load() == limitsLog {
		return nil
	}
	return &api.StatusError{Code: http.StatusTooManyRequests, Text: "rate limit exceeded, try again later or against a different server"}
}
