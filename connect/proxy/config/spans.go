// SPDX-License-Identifier: Apache-2.0

package config

import "github.com/weftmesh/weft/connect/proxy/trace"

// Spans is where spans of a listener's requests go.
type Spans struct {
	To trace.Target
	// Share is how many of the requests that come without a traceparent are sampled.
	Share Share
}
