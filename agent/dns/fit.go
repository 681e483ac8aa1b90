// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"sort"

	"github.com/miekg/dns"
)

// udpSize is the largest packet that who asks takes.
func udpSize(req *dns.Msg) int {
	if opt := req.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), dns.MinMsgSize), 65467)
	}
	return dns.MinMsgSize
}

// fit cuts the answer to what the transport and the settings allow.
func (q *query) fit() {
	m := q.msg
	size, cut := dns.MaxMsgSize-1, false
	if !q.tcp {
		size = udpSize(q.req)
		// only here, as Consul does: who takes larger packets has said so
		if limit := q.Settings.UDPAnswerLimit; size == dns.MinMsgSize && limit > 0 && q.zone != "" && len(m.Answer) > limit {
			keep(m, limit)
			cut = true
		}
	} else if n := q.records(); len(m.Answer) > n {
		keep(m, n)
		cut = true
	}
	if rough(m) > size && m.Len() > size {
		cut = true
		shrink(m, size)
	}
	if cut && (q.Settings.EnableTruncate || q.zone == "") {
		m.Truncated = true
	}
}

// rough is a size that the message doesn't reach, cheaply found.
func rough(m *dns.Msg) int {
	n := 12
	if len(m.Question) > 0 {
		n += len(m.Question[0].Name) + 6
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		if len(section) > 8 {
			return dns.MaxMsgSize
		}
		for _, rr := range section {
			switch rr := rr.(type) {
			case *dns.A, *dns.AAAA:
				n += len(rr.Header().Name) + 28
			default:
				n += dns.Len(rr)
			}
		}
	}
	return n
}

// keep leaves the first n records of the answer, and of the additional ones those that belong to them.
func keep(m *dns.Msg, n int) {
	m.Answer = m.Answer[:n]
	if len(m.Extra) == 0 {
		return
	}
	targets := make(map[string]bool, n)
	for _, rr := range m.Answer {
		targets[rr.Header().Name] = true
		switch rr := rr.(type) {
		case *dns.SRV:
			targets[rr.Target] = true
		case *dns.NS:
			targets[rr.Ns] = true
		}
	}
	extra := make([]dns.RR, 0, len(m.Extra))
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT || targets[rr.Header().Name] {
			extra = append(extra, rr)
		}
	}
	m.Extra = extra
}

// shrink leaves as many records as fit. Additional ones that belong to none of them go first, all where even one doesn't fit.
func shrink(m *dns.Msg, size int) {
	whole := *m
	fits := func(n int) bool {
		c := whole
		keep(&c, n)
		return c.Len() <= size
	}
	n := sort.Search(len(m.Answer), func(i int) bool { return !fits(i + 1) })
	if n > 0 || len(m.Answer) == 0 {
		keep(m, n)
	} else {
		m.Extra = optOnly(m.Extra)
		for len(m.Answer) > 0 && m.Len() > size {
			m.Answer = m.Answer[:len(m.Answer)-1]
		}
	}
	if m.Len() > size {
		m.Ns, m.Extra = nil, optOnly(m.Extra)
	}
}
