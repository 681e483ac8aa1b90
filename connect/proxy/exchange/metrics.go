// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// Metrics counts what a proxy does, by edge: direction, source and destination. It is a prometheus.Collector. The hot path
// adds to numbers of an Edge that was looked up before.
type Metrics struct {
	own string

	mu    sync.Mutex // guards edges; held only to find an edge or list them
	edges map[edgeKey]*Edge
}

type edgeKey struct {
	direction           config.Direction
	source, destination string
}

// NewMetrics makes the metrics of one service's proxy.
func NewMetrics(source string) *Metrics {
	return &Metrics{own: source, edges: map[edgeKey]*Edge{}}
}

// Edge is the numbers of one edge. Its methods may be called by any goroutine, also on a nil Edge.
type Edge struct {
	key edgeKey

	requests [protocols][6]atomic.Uint64 // by status / 100, 0 for none
	grpc     [17]atomic.Uint64           // by status; the last is for what isn't one
	seconds  [len(buckets) + 1]atomic.Uint64
	nanos    atomic.Uint64
	opened   [results]atomic.Uint64
	open     atomic.Int64
	bytes    [2]atomic.Uint64 // to the destination, to the source
	byProxy  [len(reasons)]atomic.Uint64
}

// protocol is how a request is counted.
type protocol uint8

const (
	plainHTTP protocol = iota
	plainHTTP2
	grpcProtocol
	protocols
)

var protocolNames = [protocols]string{"http", "http2", "grpc"}

// Result is how the making of a connection ended.
type Result uint8

// The results.
const (
	Connected Result = iota
	ConnectFailed
	TLSFailed
	Overflow
	Refused // no healthy endpoint, or not allowed
	results
)

var resultNames = [results]string{"ok", "connect_failure", "tls_failure", "overflow", "refused"}

var buckets = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

var reasons = [...]reason.Code{
	reason.RBACDenied, reason.NoRoute, reason.NoCluster, reason.NoHealthyUpstream, reason.UpstreamConnectFailure,
	reason.UpstreamTLSFailure, reason.UpstreamReset, reason.UpstreamTimeout, reason.StreamIdleTimeout, reason.UpstreamOverflow,
	reason.UpstreamProtocol, reason.BadRequest, reason.BadPath, reason.HeaderTooLarge, reason.UpgradeRefused, reason.Draining,
	reason.DownstreamTLSFailure, reason.DownstreamReset, reason.Direct, reason.FaultInjected,
	reason.RateLimited, reason.AuditDenied, reason.Overloaded, reason.TokenInvalid, reason.NoDestination, reason.LocalIdentity,
	reason.AuthzDenied, reason.AuthzError, reason.AuthzBody, reason.AuthzOpen,
}

// Edge finds or makes an edge; "" is an unknown service. Keep what it gives: finding takes a lock.
func (m *Metrics) Edge(d config.Direction, source, destination string) *Edge {
	k := edgeKey{d, orUnknown(source), orUnknown(destination)}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.edges[k]
	if e == nil {
		e = &Edge{key: k}
		m.edges[k] = e
	}
	return e
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// Outbound is the edge from the proxy's own service to another.
func (m *Metrics) Outbound(destination string) *Edge {
	return m.Edge(config.Outbound, m.own, destination)
}

// Inbound is the edge from a caller to the proxy's own service.
func (m *Metrics) Inbound(source string) *Edge { return m.Edge(config.Inbound, source, m.own) }

// Connection counts the making of a connection; where it was made, Closed counts its end.
func (e *Edge) Connection(r Result) {
	if e == nil {
		return
	}
	e.opened[r].Add(1)
	if r == Connected {
		e.open.Add(1)
	}
}

// Closed counts the end of a connection.
func (e *Edge) Closed() {
	if e != nil {
		e.open.Add(-1)
	}
}

// Bytes counts what was carried to the destination and to the source.
func (e *Edge) Bytes(toDestination, toSource int64) {
	if e != nil {
		e.bytes[0].Add(uint64(max(0, toDestination)))
		e.bytes[1].Add(uint64(max(0, toSource)))
	}
}

// ByProxy counts what the proxy answered or closed by itself.
func (e *Edge) ByProxy(code reason.Code) {
	if e == nil {
		return
	}
	for i, r := range reasons {
		if r == code {
			e.byProxy[i].Add(1)
			return
		}
	}
}

// request counts a request that is over; status 0 is one without an answer, grpc -1 one that isn't gRPC's.
func (e *Edge) request(p protocol, status, grpc int, took time.Duration) {
	if e == nil {
		return
	}
	class := status / 100
	if class < 0 || class > 5 {
		class = 0
	}
	e.requests[p][class].Add(1)
	if p == grpcProtocol {
		if grpc < 0 || grpc > 16 {
			grpc = 2 // no status is UNKNOWN to a gRPC client
		}
		e.grpc[grpc].Add(1)
	}
	i := 0
	for i < len(buckets) && took > buckets[i] {
		i++
	}
	e.seconds[i].Add(1)
	e.nanos.Add(uint64(max(0, took)))
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"direction", "source", "destination"}, labels...), nil)
}

var (
	requestsDesc    = desc("weft_proxy_requests_total", "Requests that are over, by class of their status (0xx: no answer).", "protocol", "class")
	grpcDesc        = desc("weft_proxy_grpc_responses_total", "gRPC responses by status.", "code")
	secondsDesc     = desc("weft_proxy_request_seconds", "Time from a request's head to the end of its response.")
	connectionsDesc = desc("weft_proxy_connections_total", "Connections, by how making them ended.", "result")
	openDesc        = desc("weft_proxy_connections_open", "Open connections.")
	bytesDesc       = desc("weft_proxy_bytes_total", "Bytes of bodies and tunnels: to_destination or to_source.", "way")
	byProxyDesc     = desc("weft_proxy_responses_by_proxy_total", "What the proxy answered or closed by itself.", "reason")
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, grpcDesc, secondsDesc, connectionsDesc, openDesc, bytesDesc, byProxyDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	all := make([]*Edge, 0, len(m.edges))
	for _, e := range m.edges {
		all = append(all, e)
	}
	m.mu.Unlock()
	for _, e := range all {
		e.collect(ch)
	}
}

func (e *Edge) collect(ch chan<- prometheus.Metric) {
	base := []string{e.key.direction.String(), e.key.source, e.key.destination}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		if v > 0 {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append(base[:3:3], labels...)...)
		}
	}
	for p := range e.requests {
		for class := range e.requests[p] {
			counter(requestsDesc, e.requests[p][class].Load(), protocolNames[p], strconv.Itoa(class)+"xx")
		}
	}
	for code := range e.grpc {
		counter(grpcDesc, e.grpc[code].Load(), strconv.Itoa(code))
	}
	var count uint64
	upTo := make(map[float64]uint64, len(buckets))
	for i := range e.seconds {
		count += e.seconds[i].Load()
		if i < len(buckets) {
			upTo[buckets[i].Seconds()] = count
		}
	}
	if count > 0 {
		ch <- prometheus.MustNewConstHistogram(secondsDesc, count, time.Duration(e.nanos.Load()).Seconds(), upTo, base...)
	}
	for r := range e.opened {
		counter(connectionsDesc, e.opened[r].Load(), resultNames[r])
	}
	ch <- prometheus.MustNewConstMetric(openDesc, prometheus.GaugeValue, float64(e.open.Load()), base...)
	counter(bytesDesc, e.bytes[0].Load(), "to_destination")
	counter(bytesDesc, e.bytes[1].Load(), "to_source")
	for i, r := range reasons {
		counter(byProxyDesc, e.byProxy[i].Load(), string(r))
	}
}
