// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"math/rand/v2"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

func falls(s config.Share) bool {
	return s >= config.Whole || s > 0 && rand.Uint32N(uint32(config.Whole)) < uint32(s)
}

// fault breaks the request on purpose, if chance and its headers have it so. It says whether the request is over by that.
func (ex *exchange) fault(f *config.Fault) (over bool) {
	for i := range f.Headers {
		if !matchHeader(&f.Headers[i], ex.req) {
			return false
		}
	}
	if f.Delay > 0 && falls(f.DelayShare) && !ex.pause(f.Delay) {
		ex.x.Reset(stream.CodeCancel)
		return true
	}
	if f.AbortStatus != 0 && falls(f.AbortShare) {
		ex.abort(f)
		return true
	}
	if f.Rate > 0 && falls(f.RateShare) {
		ex.rate = f.Rate
	}
	return false
}

func (ex *exchange) abort(f *config.Fault) {
	if f.AbortReset {
		ex.rec.reason = reason.FaultInjected
		ex.x.Reset(stream.CodeRefused)
		return
	}
	ex.rec.reason = reason.FaultInjected
	if f.AbortByGRPC {
		ex.grpcCode = f.AbortGRPC
	} else {
		ex.grpcCode = grpcOf(f.AbortStatus)
	}
	ex.reply(f.AbortStatus, []byte("fault injected\n"), reason.FaultInjected)
}

// grpcOf is the status of gRPC that stands for one of HTTP (gRPC's http-grpc-status-mapping).
func grpcOf(status int) int {
	switch status {
	case 400:
		return 13
	case 401:
		return 16
	case 403:
		return 7
	case 404:
		return 12
	case 429, 502, 503, 504:
		return 14
	}
	return 2
}

// pause waits. False: the client went away.
func (ex *exchange) pause(d time.Duration) bool {
	ctx := ex.watch.context(ex.x.Context())
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// throttle waits until as much as was sent may have been sent.
func (ex *exchange) throttle(began time.Time, sent int64) bool {
	due := time.Duration(float64(sent) / float64(ex.rate) * float64(time.Second))
	if left := due - time.Since(began); left > 0 {
		return ex.pause(left)
	}
	return true
}
