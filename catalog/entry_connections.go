// SPDX-License-Identifier: Apache-2.0

package catalog

import "time"

// Connections is how connections to an upstream are kept: those that carry requests, but for KeepAlive, which is for all. What is
// zero isn't said.
type Connections struct {
	// IdleTimeout closes a connection that has carried no request for so long.
	IdleTimeout time.Duration `json:",omitempty"`
	// MaxAge is how old a connection may become: then it takes no more requests, and goes with its last.
	MaxAge time.Duration `json:",omitempty"`
	// MaxStreams is how many requests are on an HTTP/2 connection at once; for more there are more connections.
	MaxStreams int `json:",omitempty"`
	// Ping asks an HTTP/2 connection on which requests wait whether it is alive.
	Ping *Ping `json:",omitempty"`
	// KeepAlive has the system ask a connection on which nothing moves whether it is alive.
	KeepAlive *KeepAlive `json:",omitempty"`
}

// Ping is HTTP/2's: after Interval without a sign of life, and the connection ends if none comes in Timeout.
type Ping struct {
	Interval time.Duration
	Timeout  time.Duration `json:",omitempty"` // 10 s
}

// KeepAlive is TCP's, in whole seconds: after Time without a byte, then every Interval; Probes unanswered ones end the connection.
type KeepAlive struct {
	Time     time.Duration `json:",omitempty"`
	Interval time.Duration `json:",omitempty"`
	Probes   int           `json:",omitempty"`
}

// InboundConnections is how an instance's sidecar keeps the connections of callers.
type InboundConnections struct {
	// IdleTimeout closes a connection without a request, or of a TCP service one on which nothing moves, for so long.
	IdleTimeout time.Duration `json:",omitempty"`
	// MaxAge is how old a connection may become: with requests it takes no more and goes with its last, of a TCP service it is cut.
	MaxAge time.Duration `json:",omitempty"`
	// MaxRequests is how many requests a connection carries.
	MaxRequests int `json:",omitempty"`
	// MaxStreams is how many requests are on an HTTP/2 connection at once: 1000 if nothing is said.
	MaxStreams int `json:",omitempty"`
	// MaxConcurrentRequests is how many the application gets at once; more are answered with 503.
	MaxConcurrentRequests int `json:",omitempty"`
}

// The forms of the PROXY protocol.
const (
	ProxyProtocolV1 = "v1"
	ProxyProtocolV2 = "v2"
)

func (c *Connections) validate(f string) error {
	if c == nil {
		return nil
	}
	err := firstError(notNegativeTime(f+".IdleTimeout", c.IdleTimeout), notNegativeTime(f+".MaxAge", c.MaxAge), notNegative(f+".MaxStreams", c.MaxStreams))
	if err == nil && c.Ping != nil && (c.Ping.Interval < time.Second || c.Ping.Timeout < 0) {
		err = invalidf("%s.Ping: Interval must be at least a second, and Timeout not negative", f)
	}
	if k := c.KeepAlive; err == nil && k != nil {
		for _, v := range []struct {
			name string
			d    time.Duration
		}{{"Time", k.Time}, {"Interval", k.Interval}} {
			if v.d < 0 || v.d%time.Second != 0 {
				return invalidf("%s.KeepAlive.%s must be whole seconds, got %s", f, v.name, v.d)
			}
		}
		err = notNegative(f+".KeepAlive.Probes", k.Probes)
	}
	return err
}

func (c *InboundConnections) validate(f string) error {
	if c == nil {
		return nil
	}
	return firstError(notNegativeTime(f+".IdleTimeout", c.IdleTimeout), notNegativeTime(f+".MaxAge", c.MaxAge), notNegative(f+".MaxRequests", c.MaxRequests),
		notNegative(f+".MaxStreams", c.MaxStreams), notNegative(f+".MaxConcurrentRequests", c.MaxConcurrentRequests))
}

func notNegativeTime(f string, d time.Duration) error {
	if d < 0 {
		return invalidf("%s must not be negative, got %s", f, d)
	}
	return nil
}

// validateInbound checks how callers' connections are kept, and that what is about requests is said of a protocol that has some.
func (e *ServiceDefaults) validateInbound() error {
	if err := firstError(e.InboundConnections.validate("InboundConnections"),
		oneOf("LocalProxyProtocol", e.LocalProxyProtocol, "", ProxyProtocolV1, ProxyProtocolV2)); err != nil {
		return err
	}
	if e.LocalProxyProtocol != "" && HTTPLike(e.Protocol) {
		return invalidf("LocalProxyProtocol is for Protocol tcp, not %q: requests say who calls in x-forwarded-client-cert", e.Protocol)
	}
	if c := e.InboundConnections; c != nil && e.Protocol == ProtocolTCP {
		for _, v := range []struct {
			name string
			n    int
		}{{"MaxRequests", c.MaxRequests}, {"MaxStreams", c.MaxStreams}, {"MaxConcurrentRequests", c.MaxConcurrentRequests}} {
			if v.n > 0 {
				return invalidf("InboundConnections.%s needs a Protocol with requests, not %q", v.name, e.Protocol)
			}
		}
	}
	return nil
}
