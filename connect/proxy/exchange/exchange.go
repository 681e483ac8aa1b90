// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"cmp"
	"context"
	"errors"
	"net"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h1"
	"github.com/weftmesh/weft/connect/proxy/h2"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/normalize"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// exchange is one request and its response. Its memory is used again.
type exchange struct {
	e    *Engine
	d    *downstream
	x    stream.ServerExchange
	req  *stream.RequestHead
	view *view
	lv   *listenerView
	http *config.HTTP

	host     *config.VirtualHost
	route    *config.Route
	weighted *config.WeightedCluster
	cluster  *clusterView

	resp      stream.ResponseHead
	answered  bool // the final head was handed to the codec
	grpc      bool
	grpcCode  int // -1: none seen
	proto     protocol
	rec       record
	trailers  header.List // a copy, for the log
	setCookie string
	origin    string            // that CORS allows
	rate      int64             // bytes in a second of the response, by a fault; 0: as it comes
	mirrors   []*clusterView    // that get a copy
	retrying  bool              // counted among the cluster's retries
	lent      bool              // the try has a connection of the pool, that may be given back before the exchange has ended
	gaveBack  bool              // it was: whoever has it now mustn't be disturbed
	bound     string            // where the caller's session is already
	decision  *config.Mutations // of the response, by who allowed the request

	span   span
	watch  watchdog
	source source
	room   scratch
	avoid  [4]*endpoint
}

var exchanges = sync.Pool{New: func() any { return &exchange{} }}

// serve is the codecs' handler.
func (d *downstream) serve(x stream.ServerExchange) {
	ex := exchanges.Get().(*exchange)
	d.served.Add(1)
	ex.begin(d, x)
	ex.run()
	ex.watch.end()
	if !d.multied {
		d.mu.Lock()
		d.now = nil
		d.mu.Unlock()
	}
	ex.finish()
	if s := d.server.Load(); s != nil && d.leaving() {
		s.Drain()
	}
	ex.recycle()
}

func (ex *exchange) recycle() {
	resp, trailers := ex.resp, ex.trailers
	resp.Reset()
	trailers.Reset()
	ex.e, ex.d, ex.x, ex.req, ex.view, ex.lv, ex.http = nil, nil, nil, nil, nil, nil, nil
	ex.host, ex.route, ex.weighted, ex.cluster = nil, nil, nil, nil
	ex.resp, ex.trailers, ex.rec = resp, trailers, record{}
	ex.answered, ex.grpc, ex.setCookie = false, false, ""
	ex.origin, ex.rate, ex.retrying, ex.lent, ex.gaveBack, ex.bound = "", 0, false, false, false, ""
	clear(ex.mirrors)
	ex.span, ex.decision = span{}, nil
	ex.mirrors, ex.source.copying = ex.mirrors[:0], false
	ex.source.read, ex.source.ended = 0, false
	ex.source.x, ex.source.to, ex.source.trailers = nil, nil, nil
	if cap(ex.source.replay) > smallBuffer*8 {
		ex.source.replay = nil
	}
	ex.avoid = [4]*endpoint{}
	ex.room.drop()
	exchanges.Put(ex)
}

// begin takes in the request as it came, and hooks the client's going away.
func (ex *exchange) begin(d *downstream, x stream.ServerExchange) {
	e := d.engine
	came := x
	ex.e, ex.d, ex.x, ex.req = e, d, x, x.Request()
	ex.view = e.current()
	ex.lv = d.listener(ex.view)
	ex.http = ex.lv.config.HTTP
	if ex.http.GRPCWeb {
		if w := webOf(x); w != nil {
			x, ex.x = w, w
		}
	}
	ex.grpc, ex.grpcCode = isGRPC(ex.req), -1
	switch {
	case ex.grpc:
		ex.proto = grpcProtocol
	case ex.req.Proto == stream.HTTP2:
		ex.proto = plainHTTP2
	default:
		ex.proto = plainHTTP
	}
	ex.rec = record{
		began: time.Now(), direction: ex.lv.config.Direction, source: d.source, method: ex.req.Method, path: ex.req.Path,
		authority: ex.req.Authority, protocol: ex.req.Proto.String(), remote: d.peer.Remote, local: d.peer.Local, sni: d.peer.SNI,
		peerURI: d.peer.URI,
	}
	turn := ex.watch.begin(e, x, e.at(ex.rec.began))
	if d.multied {
		if h, ok := came.(hooked); ok {
			h.Hook(&ex.watch, turn)
			return
		}
		context.AfterFunc(x.Context(), func() { ex.watch.Gone(turn) })
		return
	}
	d.mu.Lock()
	d.now = ex
	turnOfConn := d.turn
	d.mu.Unlock()
	ctx := x.Context() // asked for by each exchange: the codec looks for a client that hangs up only during those
	if !d.hooked {
		d.hooked = true
		context.AfterFunc(ctx, func() { d.gone(turnOfConn) })
	}
}

// hooked is an exchange that tells of its end by the peer without a context, which would cost more.
type hooked interface {
	Hook(h2.Hook, uint64)
}

// gone is called when an HTTP/1 client went away, or the turn has ended.
func (d *downstream) gone(turn uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now != nil && d.turn == turn {
		d.now.watch.kill(reason.DownstreamReset)
	}
}

// interrupt ends a ReadBody that waits for the client.
func (ex *exchange) interrupt(finished bool) {
	if !ex.d.multied {
		_ = ex.d.conn.SetReadDeadline(time.Unix(1, 0)) // a connection that knows no deadline is closed by its end
		return
	}
	code := stream.CodeCancel
	if finished {
		code = stream.CodeNone // RFC 9113 §8.1
	}
	ex.x.Reset(code)
}

// run does the request, whatever becomes of it.
func (ex *exchange) run() {
	if code := ex.prepare(); code != reason.None {
		ex.fail(code)
		return
	}
	if ex.answered {
		return
	}
	if c := ex.route.CORS; c != nil && ex.cors(c) {
		return
	}
	if l := ex.route.Limit; l != nil && ex.limited(l) {
		ex.fail(reason.RateLimited)
		return
	}
	if a := ex.http.Ask; a != nil && !ex.decided(a) {
		return
	}
	if a := ex.http.Adaptive; a != nil {
		if !a.Enter() {
			ex.fail(reason.Overloaded)
			return
		}
		began := ex.e.now()
		defer func() {
			now := ex.e.now()
			a.Leave(now, now-began, ex.rec.reason == reason.None)
		}()
	}
	if f := ex.route.Fault; f != nil && ex.fault(f) {
		return
	}
	switch r := ex.route; {
	case r.Redirect != nil:
		ex.redirect(r.Redirect)
	case r.Direct != nil:
		ex.rec.reason = reason.Direct
		ex.reply(r.Direct.Status, r.Direct.Body, "")
	case r.Forward != nil:
		ex.forward(r.Forward)
	default:
		ex.fail(reason.NoRoute)
	}
}

var escapedSlashes = [...]normalize.EscapedSlash{
	config.KeepEscaped: normalize.Keep, config.RejectEscaped: normalize.Reject,
	config.UnescapeRedirect: normalize.UnescapeRedirect, config.UnescapeForward: normalize.UnescapeForward,
}

// prepare brings the request to its normal form, finds its route, and asks whether it is allowed.
func (ex *exchange) prepare() reason.Code {
	req := ex.req
	if code := ex.vet(); code != reason.None {
		return code
	}
	if ex.http.Normalize {
		o := normalize.Options{EscapedSlash: escapedSlashes[ex.http.EscapedSlashes], KeepSlashes: !ex.http.MergeSlashes}
		path, redirect, err := o.Path(req.Path)
		if err != nil {
			return reason.BadPath
		}
		req.Path = path
		if redirect {
			ex.respondWith(307, "location", path)
			return reason.None
		}
	}
	authority := req.Authority
	if authority != "" {
		var err error
		if authority, err = normalize.Authority(authority); err != nil {
			return reason.BadRequest
		}
	}
	ex.forwardedFields()
	if ex.lv.routes != nil {
		ex.host = ex.lv.routes.host(authority)
	}
	if ex.host == nil {
		return reason.NoRoute
	}
	ex.route = route(ex.host, req)
	if ok, rule := allowed(ex.lv.config.Authorize, call{peer: ex.d.peer, req: req}); !ok {
		ex.rec.rule = rule
		return reason.RBACDenied
	}
	if ex.http.Authorize {
		policies := policiesOf(ex.host, ex.route)
		of := call{peer: ex.d.peer, req: req}
		if len(ex.http.Tokens) > 0 {
			var wrong bool
			if of.claims, wrong = verify(ex.http.Tokens, req, time.Now()); wrong {
				return reason.TokenInvalid
			}
		}
		ex.audit(policies, of)
		if ok, rule := allowed(policies, of); !ok {
			ex.rec.rule = rule
			return reason.RBACDenied
		}
	}
	if ex.route == nil {
		return reason.NoRoute
	}
	ex.rec.route = ex.route.Name
	return reason.None
}

// audit counts and logs what would be refused.
func (ex *exchange) audit(policies []*config.Policies, of call) {
	rule, refused := audited(policies, of)
	if !refused {
		return
	}
	if ex.d.edge != nil {
		ex.d.edge.ByProxy(reason.AuditDenied)
	}
	ex.e.config.Log.Info("would be denied", "source", ex.d.source, "peer", ex.rec.peerURI, "method", ex.req.Method, "path", ex.req.Path, "rule", rule)
}

// vet refuses what is never passed on.
func (ex *exchange) vet() reason.Code {
	req := ex.req
	switch {
	case req.Method == "CONNECT" && !guard.Off("C55"):
		return reason.UpgradeRefused
	case header.EqualFold(req.Upgrade, "h2c") && !guard.Off("C54"):
		req.Upgrade = "" // a server may go on without it (RFC 9110 §7.8)
	}
	if ex.http.RejectUnderscores && !guard.Off("C23") {
		for i := range req.Fields.Len() {
			name := req.Fields.At(i).Name
			for k := range len(name) {
				if name[k] == '_' {
					return reason.BadRequest
				}
			}
		}
	}
	return reason.None
}

// requestDone is called when the request has been sent on as a whole: its timeout begins.
func (ex *exchange) requestDone() {
	f := ex.route.Forward
	timeout := f.Timeout
	if f.MaxDuration > 0 {
		if left := max(1, f.MaxDuration-time.Since(ex.rec.began)); timeout == 0 || left < timeout {
			timeout = left
		}
	}
	if timeout > 0 && ex.req.Upgrade == "" {
		ex.watch.limit(0, timeout, 0)
	}
	ex.startMirrors()
}

// forward sends the request to its cluster.
func (ex *exchange) forward(f *config.Forward) {
	if ex.req.Upgrade != "" && !(header.EqualFold(ex.req.Upgrade, "websocket") && (ex.http.Websocket || f.Upgrade)) {
		ex.fail(reason.UpgradeRefused)
		return
	}
	var c choice
	c.avoid = ex.avoid[:0]
	ex.hash(f, &c)
	if s := ex.route.Session; s != nil {
		ex.session(s, &c)
		ex.bound = c.want
	}
	ex.weighted = choose(f, &c)
	if ex.weighted != nil {
		ex.rec.cluster = ex.weighted.Cluster
		ex.cluster = ex.view.clusters[ex.weighted.Cluster]
	}
	if ex.cluster == nil {
		ex.fail(reason.NoCluster)
		return
	}
	state := ex.cluster.state
	if !enter(&state.requests, ex.cluster.config.Limits.Requests) {
		ex.fail(reason.UpstreamOverflow)
		return
	}
	defer state.requests.Add(-1)
	if b := ex.cluster.config.Limits.Budget; b != nil {
		state.earn(b)
	}
	ex.rewrite(f)
	ex.watch.limit(cmp.Or(f.IdleTimeout, cmp.Or(ex.http.StreamIdle, defaultStreamIdle)), f.MaxDuration, 0)
	ex.mirrored(f)
	if ex.req.ExpectContinue && ex.d.multied {
		_ = ex.x.WriteInformational(&stream.ResponseHead{Status: 100}) // a client that is gone is noticed below
	}
	ex.req.ExpectContinue = false // the codec answers it when the body is read
	if ex.req.Upgrade != "" {
		ex.req.Length = 0
	}
	ex.source.begin(ex, ex.x, ex.req.Length)
	ex.tries(f, &c)
}

// choose draws a cluster by weight, or by what the request is hashed by.
func choose(f *config.Forward, c *choice) *config.WeightedCluster {
	all := f.Clusters
	switch len(all) {
	case 0:
		return nil
	case 1:
		return &all[0]
	}
	var sum uint64
	for i := range all {
		sum += uint64(all[i].Weight)
	}
	if sum == 0 {
		return nil
	}
	n := randomUint64() % sum
	if f.ByHash && c.hashed {
		n = mix(c.hash) % sum // another mixture than the one by which a hashing cluster chooses
	}
	for i := range all {
		if w := uint64(all[i].Weight); n < w {
			return &all[i]
		} else {
			n -= w
		}
	}
	return nil
}

// failure is why a try has no response to pass on.
type failure struct {
	code    reason.Code
	err     error
	unsent  bool          // the server certainly processed nothing
	connect bool          // no connection was made
	final   bool          // another try would be the same
	status  int           // an answer that the policy may want again
	after   time.Duration // that it asks to wait
}

// classify says what an error of a try means.
func (ex *exchange) classify(err error) failure {
	cause, late := ex.watch.state()
	switch {
	case cause != reason.None:
		return failure{code: cause, err: err, final: true}
	case late:
		return failure{code: reason.UpstreamTimeout, err: err}
	case strangers(err):
		return failure{code: reason.UpstreamTLSFailure, err: err, unsent: true}
	case errors.Is(err, stream.ErrNotSent):
		return failure{code: reason.UpstreamReset, err: err, unsent: true, final: errors.Is(err, stream.ErrMalformed)}
	case errors.Is(err, h1.ErrStale) && idempotent(ex.req.Method):
		return failure{code: reason.UpstreamReset, err: err, unsent: true}
	case errors.Is(err, stream.ErrMalformed), errors.Is(err, stream.ErrTooLarge):
		return failure{code: reason.UpstreamProtocol, err: err}
	case ex.grpc && ex.deadlinePassed():
		return failure{code: reason.UpstreamTimeout, err: err, final: true} // the server ended it for that, before the client did
	}
	return failure{code: reason.UpstreamReset, err: err}
}

// deadlinePassed says whether the time that a gRPC call gave itself (the grpc-timeout header) is over.
func (ex *exchange) deadlinePassed() bool {
	v, ok := ex.req.Fields.Get("grpc-timeout")
	if !ok || len(v) < 2 {
		return false
	}
	n, err := strconv.ParseInt(v[:len(v)-1], 10, 32)
	unit, known := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}[v[len(v)-1]]
	return err == nil && known && time.Since(ex.rec.began) >= time.Duration(n)*unit
}

// strangers says whether the other side refused our certificate. In TLS 1.3 that arrives after the handshake and the request
// have been sent (RFC 8446 §4.4.2.4): the server has read neither.
func strangers(err error) bool {
	// crypto/tls keeps the type to itself: an alert of the peer is a number in an OpError.
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" {
		return false
	}
	alert := reflect.ValueOf(remote.Err)
	if alert.Kind() != reflect.Uint8 {
		return false
	}
	switch alert.Uint() {
	case 42, 43, 44, 45, 46, 48, 49, 116: // bad, unsupported, revoked, expired, unknown, unknown CA, access denied, required
		return true
	}
	return false
}

func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// finish counts and logs.
func (ex *exchange) finish() {
	r := &ex.rec
	r.took = time.Since(r.began)
	if r.status == 0 && r.reason == reason.None {
		r.reason = reason.DownstreamReset
	}
	edge := ex.d.edge
	if edge == nil {
		if ex.cluster != nil {
			edge = ex.cluster.edge
		} else {
			edge = ex.e.config.Metrics.Outbound("")
		}
	}
	edge.request(ex.proto, r.status, ex.grpcCode, r.took)
	if r.status != 101 {
		r.toUp = ex.source.read
	}
	edge.Bytes(r.toUp, r.toDown)
	if r.reason != reason.None {
		edge.ByProxy(r.reason)
	}
	r.destination = edge.key.destination
	if ex.span.Sampled && ex.http.Spans != nil {
		ex.endSpan(ex.http.Spans, r)
	}
	if ex.lv.log == nil {
		return
	}
	r.request, r.response, r.trailers = &ex.req.Fields, &ex.resp.Fields, &ex.trailers
	ex.e.config.Logs.log(ex.lv.log, r)
}

// noteGRPC takes grpc-status from a head or trailers.
func (ex *exchange) noteGRPC(l *header.List) {
	if !ex.grpc || l == nil {
		return
	}
	if v, ok := l.Get("grpc-status"); ok {
		if n, err := strconv.Atoi(v); err == nil {
			ex.grpcCode = n
		}
	}
}
