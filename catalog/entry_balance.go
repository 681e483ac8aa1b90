// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"strings"
	"time"
)

// MaglevConfig sizes the table, which has to be a prime.
type MaglevConfig struct {
	TableSize uint64 `json:",omitempty"` // 65537
}

// SlowStart gives an instance that is new its share little by little.
type SlowStart struct {
	Window           time.Duration
	Aggression       float64 `json:",omitempty"` // 1: the share grows evenly; above that it grows sooner
	MinWeightPercent float64 `json:",omitempty"` // 10
}

// SessionPersistence brings who was answered by an instance to it again, as long as it is there: by a cookie that the proxy
// makes, or by a header that the answer has and the caller sends again. Exactly one of the two.
type SessionPersistence struct {
	Cookie *PersistenceCookie `json:",omitempty"`
	Header string             `json:",omitempty"`
	// Strict answers 503 when the instance isn't there any more, in place of taking another.
	Strict bool `json:",omitempty"`
}

// PersistenceCookie is the cookie; without TTL it goes with the browser's session.
type PersistenceCookie struct {
	Name string
	TTL  time.Duration `json:",omitempty"`
	Path string        `json:",omitempty"`
}

// PrioritizeByLocality has callers prefer instances of their own zone, then of their region.
type PrioritizeByLocality struct {
	Mode string `json:",omitempty"` // "failover", or "none"
}

// LocalityWeight is a share of the calls that goes to a locality: "region" or "region/zone".
type LocalityWeight struct {
	Locality string
	Weight   uint32
}

func prime(n uint64) bool {
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}

func (l *LoadBalancer) validateMore(f string) error {
	if m := l.MaglevConfig; m != nil {
		switch {
		case l.Policy != "maglev":
			return invalidf("MaglevConfig specified for incompatible load balancing policy %q", l.Policy)
		case m.TableSize != 0 && (m.TableSize > 5000011 || !prime(m.TableSize)):
			return invalidf("%s.MaglevConfig.TableSize %d must be a prime of at most 5000011", f, m.TableSize)
		}
	}
	if s := l.SlowStart; s != nil {
		switch {
		case l.Policy != "" && l.Policy != "round_robin" && l.Policy != "least_request":
			return invalidf("SlowStart specified for incompatible load balancing policy %q", l.Policy)
		case s.Window <= 0:
			return invalidf("%s.SlowStart.Window must be above 0", f)
		case s.Aggression < 0 || s.MinWeightPercent < 0 || s.MinWeightPercent > 100:
			return invalidf("%s.SlowStart: Aggression must not be negative, and MinWeightPercent be from 0 to 100", f)
		}
	}
	if p := l.Persistence; p != nil {
		f := f + ".Persistence"
		switch {
		case count(p.Cookie != nil, p.Header != "") != 1:
			return invalidf("%s should contain exactly one of Cookie or Header", f)
		case p.Cookie != nil && (p.Cookie.Name == "" || strings.ContainsAny(p.Cookie.Name, "=; \t\"")):
			return invalidf("%s.Cookie.Name %q is no name of a cookie", f, p.Cookie.Name)
		case p.Cookie != nil && p.Cookie.TTL < 0:
			return invalidf("%s.Cookie.TTL must not be negative", f)
		}
	}
	return percent(f+".PanicThreshold", l.PanicThreshold)
}

func (e *ServiceResolver) validateLocality() error {
	if p := e.PrioritizeByLocality; p != nil {
		if err := oneOf("PrioritizeByLocality.Mode", p.Mode, "", "none", "failover"); err != nil {
			return err
		}
		if p.Mode == "failover" && len(e.LocalityWeights) > 0 {
			return invalidf("PrioritizeByLocality and LocalityWeights exclude each other")
		}
	}
	seen := map[string]bool{}
	for i, w := range e.LocalityWeights {
		if w.Locality == "" || seen[w.Locality] {
			return invalidf("LocalityWeights[%d].Locality %q: name each region or region/zone once", i, w.Locality)
		}
		seen[w.Locality] = true
	}
	return nil
}
