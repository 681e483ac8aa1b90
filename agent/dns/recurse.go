// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// udpPacket is the packet size that we tell others: it passes without fragments.
const udpPacket = 1232

var errNoRecursor = errors.New("no recursor answered")

// recurse answers a name outside the zones from the recursors.
func (q *query) recurse() error {
	if len(q.recursors) == 0 {
		q.msg.Rcode = dns.RcodeRefused
		return nil
	}
	if !q.req.RecursionDesired {
		q.msg.Rcode = dns.RcodeRefused
		return nil
	}
	m, err := q.foreign(q.q)
	if err != nil {
		return err
	}
	q.msg.Rcode, q.msg.AuthenticatedData = m.Rcode, m.AuthenticatedData
	q.msg.Answer, q.msg.Ns = m.Answer, m.Ns
	q.msg.Extra = append(q.msg.Extra, m.Extra...)
	return nil
}

// foreign is a recursor's answer, from the cache if it is there. Its records are the caller's own.
func (q *query) foreign(ask dns.Question) (*dns.Msg, error) {
	opt := q.req.IsEdns0()
	key := answerKey{strings.ToLower(ask.Name), ask.Qtype, ask.Qclass, opt != nil && opt.Do(), q.req.CheckingDisabled}
	now := time.Now()
	if m := q.s.cache.get(key, now); m != nil {
		return m, nil
	}
	if !q.block {
		return nil, errPending
	}
	req := new(dns.Msg)
	req.Id = dns.Id()
	req.RecursionDesired, req.CheckingDisabled = true, key.cd
	req.Question = []dns.Question{ask}
	req.SetEdns0(udpPacket, key.do)
	servers := q.recursors
	if q.Settings.RecursorStrategy == "random" {
		servers = slices.Clone(servers)
		rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	}
	var faults []error
	for _, server := range servers {
		m, err := q.s.exchange(q.ctx, req, server, q.Settings.RecursorTimeout)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", server, err))
			continue
		}
		m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool {
			t := rr.Header().Rrtype
			return t == dns.TypeOPT || t == dns.TypeTSIG
		})
		q.s.cache.put(key, m, now)
		return m, nil
	}
	return nil, errors.Join(append(faults, errNoRecursor)...)
}

// exchange asks one recursor, over TCP where the answer doesn't fit a packet.
func (s *Server) exchange(ctx context.Context, req *dns.Msg, server string, timeout time.Duration) (*dns.Msg, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var m *dns.Msg
	for _, network := range []string{"udp", "tcp"} {
		conn, err := s.c.Dial(ctx, network, server)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		client := &dns.Client{Net: network, UDPSize: udpPacket, Timeout: timeout}
		m, _, err = client.ExchangeWithConnContext(ctx, req, &dns.Conn{Conn: conn, UDPSize: udpPacket})
		stop()
		_ = conn.Close() // what it had to say was read
		if err != nil {
			return nil, err
		}
		if !m.Truncated {
			break
		}
	}
	if len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, req.Question[0].Name) || m.Question[0].Qtype != req.Question[0].Qtype {
		return nil, errors.New("it answers another question")
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("it answers %s", dns.RcodeToString[m.Rcode])
	}
	return m, nil
}

// chase adds what the name that the last record leads to stands for.
func (q *query) chase(uint32) error {
	if len(q.msg.Answer) == 0 || q.q.Qtype == dns.TypeCNAME {
		return nil
	}
	c, ok := q.msg.Answer[len(q.msg.Answer)-1].(*dns.CNAME)
	if !ok {
		return nil
	}
	t := q.q.Qtype
	if t == dns.TypeANY {
		t = dns.TypeA
	}
	more, err := q.resolve(c.Target, t)
	q.msg.Answer = append(q.msg.Answer, more...)
	return err
}

// resolve gives the records that a name leads to: from our zones, or from the recursors. Where nobody knows it, none.
func (q *query) resolve(name string, qtype uint16) ([]dns.RR, error) {
	if q.depth >= maxDepth {
		return nil, nil
	}
	ask := dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET}
	if zone, rest, ok := zoneOf(strings.ToLower(name), q.zones); ok {
		inner := *q
		inner.q, inner.name, inner.zone, inner.depth = ask, strings.ToLower(name), zone, q.depth+1
		inner.msg = &dns.Msg{}
		if err := inner.local(parseName(rest)); err != nil {
			return nil, err
		}
		return inner.msg.Answer, nil
	}
	if len(q.recursors) == 0 {
		return nil, nil
	}
	m, err := q.foreign(ask)
	if errors.Is(err, errNoRecursor) {
		return nil, nil // the CNAME alone is an answer
	}
	if err != nil {
		return nil, err
	}
	return m.Answer, nil
}
