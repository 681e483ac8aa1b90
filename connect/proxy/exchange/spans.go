// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/trace"
)

const traceparent = "traceparent"

// span is what of a trace a sampled request keeps; the zero span isn't sampled.
type span struct {
	trace.Context
	parent [8]byte
	state  string
}

// beginSpan takes the request's place in its trace, or begins one, and tells whom it is sent to. A trace that isn't sampled
// stays as it came.
func (ex *exchange) beginSpan(f *header.List, to *config.Spans) {
	i := f.Index(traceparent, 0)
	var from trace.Context
	known := false
	if i >= 0 {
		from, known = trace.Parse(f.At(i).Value)
	}
	switch {
	case !known:
		ex.span.Context = trace.Begin(falls(to.Share))
		f.Del("tracestate") // it belongs to a context that can't be read
		f.Set(traceparent, ex.span.String())
	case from.Sampled:
		ex.span.Context, ex.span.parent = from.Child(), from.Span
		ex.span.state, _ = f.Get("tracestate")
		f.SetAt(i, ex.span.String())
	}
}

// endSpan sends the span of a request that is over.
func (ex *exchange) endSpan(to *config.Spans, r *record) {
	s := trace.Span{
		Context: ex.span.Context, Parent: ex.span.parent, State: ex.span.state, Name: r.method + " " + r.destination,
		Kind: trace.Client, Begin: r.began, End: r.began.Add(r.took),
	}
	if r.direction == config.Inbound {
		s.Kind = trace.Server
	}
	var room [16]trace.Attribute
	all := room[:0]
	text := func(key, value string) {
		if value != "" {
			all = append(all, trace.Attribute{Key: key, Text: value})
		}
	}
	number := func(key string, n int64) {
		if n != 0 {
			all = append(all, trace.Attribute{Key: key, Int: n})
		}
	}
	path, _ := splitPath(r.path) // a query may hold secrets
	text("http.request.method", r.method)
	text("url.path", path)
	text("server.address", r.authority)
	text("network.protocol.name", r.protocol)
	number("http.response.status_code", int64(r.status))
	if ex.grpcCode >= 0 {
		all = append(all, trace.Attribute{Key: "rpc.grpc.status_code", Int: int64(ex.grpcCode)})
	}
	if r.remote != (netip.AddrPort{}) {
		text("client.address", r.remote.Addr().String())
	}
	text("weft.reason", string(r.reason))
	text("weft.source", r.source)
	text("weft.destination", r.destination)
	text("weft.route", r.route)
	text("weft.cluster", r.cluster)
	text("weft.upstream", r.upstream)
	number("http.request.body.size", r.toUp)
	number("http.response.body.size", r.toDown)
	s.Attributes = all
	s.Error = ex.failed(s.Kind, r)
	ex.e.config.Spans.Add(to.To, &s)
}

// failed is why a span counts as failed: a server's fault is its 5xx, a client's its 4xx too (OpenTelemetry's conventions for
// HTTP); gRPC says it in its own status.
func (ex *exchange) failed(kind trace.Kind, r *record) string {
	least := 500
	if kind == trace.Client {
		least = 400
	}
	switch {
	case r.reason != reason.None && r.reason != reason.Direct:
		return string(r.reason)
	case r.status >= least:
		return "http status"
	case failedGRPC(ex.grpcCode):
		return "grpc status"
	}
	return ""
}
