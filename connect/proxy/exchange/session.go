// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"encoding/base64"
	"strconv"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// session finds where the request's session is bound to.
func (ex *exchange) session(s *config.Session, c *choice) {
	value, ok := "", false
	if s.Header != "" {
		value, ok = ex.req.Fields.Get(s.Header)
	} else {
		for i := ex.req.Fields.Index("cookie", 0); i >= 0 && !ok; i = ex.req.Fields.Index("cookie", i+1) {
			value, ok = cookie(ex.req.Fields.At(i).Value, s.Cookie)
		}
	}
	if !ok {
		return
	}
	if addr, err := base64.StdEncoding.DecodeString(value); err == nil {
		c.want, c.strict = string(addr), s.Strict
	}
}

// bindSession tells the caller where it was, if that is new to it.
func (ex *exchange) bindSession() {
	s := ex.route.Session
	if s == nil || ex.rec.upstream == "" || ex.bound == ex.rec.upstream || ex.rec.reason != reason.None {
		return
	}
	value := base64.StdEncoding.EncodeToString([]byte(ex.rec.upstream))
	if s.Header != "" {
		ex.resp.Fields.Set(s.Header, value)
		return
	}
	text := s.Cookie + `="` + value + `"`
	if s.TTL > 0 {
		text += "; Max-Age=" + strconv.Itoa(int(s.TTL.Seconds()))
	}
	if s.Path != "" {
		text += "; Path=" + s.Path
	}
	ex.resp.Fields.Add("set-cookie", text+"; HttpOnly")
}

// bound is the endpoint that a session wants, if it may be chosen.
func (v *clusterView) bound(c *choice) *endpoint {
	for _, e := range v.endpoints {
		if e.config.Address == c.want && !e.config.Draining && c.fit(e, 0) {
			return e
		}
	}
	return nil
}

// limited says whether a limit on requests is reached.
func (ex *exchange) limited(l *config.RateLimit) bool {
	now := ex.e.now()
	for i := range l.Callers {
		c := &l.Callers[i]
		match := true
		for k := range c.Headers {
			match = match && matchHeader(&c.Headers[k], ex.req)
		}
		if match && !c.Bucket.Take(now) {
			return true
		}
	}
	return !l.All.Take(now)
}
