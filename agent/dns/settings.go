// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Settings are the keys of dns_config.
type Settings struct {
	// AllowStale takes what any server knows; without it the leader is asked, and there is no answer while none is known.
	AllowStale bool
	// MaxStale is the age from which on knowledge isn't used for answers.
	MaxStale time.Duration
	NodeTTL  time.Duration
	// ServiceTTL is by service name; a name that ends in * holds for all that begin so, "*" for all. The longest wins.
	ServiceTTL map[string]time.Duration
	// OnlyPassing leaves out instances in warning too.
	OnlyPassing bool
	// ARecordLimit bounds the addresses of an answer on any transport, 0 for no bound; UDPAnswerLimit the records of an answer
	// over UDP without EDNS.
	ARecordLimit   int
	UDPAnswerLimit int
	// EnableTruncate sets the TC bit where an answer was cut.
	EnableTruncate              bool
	RecursorStrategy            string // "sequential" or "random"
	RecursorTimeout             time.Duration
	DisableCompression          bool
	EnableAdditionalNodeMetaTXT bool
	SOA                         SOA
	// UseCache keeps the results of prepared queries for CacheMaxAge, or 10 s. What else is asked for is followed anyway.
	UseCache    bool
	CacheMaxAge time.Duration
}

// SOA are the times of the zone's SOA record, in seconds.
type SOA struct {
	Refresh uint32
	Retry   uint32
	Expire  uint32
	MinTTL  uint32 // how long others may keep a negative answer
}

// DefaultSettings are those of an agent to which nothing was said.
func DefaultSettings() Settings {
	return Settings{
		AllowStale: true, MaxStale: 87600 * time.Hour, UDPAnswerLimit: 3, RecursorStrategy: "sequential", RecursorTimeout: 2 * time.Second,
		EnableAdditionalNodeMetaTXT: true, SOA: SOA{Refresh: 3600, Retry: 600, Expire: 86400},
	}
}

// Validate finds what can't be; its errors name the key.
func (s *Settings) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("dns_config."+format, args...)) }
	for key, n := range map[string]int{"a_record_limit": s.ARecordLimit, "udp_answer_limit": s.UDPAnswerLimit} {
		if n < 0 {
			fault("%s: %d: want 0 or more", key, n)
		}
	}
	for key, d := range map[string]time.Duration{
		"max_stale": s.MaxStale, "node_ttl": s.NodeTTL, "recursor_timeout": s.RecursorTimeout, "cache_max_age": s.CacheMaxAge,
	} {
		if d < 0 {
			fault("%s: %s: want a time that isn't negative", key, d)
		}
	}
	for name, d := range s.ServiceTTL {
		if d < 0 {
			fault("service_ttl: %s of %q: want a time that isn't negative", d, name)
		}
		if i := strings.IndexByte(name, '*'); i >= 0 && i < len(name)-1 {
			fault("service_ttl: %q: * can only stand at the end", name)
		}
	}
	if r := s.RecursorStrategy; r != "sequential" && r != "random" {
		fault("recursor_strategy: %q: want \"sequential\" or \"random\"", r)
	}
	return errors.Join(faults...)
}

// serviceTTL is how long answers about a service may be kept.
func (s *Settings) serviceTTL(service string) time.Duration {
	if d, ok := s.ServiceTTL[service]; ok {
		return d
	}
	best, ttl := -1, time.Duration(0)
	for name, d := range s.ServiceTTL {
		prefix, wild := strings.CutSuffix(name, "*")
		if wild && len(prefix) > best && strings.HasPrefix(service, prefix) {
			best, ttl = len(prefix), d
		}
	}
	return ttl
}
