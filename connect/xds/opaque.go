// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"time"

	"github.com/weftmesh/weft/catalog"
)

// number reads a whole number of an opaque configuration.
func number(o catalog.Opaque, key string) (int64, bool) {
	switch v := o[key].(type) {
	case int64:
		return v, true
	case float64:
		return int64(v), v == float64(int64(v))
	case uint64:
		return int64(v), true
	}
	return 0, false
}

func text(o catalog.Opaque, key string) string {
	s, _ := o[key].(string)
	return s
}

// millis is a duration given in milliseconds: the first of the numbers that is set, else def.
func millis(def time.Duration, values ...int64) time.Duration {
	for _, v := range values {
		if v > 0 {
			return time.Duration(v) * time.Millisecond
		}
	}
	return def
}

// setting is a number of the proxy's configuration: the registration's, else that of service-defaults, else that of
// proxy-defaults; 0 if none says it.
func (r *renderer) setting(key string, serviceDefaults int) int64 {
	if n := mustNumber(r.in.Proxy.Proxy.Config, key); n > 0 {
		return n
	}
	if serviceDefaults > 0 || r.g.Global == nil {
		return int64(serviceDefaults)
	}
	return mustNumber(r.g.Global.Config, key)
}

// textSetting is setting for texts.
func (r *renderer) textSetting(key, serviceDefaults string) string {
	s := text(r.in.Proxy.Proxy.Config, key)
	if s == "" {
		s = serviceDefaults
	}
	if s == "" && r.g.Global != nil {
		s = text(r.g.Global.Config, key)
	}
	return s
}

// table is an object of an opaque configuration.
func table(o catalog.Opaque, key string) catalog.Opaque {
	switch v := o[key].(type) {
	case map[string]any:
		return v
	case catalog.Opaque:
		return v
	}
	return nil
}
