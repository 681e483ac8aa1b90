// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"encoding/hex"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// The most records that an answer over TCP has.
const (
	maxTCP    = 4096
	maxTCPSRV = 1024
)

// records is how many records this answer can have at most, before its size is looked at; more are more than the limit.
func (q *query) records() int {
	switch {
	case q.tcp && q.q.Qtype == dns.TypeSRV:
		return maxTCPSRV
	case q.tcp:
		return maxTCP
	case q.req.IsEdns0() == nil:
		return max(32, q.Settings.UDPAnswerLimit+1)
	}
	return udpSize(q.req)/16 + 1
}

// addresses is how many addresses an answer needs at most: one beyond the limit over UDP shows that there are more.
func (q *query) addresses() int {
	if limit := q.Settings.UDPAnswerLimit; limit > 0 && !q.tcp && q.zone != "" && q.q.Qtype != dns.TypeANY && udpSize(q.req) == dns.MinMsgSize {
		return limit + 1
	}
	return q.records()
}

// address adds the record of an address, if it is of the type that was asked for: A, AAAA, or CNAME for a name.
func (q *query) address(owner, addr string, ttl uint32) bool {
	rr := q.addressRR(owner, addr, ttl)
	if rr == nil {
		return false
	}
	t := rr.Header().Rrtype
	if t == q.q.Qtype || q.q.Qtype == dns.TypeANY || t == dns.TypeCNAME && (q.q.Qtype == dns.TypeA || q.q.Qtype == dns.TypeAAAA) {
		q.msg.Answer = append(q.msg.Answer, rr)
		return true
	}
	return false
}

// addressRR is an address's record, nil for what is neither an address nor a name.
func (q *query) addressRR(owner, addr string, ttl uint32) dns.RR {
	h := dns.RR_Header{Name: owner, Class: dns.ClassINET, Ttl: ttl}
	if ip, err := netip.ParseAddr(addr); err == nil {
		if ip = ip.Unmap(); ip.Is4() {
			h.Rrtype = dns.TypeA
			return &dns.A{Hdr: h, A: ip.AsSlice()}
		}
		h.Rrtype = dns.TypeAAAA
		return &dns.AAAA{Hdr: h, AAAA: ip.AsSlice()}
	}
	if _, ok := dns.IsDomainName(addr); !ok || addr == "" {
		return nil
	}
	h.Rrtype = dns.TypeCNAME
	return &dns.CNAME{Hdr: h, Target: dns.Fqdn(addr)}
}

// node answers <node>.node.
func (q *query) node(a asked) error {
	v, err := q.view(topic{what: "nodes", place: a.place})
	if err != nil {
		return err
	}
	n := v.nodes[a.name]
	if n == nil {
		q.none()
		return nil
	}
	ttl := q.seconds(q.Settings.NodeTTL)
	if q.address(q.q.Name, q.nodeAddress(n), ttl) {
		if err := q.chase(ttl); err != nil {
			return err
		}
	}
	switch q.q.Qtype {
	case dns.TypeTXT, dns.TypeANY:
		q.msg.Answer = append(q.msg.Answer, textRRs(q.q.Name, n, ttl)...)
	default:
		if q.Settings.EnableAdditionalNodeMetaTXT && len(q.msg.Answer) > 0 {
			q.msg.Extra = append(q.msg.Extra, textRRs(q.q.Name, n, ttl)...)
		}
	}
	q.settle()
	return nil
}

func textRRs(owner string, n *node, ttl uint32) []dns.RR {
	var out []dns.RR
	for _, t := range n.texts {
		out = append(out, &dns.TXT{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl}, Txt: t})
	}
	return out
}

// nodeAddress is where a node is reached from here.
func (q *query) nodeAddress(n *node) string {
	if q.TranslateWAN && n.Datacenter != "" && n.Datacenter != q.s.c.Datacenter && n.TaggedAddresses["wan"] != "" {
		return n.TaggedAddresses["wan"]
	}
	return n.Address
}

// serviceAddress is where an instance is reached from here; own says whether that is an address of its own, not its node's.
func (q *query) serviceAddress(i *instance) (addr string, port int, own bool) {
	if q.TranslateWAN && i.Node.Datacenter != "" && i.Node.Datacenter != q.s.c.Datacenter {
		if wan := i.Service.TaggedAddresses["wan"]; wan.Address != "" {
			return wan.Address, cmp.Or(wan.Port, i.Service.Port), true
		}
	}
	if i.Service.Address != "" {
		return i.Service.Address, i.Service.Port, true
	}
	return q.nodeAddress(&i.Node), i.Service.Port, false
}

// service answers names of services. Those that no list has aren't followed: a stream of random names costs nothing.
func (q *query) service(a asked) error {
	what := "service"
	switch a.kind {
	case kindConnect:
		what = "connect"
	case kindIngress:
		what = "ingress"
	default:
		known, err := q.view(topic{what: "services", place: a.place})
		if err != nil {
			return err
		}
		if !known.names[a.name] {
			q.none()
			return nil
		}
	}
	v, err := q.view(topic{what: what, name: a.name, place: a.place})
	if err != nil {
		return err
	}
	healthy := v.up
	if q.Settings.OnlyPassing {
		healthy = v.passing
	}
	if a.tag != "" {
		healthy = slices.DeleteFunc(slices.Clone(healthy), func(i *instance) bool { return !i.tagged(a.tag) })
	}
	if len(healthy) == 0 {
		q.none()
		return nil
	}
	return q.instances(shuffled(healthy, q.records()), q.seconds(q.Settings.serviceTTL(a.name)))
}

// instances answers with instances in the order given.
func (q *query) instances(list []*instance, ttl uint32) error {
	if q.q.Qtype == dns.TypeSRV {
		return q.srv(list, ttl)
	}
	most := q.addresses()
	seen := make(map[string]bool, min(len(list), most))
	var name string
	for _, i := range list {
		addr, _, _ := q.serviceAddress(i)
		if seen[addr] {
			continue
		}
		seen[addr] = true
		if _, err := netip.ParseAddr(addr); err != nil {
			name = cmp.Or(name, addr)
			continue
		}
		q.address(q.q.Name, addr, ttl)
		if limit := q.Settings.ARecordLimit; limit > 0 && len(q.msg.Answer) == limit || len(q.msg.Answer) == most {
			break
		}
	}
	if len(q.msg.Answer) == 0 && name != "" && q.address(q.q.Name, name, ttl) { // one at most: a name can stand for one other only
		if err := q.chase(ttl); err != nil {
			return err
		}
	}
	if q.q.Qtype == dns.TypeANY {
		if err := q.srv(list, ttl); err != nil {
			return err
		}
	}
	q.settle()
	return nil
}

// target is where an instance stands in SRV records.
type target struct {
	name string
	port int
}

func (q *query) srv(list []*instance, ttl uint32) error {
	seen := make(map[target]bool, min(len(list), q.records()))
	extra := map[string]bool{}
	for _, i := range list {
		addr, port, own := q.serviceAddress(i)
		t := target{q.targetName(i, addr, own), port}
		if t.name == "" || seen[t] || port < 0 || port > 65535 {
			continue
		}
		seen[t] = true
		q.msg.Answer = append(q.msg.Answer, &dns.SRV{
			Hdr: dns.RR_Header{Name: q.q.Name, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: ttl}, Priority: 1, Weight: i.weight(),
			Port: uint16(port), Target: t.name,
		})
		if extra[t.name] {
			continue
		}
		extra[t.name] = true
		if rr := q.addressRR(t.name, addr, ttl); rr != nil && t.name != dns.Fqdn(addr) {
			q.msg.Extra = append(q.msg.Extra, rr)
		} else if rr != nil && q.depth < maxDepth {
			further, err := q.resolve(dns.Fqdn(addr), dns.TypeA)
			if err != nil {
				return err
			}
			q.msg.Extra = append(q.msg.Extra, further...)
		}
		if !own && q.Settings.EnableAdditionalNodeMetaTXT {
			q.msg.Extra = append(q.msg.Extra, textRRs(t.name, &i.Node, ttl)...)
		}
	}
	q.settle()
	return nil
}

// targetName is the name that stands for an instance's address: its node's, a hexadecimal one, or the name that it has.
func (q *query) targetName(i *instance, addr string, own bool) string {
	dc := cmp.Or(i.Node.Datacenter, q.s.c.Datacenter)
	if !own {
		name := escapeName(i.Node.Node) + ".node." + dc + "." + q.zone
		if _, ok := dns.IsDomainName(name); ok {
			return name
		}
	}
	if ip, err := netip.ParseAddr(addr); err == nil {
		return hex.EncodeToString(ip.Unmap().AsSlice()) + ".addr." + dc + "." + q.zone
	}
	if _, ok := dns.IsDomainName(addr); ok && addr != "" {
		return dns.Fqdn(addr)
	}
	return ""
}

// escapeName escapes what would mean something else in a name; dots stay.
func escapeName(s string) string {
	if !strings.ContainsAny(s, `\"();@$ `) {
		return s
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte(`\"();@$ `, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// virtual answers <service>.virtual with the address that stands for the service as a whole: the one that the catalog gave it, else the one
// that an instance of it names.
func (q *query) virtual(a asked) error {
	known, err := q.view(topic{what: "services", place: a.place})
	if err != nil {
		return err
	}
	for _, from := range []struct{ what, tag string }{{"connect", "consul-virtual"}, {"service", "consul-virtual"}, {"service", "virtual"}} {
		if from.what == "service" && !known.names[a.name] {
			continue
		}
		v, err := q.view(topic{what: from.what, name: a.name, place: a.place})
		if err != nil {
			return err
		}
		for _, i := range v.instances {
			if addr := i.Service.TaggedAddresses[from.tag].Address; addr != "" {
				q.address(q.q.Name, addr, q.seconds(q.Settings.NodeTTL))
				q.settle()
				return nil
			}
		}
	}
	q.none()
	return nil
}

// apex answers for the zone itself.
func (q *query) apex() error {
	t := q.q.Qtype
	if t == dns.TypeSOA || t == dns.TypeANY {
		q.msg.Answer = append(q.msg.Answer, q.soa())
	}
	if t == dns.TypeNS || t == dns.TypeSOA || t == dns.TypeANY {
		ns, glue, err := q.nameServers()
		if err != nil {
			return err
		}
		if t == dns.TypeSOA {
			q.msg.Ns = append(q.msg.Ns, ns...)
		} else {
			q.msg.Answer = append(q.msg.Answer, ns...)
		}
		q.msg.Extra = append(q.msg.Extra, glue...)
	}
	q.settle()
	return nil
}

// maxNS is how many servers are named as name servers.
const maxNS = 3

// nameServers are up to three servers, or this agent where the catalog names none.
func (q *query) nameServers() (ns, glue []dns.RR, err error) {
	v := &view{}
	known, err := q.view(topic{what: "services"})
	if err == nil && known.names["consul"] {
		v, err = q.view(topic{what: "service", name: "consul"})
	}
	if err != nil {
		return nil, nil, err
	}
	type server struct{ name, addr string }
	var servers []server
	for _, i := range shuffled(v.instances, maxNS) {
		if i.status != "critical" {
			servers = append(servers, server{i.Node.Node, q.nodeAddress(&i.Node)})
		}
	}
	if len(servers) == 0 {
		servers = append(servers, server{q.s.c.NodeName, q.s.c.Address})
	}
	ttl := q.seconds(q.Settings.NodeTTL)
	for _, s := range servers {
		name := escapeName(s.name) + ".node." + q.s.c.Datacenter + "." + q.zone
		if _, ok := dns.IsDomainName(name); !ok {
			continue
		}
		ns = append(ns, &dns.NS{Hdr: dns.RR_Header{Name: q.zone, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: ttl}, Ns: name})
		if rr := q.addressRR(name, s.addr, ttl); rr != nil {
			glue = append(glue, rr)
		}
	}
	return ns, glue, nil
}

// prepared answers <query>.query by running it on a server.
func (q *query) prepared(a asked) error {
	token := q.s.c.Token()
	key := question{topic: topic{what: "query", name: a.name, place: a.place}, token: token}
	if q.subnet != nil {
		key.client = q.client
	}
	now := time.Now()
	r, ok := q.s.queries.get(key, now)
	if !ok {
		if !q.block {
			return errPending
		}
		var err error
		if r, err = q.execute(a, token); err != nil {
			return err
		}
		if q.Settings.UseCache {
			q.s.queries.put(key, r, now, now.Add(cmp.Or(q.Settings.CacheMaxAge, queryAge)))
		}
	}
	if r == nil || len(r.Nodes) == 0 {
		q.none()
		return nil
	}
	ttl := q.seconds(q.Settings.serviceTTL(strings.ToLower(r.Service)))
	if r.hasTTL {
		ttl = q.seconds(r.ttl)
	}
	list := r.Nodes[:min(len(r.Nodes), q.records())]
	if !r.near {
		list = shuffled(r.Nodes, q.records())
	}
	return q.instances(list, ttl)
}

// queryAge is how long the result of a prepared query is kept with use_cache and no cache_max_age.
const queryAge = 10 * time.Second

// execute runs a prepared query; nil where there is none of that name.
func (q *query) execute(a asked, token string) (*result, error) {
	header := http.Header{}
	if q.client.IsValid() {
		header.Set("X-Forwarded-For", q.client.String())
	}
	values := a.place.query()
	if q.Settings.AllowStale {
		values.Set("stale", "")
	}
	w, err := q.s.source.get(q.ctx, token, "/v1/query/"+url.PathEscape(a.name)+"/execute", values, header)
	if _, err := orNothing(nil, err); err != nil {
		return nil, err
	}
	if w == nil {
		return nil, nil
	}
	return decodeResult(w.Body.Bytes())
}

// pointer answers a reverse name, if the catalog knows the address: nodes first, else services.
func (q *query) pointer(addr netip.Addr) (found bool, err error) {
	v, err := q.view(topic{what: "nodes"})
	if err != nil {
		return false, err
	}
	zone := q.zones[0]
	var targets []string
	if n := v.addresses[addr.String()]; n != "" {
		targets = append(targets, escapeName(n)+".node."+q.s.c.Datacenter+"."+zone)
	}
	if len(targets) == 0 {
		names, err := q.servicesAt(addr)
		if err != nil {
			return false, err
		}
		for _, n := range names {
			targets = append(targets, escapeName(n)+".service."+zone)
		}
	}
	if len(targets) == 0 {
		return false, nil
	}
	q.zone, q.msg.Authoritative = zone, true
	if q.q.Qtype == dns.TypePTR || q.q.Qtype == dns.TypeANY {
		for _, t := range targets {
			if _, ok := dns.IsDomainName(t); ok {
				q.msg.Answer = append(q.msg.Answer, &dns.PTR{
					Hdr: dns.RR_Header{Name: q.q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: q.seconds(q.Settings.NodeTTL)}, Ptr: t,
				})
			}
		}
	}
	q.settle()
	return true, nil
}

// servicesAt are the services that have an instance at this address.
func (q *query) servicesAt(addr netip.Addr) ([]string, error) {
	r := q.s.queries
	if !r.mu.TryLock() { // somebody makes the list
		if !q.block {
			return nil, errPending
		}
		r.mu.Lock()
	}
	defer r.mu.Unlock()
	if now := time.Now(); r.at == nil || !now.Before(r.until) {
		if !q.block {
			return nil, errPending
		}
		at, err := q.serviceAddresses()
		if err != nil {
			return nil, err
		}
		r.at, r.until = at, now.Add(reverseAge)
	}
	return r.at[addr.String()], nil
}

func (q *query) serviceAddresses() (map[string][]string, error) {
	known, err := q.view(topic{what: "services"})
	if err != nil {
		return nil, err
	}
	at := map[string][]string{}
	for _, name := range sortedKeys(known.names) {
		a, err := q.s.source.read(q.ctx, q.s.c.Token(), topic{what: "service", name: name}, 0)
		if err != nil {
			return nil, err
		}
		for _, i := range a.view.instances {
			if ip, err := netip.ParseAddr(i.Service.Address); err == nil {
				key := ip.Unmap().String()
				if !slices.Contains(at[key], i.Service.Service) {
					at[key] = append(at[key], i.Service.Service)
				}
			}
		}
	}
	return at, nil
}

// reverseAge is how old the list of services by address may be.
const reverseAge = 10 * time.Second
