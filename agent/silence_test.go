// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"google.golang.org/grpc/keepalive"

	"github.com/weftmesh/weft/agent/config"
)

// performance.grpc_keepalive_*: how silent streams of proxies are dealt with.
func TestSilence(t *testing.T) {
	if got := silence(config.Performance{}); got != (keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 15 * time.Second}) {
		t.Errorf("by default %+v", got)
	}
	own := config.Performance{GRPCKeepaliveInterval: 40 * time.Second, GRPCKeepaliveTimeout: 4 * time.Second}
	if got := silence(own); got != (keepalive.ServerParameters{Time: 40 * time.Second, Timeout: 4 * time.Second}) {
		t.Errorf("%+v", got)
	}
}
