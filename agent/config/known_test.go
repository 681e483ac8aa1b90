// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
	"time"
)

// Keys that once only warned, and what is wrong with them; keys that say what weft does anyway are taken without a word.
func TestKeysWithAnEffect(t *testing.T) {
	dir := folder(t, map[string]string{"a.hcl": `
data_dir = "/x"
cache { entry_fetch_rate = 0.5 entry_fetch_max_burst = 5 }
performance { grpc_keepalive_interval = "40s" grpc_keepalive_timeout = "4s" enable_xds_load_balancing = false }
limits { rpc_client_timeout = "9s" rpc_max_conns_per_client = 7 }
peering { enabled = false }
xds { update_max_per_second = 12.5 }
raft_boltdb { NoFreelistSync = true }
raft_logstore {
  backend = "wal"
  wal { segment_size_mb = 16 }
  verification { enabled = true interval = "60s" }
  boltdb { no_freelist_sync = true }
}
telemetry { disable_per_tenancy_usage_metrics = true enable_host_metrics = true }
`})
	c := Default()
	warnings, err := c.Load(dir)
	if err != nil || len(warnings) > 0 || c.Validate() != nil {
		t.Fatalf("%v, %v, %v", warnings, err, c.Validate())
	}
	perSecond, burst := c.Cache.Fetches()
	p := c.Performance
	if perSecond != 0.5 || burst != 5 || p.GRPCKeepaliveInterval != 40*time.Second || p.GRPCKeepaliveTimeout != 4*time.Second || c.Limits.RPCClientTimeout != 9*time.Second ||
		c.Limits.RPCMaxConnsPerClient != 7 || *c.Peering.Enabled || !c.Telemetry.EnableHostMetrics || c.XDS.UpdateMaxPerSecond != 12.5 || c.RaftLogstore.WAL.SegmentSizeMB != 16 {
		t.Errorf("%+v %+v %+v", c.Cache, p, c.Limits)
	}
	if perSecond, burst := (&Cache{}).Fetches(); perSecond != -1 || burst != 2 {
		t.Errorf("by default %g, %d", perSecond, burst)
	}
	for text, want := range map[string]string{
		"cache { entry_fetch_rate = 0 }":                          "entry_fetch_rate above 0",
		"limits { rpc_max_conns_per_client = -2 }":                "rpc_max_conns_per_client",
		`limits { rpc_client_timeout = "-1s" }`:                   "rpc_client_timeout",
		"xds { update_max_per_second = -1 }":                      "xds.update_max_per_second: -1",
		"raft_logstore { wal { segment_size_mb = 5000 } }":        "segment_size_mb: 5000",
		`performance { grpc_keepalive_interval = "-1s" }`:         "performance.grpc_keepalive_interval",
		`peering { enabeld = false }`:                             "enabeld",
		`telemetry { "disable_compat_1.9" = true }`:               "",
		`telemetry { disable_per_tenancy_usage_metrics = false }`: "",
	} {
		c := Default()
		c.DataDir = "/x"
		warnings, err := c.LoadText("a.hcl", "hcl", text)
		if err == nil {
			err = c.Validate()
		}
		if want == "" {
			if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "no effect yet") {
				t.Errorf("%s: %v, %v", text, warnings, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
