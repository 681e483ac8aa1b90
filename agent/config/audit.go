// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"time"
)

// Audit is Consul's stanza: where every write, and every read that was denied, is written down.
type Audit struct {
	Enabled bool
	Sink    map[string]AuditSink
}

// AuditSink is the file. Of Consul's types and guarantees there are "file", "json" and "best-effort".
type AuditSink struct {
	Type, Format, DeliveryGuarantee string
	Path                            string
	Mode                            string // has no effect: the file is its owner's alone
	RotateBytes                     int64
	RotateDuration                  time.Duration
	RotateMaxFiles                  int
}

// AuditFile is the sink, with its defaults; false where nothing is audited.
func (c *Config) AuditFile() (AuditSink, bool) {
	sink := AuditSink{}
	for _, s := range c.Audit.Sink {
		sink = s
	}
	if sink.Path == "" && c.DataDir != "" {
		sink.Path = filepath.Join(c.DataDir, "audit", "audit.json")
	}
	if sink.RotateDuration == 0 {
		sink.RotateDuration = 24 * time.Hour
	}
	return sink, c.Audit.Enabled
}

func (c *Config) validateAudit(fault func(format string, args ...any)) {
	if len(c.Audit.Sink) > 1 {
		fault("audit: there are %d sinks, and weft writes to one", len(c.Audit.Sink))
	}
	for name, s := range c.Audit.Sink {
		for _, k := range []struct{ key, got, want string }{{"type", s.Type, "file"}, {"format", s.Format, "json"}, {"delivery_guarantee", s.DeliveryGuarantee, "best-effort"}} {
			if k.got != "" && k.got != k.want {
				fault("audit.sink %q: %s: %q: want %q", name, k.key, k.got, k.want)
			}
		}
		if s.RotateBytes < 0 || s.RotateDuration < 0 {
			fault("audit.sink %q: rotate_bytes and rotate_duration must not be negative", name)
		}
	}
	if sink, on := c.AuditFile(); on && sink.Path == "" {
		fault("audit: there is neither a sink with a path nor a data_dir to write to")
	}
}
