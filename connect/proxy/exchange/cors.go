// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
)

// cors answers a browser's question beforehand, and says so (Fetch, §3.2.5). Other requests of an allowed origin get their
// fields with the answer.
func (ex *exchange) cors(c *config.CORS) (answered bool) {
	origin, ok := ex.req.Fields.Get("origin")
	if !ok || origin == "" {
		return false
	}
	allowed := false
	for i := range c.Origins {
		if allowed = matchString(&c.Origins[i], origin); allowed {
			break
		}
	}
	if !allowed {
		return false
	}
	if asked, _ := ex.req.Fields.Get("access-control-request-method"); ex.req.Method != "OPTIONS" || asked == "" {
		ex.origin = origin
		return false
	}
	h := &ex.resp
	h.Reset()
	h.Status, h.HasLength = 200, true
	setOrigin(&h.Fields, origin, c)
	for _, f := range [...]config.HeaderValue{
		{Name: "access-control-allow-methods", Value: c.Methods}, {Name: "access-control-allow-headers", Value: c.Headers},
		{Name: "access-control-max-age", Value: c.MaxAge},
	} {
		if f.Value != "" {
			h.Fields.Set(f.Name, f.Value)
		}
	}
	ex.write(nil)
	return true
}

func setOrigin(l *header.List, origin string, c *config.CORS) {
	l.Set("access-control-allow-origin", origin)
	if c.Credentials {
		l.Set("access-control-allow-credentials", "true")
	}
}

// corsFields adds what an allowed origin is told with an answer.
func (ex *exchange) corsFields() {
	if ex.origin == "" {
		return
	}
	c := ex.route.CORS
	setOrigin(&ex.resp.Fields, ex.origin, c)
	if c.Expose != "" {
		ex.resp.Fields.Set("access-control-expose-headers", c.Expose)
	}
}
