// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h1"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// decision is what another program said of a request.
type decision struct {
	allowed bool
	// Of one that allows: what becomes of the request, and of the response.
	edits    []edit
	remove   []string
	response []edit
	setQuery []config.HeaderValue
	delQuery []string
	// Of one that refuses.
	status int
	fields []edit
	body   []byte
}

// edit is a field that is set, or added beside those of its name.
type edit struct {
	name, value string
	add         bool
	absent      bool // only where there is none of the name
	present     bool // only where there is one
}

// decided asks another program about the request. False: it was answered. It is asked once for a request, however often that is
// tried, and for an upgrade once.
func (ex *exchange) decided(a *config.Ask) bool {
	if a.Only != nil {
		if asked, _ := passes(a.Only, &call{peer: ex.d.peer, req: ex.req}); !asked {
			ex.unsaid(a)
			return true
		}
	}
	body, partial, ok := ex.takeBody(a)
	if !ok {
		return false
	}
	d, err := ex.ask(a, body, partial)
	cause, _ := ex.watch.state()
	ex.watch.newTry()
	switch {
	case cause != reason.None:
		ex.fail(cause)
		return false
	case err != nil:
		return ex.undecided(a, err)
	case !d.allowed:
		ex.refuse(d)
		return false
	}
	ex.unsaid(a)
	ex.allow(d)
	return true
}

// unsaid takes out of the request what only the program may say of it: the caller's field of the name doesn't stand for one that the
// answer lacks. What a caller identifies itself by stays, as the program was shown it.
func (ex *exchange) unsaid(a *config.Ask) {
	if a.GRPC || len(a.Pass) == 0 || guard.Off("C32") {
		return
	}
	for i := ex.req.Fields.Len() - 1; i >= 0; i-- {
		name := ex.req.Fields.At(i).Name
		if matchAny(a.Pass, name) && changeable(name) && !header.EqualFold(name, "authorization") && !header.EqualFold(name, "cookie") {
			ex.req.Fields.Del(name)
			i = min(i, ex.req.Fields.Len())
		}
	}
}

// Asks says whether somebody else would be asked about a request of a peer to a listener, without asking; as Consider.
func (e *Engine) Asks(listener string, peer *config.Peer, req *stream.RequestHead) bool {
	lv := e.current().listeners[listener]
	if lv == nil || lv.config.HTTP == nil || lv.config.HTTP.Ask == nil {
		return false
	}
	if lv.config.HTTP.Ask.Only == nil {
		return true
	}
	asked, _ := passes(lv.config.HTTP.Ask.Only, &call{peer: peer, req: req})
	return asked
}

// undecided lets a request by about which nobody decided, or refuses it.
func (ex *exchange) undecided(a *config.Ask, err error) bool {
	now := ex.e.now()
	if last := ex.e.told.Load(); (last == 0 || now-last > int64(time.Second)) && ex.e.told.CompareAndSwap(last, now) {
		what, code := "a request is refused: nobody decides about it", reason.AuthzError
		if a.Open {
			what, code = "a request is let by: nobody decides about it", reason.AuthzOpen
		}
		ex.e.config.Log.Warn(what, "reason", string(code), "asked", a.Authority, "source", ex.d.source, "method", ex.req.Method, "path", ex.req.Path, "error", err)
	}
	if a.Open {
		ex.unsaid(a)
		if ex.d.edge != nil {
			ex.d.edge.ByProxy(reason.AuthzOpen)
		}
		return true
	}
	ex.rec.reason = reason.AuthzError
	ex.grpcCode = grpcOf(a.Status)
	ex.reply(a.Status, []byte(answers[reason.AuthzError].text+"\n"), reason.AuthzError)
	return false
}

// refuse answers as the program says.
func (ex *exchange) refuse(d *decision) {
	ex.rec.reason = reason.AuthzDenied
	h := &ex.resp
	h.Reset()
	h.Status = d.status
	apply(&h.Fields, d.fields)
	h.Fields.Set(reason.Header, string(reason.AuthzDenied))
	if ex.grpc {
		ex.grpcCode = grpcOf(d.status)
		h.Status = 200
		h.Fields.Set("content-type", grpcType)
		h.Fields.Set("grpc-status", strconv.Itoa(ex.grpcCode))
		if text := strings.TrimSpace(string(d.body)); text != "" {
			h.Fields.Set("grpc-message", grpcMessage(text))
		}
		ex.write(nil)
		return
	}
	if len(d.body) > 0 && h.Fields.Index("content-type", 0) < 0 {
		h.Fields.Add("content-type", plainText)
	}
	h.Length, h.HasLength = int64(len(d.body)), true
	ex.write(d.body)
}

// grpcMessage escapes what can't stand in a header (gRPC over HTTP2, Status-Message).
func grpcMessage(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// allow makes of the request what the program says.
func (ex *exchange) allow(d *decision) {
	for _, name := range d.remove {
		if changeable(name) {
			ex.req.Fields.Del(name)
		}
	}
	apply(&ex.req.Fields, d.edits)
	if len(d.setQuery)+len(d.delQuery) > 0 {
		ex.req.Path = withQuery(ex.req.Path, d.setQuery, d.delQuery)
	}
	if len(d.response) > 0 {
		m := &config.Mutations{}
		for _, e := range d.response {
			switch {
			case !changeable(e.name) || !plainValue(e.value):
			case e.add:
				m.Add = append(m.Add, config.HeaderValue{Name: e.name, Value: e.value})
			default:
				m.Set = append(m.Set, config.HeaderValue{Name: e.name, Value: e.value})
			}
		}
		ex.decision = m
	}
}

func apply(l *header.List, edits []edit) {
	for _, e := range edits {
		there := l.Index(e.name, 0) >= 0
		switch {
		case !changeable(e.name) || !plainValue(e.value) || e.absent && there || e.present && !there:
		case e.add:
			l.Add(e.name, e.value)
		default:
			l.Set(e.name, e.value)
		}
	}
}

// changeable says whether another program may change a field: those by which messages are framed, and by which requests are routed, it
// mayn't.
func changeable(name string) bool {
	lower := strings.ToLower(name)
	return lower != "" && lower[0] != ':' && !strings.HasPrefix(lower, "x-envoy-") && !slices.Contains(fixed[:], lower) &&
		!strings.ContainsFunc(lower, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
		})
}

var fixed = [...]string{
	"host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings", "expect",
}

func plainValue(v string) bool {
	return !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// withQuery changes parameters of a path's query; the others stay as they came.
func withQuery(path string, set []config.HeaderValue, del []string) string {
	bare, query := splitPath(path)
	var kept []string
	for pair := range strings.SplitSeq(strings.TrimPrefix(query, "?"), "&") {
		name, _, _ := strings.Cut(pair, "=")
		if pair != "" && !slices.Contains(del, name) && !slices.ContainsFunc(set, func(s config.HeaderValue) bool { return s.Name == name }) {
			kept = append(kept, pair)
		}
	}
	for _, s := range set {
		if !strings.ContainsFunc(s.Name+s.Value, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '&' || r == '#' }) {
			kept = append(kept, s.Name+"="+s.Value)
		}
	}
	if len(kept) == 0 {
		return bare
	}
	return bare + "?" + strings.Join(kept, "&")
}

// ask asks, at another place where no connection could be made, until the time is over.
func (ex *exchange) ask(a *config.Ask, body []byte, partial bool) (*decision, error) {
	v := ex.view.clusters[a.Cluster]
	if v == nil {
		return nil, errNoCluster
	}
	if !enter(&v.state.requests, v.config.Limits.Requests) {
		return nil, errLimit
	}
	defer v.state.requests.Add(-1)
	ex.watch.newTry()
	ex.watch.limit(0, 0, a.Timeout)
	c := choice{}
	for try := 0; ; try++ {
		c.nowNano = ex.e.now()
		ep, proving := v.take(&c)
		if ep == nil {
			return nil, errNoEndpoint
		}
		ep.active.Add(1)
		d, again, err := ex.askAt(a, v, ep, body, partial)
		ep.active.Add(-1)
		v.proved(ep, proving)
		cause, late := ex.watch.state()
		switch {
		case late:
			return nil, fmt.Errorf("no decision in %s: %w", a.Timeout, errTooLate)
		case err == nil || !again || try == freeTries || cause != reason.None:
			return d, err
		}
		c.avoid = append(c.avoid, ep)
	}
}

var errTooLate = errors.New("its time is over")

// askAt asks at one place. Again says that it was certainly not heard there.
func (ex *exchange) askAt(a *config.Ask, v *clusterView, ep *endpoint, body []byte, partial bool) (d *decision, again bool, err error) {
	wire := v.upstreamWire(stream.HTTP11)
	if a.GRPC {
		wire = http2
	}
	l, _, err := v.acquire(slow{context: ex.slowContext, makers: ex.d.makers}, ep, wire)
	if err != nil {
		return nil, true, err
	}
	ex.watch.hold(l.ClientExchange)
	head, sent := ex.question(a, body, partial)
	var resp stream.ResponseHead
	data, err := l.asked(head, sent, &resp)
	ex.watch.hold(nil)
	if err != nil {
		l.Reset(stream.CodeCancel)
		if cause, _ := ex.watch.state(); cause != reason.DownstreamReset {
			v.report(ep, failedLocal)
		}
	} else if a.GRPC {
		d, err = grpcDecision(&resp, l.Trailers(), data)
	} else {
		d, err = httpDecision(a, &resp, data)
	}
	if err == nil {
		v.report(ep, succeeded)
	}
	v.release(l)
	return d, errors.Is(err, stream.ErrNotSent) || errors.Is(err, h1.ErrStale), err
}

// mostSaid bounds what a decision may be long.
const mostSaid = 64 << 10

var errTooLong = errors.New("the decision is longer than 64 KiB")

// asked sends a short request and reads the answer.
func (l lease) asked(head *stream.RequestHead, body []byte, resp *stream.ResponseHead) ([]byte, error) {
	err := l.WriteHead(head, len(body) == 0)
	switch {
	case err != nil:
	case len(body) == 0:
		err = l.Flush()
	default:
		if err = l.WriteBody(body); err == nil {
			err = l.Finish(nil)
		}
	}
	for resp.Status < 200 && err == nil {
		resp.Reset()
		err = l.ReadHead(resp)
	}
	var said []byte
	for room := make([]byte, 4<<10); err == nil; {
		var n int
		n, err = l.ReadBody(room)
		if said = append(said, room[:n]...); len(said) > mostSaid {
			return nil, errTooLong
		}
	}
	if err == io.EOF {
		err = nil
	}
	return said, err
}
