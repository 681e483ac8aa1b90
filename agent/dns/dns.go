// SPDX-License-Identifier: Apache-2.0

// Package dns answers DNS questions about the catalog, in Consul's forms: nodes, services, tags, RFC 2782, mesh endpoints,
// prepared queries, addresses, reverse names; other names go to recursors where there are any. What was asked for once is
// followed by blocking reads of the servers' API, so that answers come from memory; what is in memory outlives the servers
// by max_stale. It decides nothing about health or order that a prepared query has decided.
//
// Server.Run owns all goroutines: one per topic that is followed, a few that read packets, and one per TCP connection.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
)

// Config is what a Server is made of.
type Config struct {
	// Servers answers the catalog's, health's and queries' endpoints.
	Servers http.Handler
	// Token is what questions are asked with, nil for none.
	Token func() string
	// NodeName and Address are this agent's node, Datacenter its datacenter.
	NodeName, Address, Datacenter string
	// Listen are host:port, each for UDP and TCP.
	Listen []string
	Door   *listen.Door
	// Dial reaches recursors; nil: the network.
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Metrics prometheus.Registerer // nil for none
	Log     *slog.Logger
}

// Zones is what a server answers for, and how. It can change while the server runs.
type Zones struct {
	Settings Settings
	// Domain and AltDomain are the zones; the second may be empty.
	Domain, AltDomain string
	// Recursors are addresses, with or without a port, that names outside the zones are asked of.
	Recursors []string
	// TranslateWAN gives the "wan" addresses of what is in other datacenters.
	TranslateWAN bool
}

// Server answers DNS. Make it with New, and Run it.
type Server struct {
	c       Config
	source  *source
	rules   atomic.Pointer[rules]
	cache   *answers // of recursors
	queries *results // of prepared queries
	metrics *metrics
	slow    chan struct{} // a token per packet that waits for something
}

// rules are Zones, prepared.
type rules struct {
	Zones
	zones     []string // canonical
	recursors []string
}

const (
	slowMax    = 1024            // packets that wait for something at once; those beyond are SERVFAIL
	answerTime = 5 * time.Second // a question takes at most so long
)

// New makes a server. It opens nothing yet.
func New(c Config, z Zones) (*Server, error) {
	if c.Token == nil {
		c.Token = func() string { return "" }
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	s := &Server{c: c, cache: newAnswers(), queries: newResults(), slow: make(chan struct{}, slowMax)}
	if err := s.Configure(z); err != nil {
		return nil, err
	}
	s.source = &source{
		servers: c.Servers, token: c.Token, log: c.Log, entries: map[topic]*entry{},
		stale: func() bool { return s.rules.Load().Settings.AllowStale },
	}
	var err error
	s.metrics, err = newMetrics(c.Metrics)
	return s, err
}

// Validate finds what can't be; its errors name the key.
func (z *Zones) Validate() error {
	_, err := z.prepare()
	return err
}

func (z *Zones) prepare() (*rules, error) {
	r := &rules{Zones: *z}
	faults := []error{z.Settings.Validate()}
	for _, d := range []struct{ key, name string }{{"domain", z.Domain}, {"alt_domain", z.AltDomain}} {
		if d.name == "" && d.key == "alt_domain" {
			continue
		}
		if _, ok := dns.IsDomainName(d.name); !ok || strings.Trim(d.name, ".") == "" {
			faults = append(faults, fmt.Errorf("%s: %q isn't a domain name", d.key, d.name))
			continue
		}
		r.zones = append(r.zones, dns.CanonicalName(d.name))
	}
	for _, a := range z.Recursors {
		addr, err := recursorAddress(a)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		r.recursors = append(r.recursors, addr)
	}
	return r, errors.Join(faults...)
}

func recursorAddress(a string) (string, error) {
	if ip, err := netip.ParseAddr(strings.Trim(a, "[]")); err == nil {
		return net.JoinHostPort(ip.String(), "53"), nil
	}
	if _, err := netip.ParseAddrPort(a); err == nil {
		return a, nil
	}
	return "", fmt.Errorf("recursors: %q: want an IP address, with or without a port", a)
}

// Configure puts other zones and settings in force.
func (s *Server) Configure(z Zones) error {
	r, err := z.prepare()
	if err != nil {
		return err
	}
	for _, a := range r.recursors {
		if slices.Contains(s.c.Listen, a) {
			return fmt.Errorf("recursors: %s is where this agent answers itself", a)
		}
	}
	s.rules.Store(r)
	return nil
}

// Run opens the sockets and answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g := run.New(ctx)
	g.Go("topics", func(ctx context.Context) error { s.source.run(ctx); return nil })
	for i, address := range s.c.Listen {
		if err := s.open(g, i, address); err != nil {
			return errors.Join(err, g.Stop())
		}
	}
	return g.Wait()
}

// query is a question and all that its answer depends on.
type query struct {
	*rules
	s      *Server
	ctx    context.Context
	req    *dns.Msg
	msg    *dns.Msg // the answer
	q      dns.Question
	name   string // q.Name, canonical
	zone   string
	client netip.Addr // who asks, or the subnet that EDNS names
	subnet *dns.EDNS0_SUBNET
	tcp    bool
	block  bool // may wait; else errPending
	depth  int  // of names that stand for other names
}

// errPending says that the answer isn't in memory.
var errPending = errors.New("the answer has to be waited for")

// maxDepth is how many names a name may lead over.
const maxDepth = 3

// respond answers a request; nil where there is nothing to answer. Without block an answer that has to be waited for is
// errPending; with it there is always an answer, SERVFAIL at worst.
func (s *Server) respond(ctx context.Context, req *dns.Msg, client netip.Addr, tcp, block bool) (*dns.Msg, error) {
	if req.Response {
		return nil, nil
	}
	r := s.rules.Load()
	msg := new(dns.Msg)
	msg.Id, msg.Response, msg.Opcode = req.Id, true, req.Opcode
	msg.RecursionDesired, msg.CheckingDisabled = req.RecursionDesired, req.CheckingDisabled
	msg.RecursionAvailable = len(r.recursors) > 0
	msg.Compress = !r.Settings.DisableCompression
	msg.Question = req.Question
	q := &query{rules: r, s: s, ctx: ctx, req: req, msg: msg, client: client, tcp: tcp, block: block}
	switch {
	case req.Opcode != dns.OpcodeQuery && !guard.Off("C129"):
		msg.Rcode = dns.RcodeNotImplemented
	case len(req.Question) != 1:
		msg.Rcode = dns.RcodeFormatError
	default:
		if err := q.edns(); err != nil {
			break
		}
		q.q = req.Question[0]
		q.name = strings.ToLower(q.q.Name)
		if err := q.answer(); errors.Is(err, errPending) {
			return nil, err
		} else if err != nil {
			s.c.Log.Debug("question can't be answered", "name", q.name, "type", dns.TypeToString[q.q.Qtype], "error", err)
			msg.Answer, msg.Ns, msg.Extra = nil, nil, optOnly(msg.Extra)
			msg.Rcode = dns.RcodeServerFailure
		}
	}
	q.fit()
	s.metrics.answered(q.q.Qtype, msg.Rcode)
	return msg, nil
}

var errVersion = errors.New("an EDNS version that isn't known")

// edns reads the request's EDNS and puts ours into the answer.
func (q *query) edns() error {
	opt := q.req.IsEdns0()
	if opt == nil {
		return nil
	}
	ours := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	ours.SetUDPSize(udpPacket)
	if opt.Do() {
		ours.SetDo()
	}
	q.msg.Extra = append(q.msg.Extra, ours)
	if opt.Version() != 0 {
		q.msg.Rcode = dns.RcodeBadVers
		return errVersion
	}
	for _, o := range opt.Option {
		subnet, ok := o.(*dns.EDNS0_SUBNET)
		if !ok {
			continue
		}
		echo := *subnet
		echo.SourceScope = 0
		ours.Option = append(ours.Option, &echo)
		if ip, ok := netip.AddrFromSlice(subnet.Address); ok && subnet.SourceNetmask > 0 {
			q.client, q.subnet = ip.Unmap(), subnet
		}
		break
	}
	return nil
}

func optOnly(extra []dns.RR) []dns.RR {
	return slices.DeleteFunc(extra, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeOPT })
}

// answer fills in the answer.
func (q *query) answer() error {
	switch q.q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		q.msg.Rcode = dns.RcodeNotImplemented
		return nil
	}
	if zone, rest, ok := zoneOf(q.name, q.zones); ok && q.inet() {
		q.zone, q.msg.Authoritative = zone, true
		return q.local(parseName(rest))
	}
	if addr, ok := reverse(q.name); ok && q.inet() {
		found, err := q.pointer(addr)
		if err != nil || found {
			return err
		}
		if len(q.recursors) == 0 {
			q.zone, q.msg.Authoritative = q.zones[0], true
			q.none()
			return nil
		}
	}
	return q.recurse()
}

func (q *query) inet() bool { return q.q.Qclass == dns.ClassINET || q.q.Qclass == dns.ClassANY }

// local answers a name in one of the zones.
func (q *query) local(a asked) error {
	if a.dc == q.s.c.Datacenter {
		a.dc = ""
	}
	if a.dc != "" {
		v, err := q.view(topic{what: "datacenters"})
		if err != nil || !v.names[a.dc] {
			q.none()
			return err
		}
	}
	switch a.kind {
	case kindApex:
		return q.apex()
	case kindNS:
		q.address(q.q.Name, q.s.c.Address, q.seconds(q.Settings.NodeTTL))
	case kindAddr:
		q.address(q.q.Name, a.addr.String(), q.seconds(q.Settings.NodeTTL))
	case kindNode:
		return q.node(a)
	case kindService, kindConnect, kindIngress:
		return q.service(a)
	case kindVirtual:
		return q.virtual(a)
	case kindQuery:
		return q.prepared(a)
	default:
		q.none()
		return nil
	}
	q.settle()
	return nil
}

// none answers that there is no such name.
func (q *query) none() {
	q.msg.Rcode = dns.RcodeNameError
	q.msg.Answer = nil
	q.msg.Extra = optOnly(q.msg.Extra)
	q.msg.Ns = append(q.msg.Ns[:0], q.soa())
}

// settle adds the SOA to an answer without records: the name is there, the type isn't.
func (q *query) settle() {
	if len(q.msg.Answer) == 0 && q.msg.Rcode == dns.RcodeSuccess {
		q.msg.Ns = append(q.msg.Ns[:0], q.soa())
	}
}

func (q *query) seconds(d time.Duration) uint32 { return uint32(min(d/time.Second, 1<<31-1)) }

func (q *query) soa() dns.RR {
	s := q.Settings.SOA
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: q.zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: s.MinTTL},
		Ns:  "ns." + q.zone, Mbox: "hostmaster." + q.zone,
		Serial: uint32(time.Now().Unix()), Refresh: s.Refresh, Retry: s.Retry, Expire: s.Expire, Minttl: s.MinTTL,
	}
}

// view gives what is known of a topic now.
func (q *query) view(t topic) (*view, error) {
	now := time.Now()
	e, err := q.s.source.find(t, now)
	if err != nil {
		return nil, err
	}
	if e == nil { // too many are followed
		if !q.block {
			return nil, errPending
		}
		a, err := q.s.source.read(q.ctx, q.s.c.Token(), t, 0)
		return orNothing(a.view, err)
	}
	st := e.state.Load()
	if st == nil {
		if !q.block {
			return nil, errPending
		}
		select {
		case <-e.ready:
			st = e.state.Load()
		case <-q.ctx.Done():
			return nil, q.ctx.Err()
		}
	}
	switch {
	case st == nil: // it ended before it knew anything
		return nil, errNotRunning
	case st.view == nil:
		return orNothing(nil, st.err)
	case st.err != nil && !q.Settings.AllowStale:
		return nil, st.err
	case !st.asOf.IsZero() && now.Sub(st.asOf) > q.Settings.MaxStale:
		return nil, fmt.Errorf("what is known is older than max_stale: %w", cmpErr(st.err))
	}
	return st.view, nil
}

var errNoLeader = errors.New("the servers have no leader")

func cmpErr(err error) error {
	if err == nil {
		return errNoLeader
	}
	return err
}

// orNothing makes an empty view of an answer that says that nothing is there, or nothing to be seen.
func orNothing(v *view, err error) (*view, error) {
	if nothing(err) {
		return &view{}, nil
	}
	return v, err
}

func nothing(err error) bool {
	var status *statusError
	return errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusForbidden)
}

// shuffled gives at most limit instances in random order, each as likely as any other.
func shuffled(list []*instance, limit int) []*instance {
	n := len(list)
	if n == 0 {
		return nil
	}
	take := min(n, limit)
	out := make([]*instance, take)
	start := rand.IntN(n)
	for i := range out {
		out[i] = list[(start+i)%n]
	}
	rand.Shuffle(take, func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
