// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/weftmesh/weft/catalog"
)

// kind is what a name in the zone asks for.
type kind uint8

const (
	kindInvalid kind = iota // nothing has this form
	kindApex                // the zone itself
	kindNS                  // ns.<zone>, the SOA's name server
	kindNode
	kindService
	kindConnect
	kindVirtual
	kindIngress
	kindQuery
	kindAddr
)

var kinds = map[string]kind{
	"node": kindNode, "service": kindService, "connect": kindConnect, "virtual": kindVirtual, "ingress": kindIngress, "query": kindQuery,
	"addr": kindAddr,
}

// place is where something is looked up; empty parts are the agent's own.
type place struct {
	dc, peer, namespace, partition string
}

// asked is a parsed name of the zone.
type asked struct {
	kind kind
	name string // of the node, service or query, in lower case
	tag  string
	place
	addr netip.Addr
}

// zoneOf finds which of the zones (canonical, with a final dot) a canonical name is in, the longest first, and the rest of the
// name before it.
func zoneOf(name string, zones []string) (zone, rest string, ok bool) {
	for _, z := range zones {
		if len(z) <= len(zone) {
			continue
		}
		if name == z {
			zone, rest, ok = z, "", true
		} else if r, in := strings.CutSuffix(name, z); in && strings.HasSuffix(r, ".") && !strings.HasSuffix(r, `\.`) {
			zone, rest, ok = z, r, true
		}
	}
	return zone, rest, ok
}

// parseName reads what stands before the zone. The forms are Consul's.
func parseName(rest string) asked {
	if rest == "" {
		return asked{kind: kindApex}
	}
	labels := dns.SplitDomainName(rest)
	for i, l := range labels {
		labels[i] = unescape(l)
	}
	if len(labels) == 1 && labels[0] == "ns" {
		return asked{kind: kindNS}
	}
	labels, at, explicit, ok := cutPlace(labels)
	if !ok {
		return asked{}
	}
	if len(labels) >= 2 && strings.HasPrefix(labels[0], "_") && strings.HasPrefix(labels[1], "_") {
		return parseRFC2782(labels, at, explicit)
	}
	n := len(labels)
	switch {
	case at.namespace != "" && !catalog.ValidNamespace(at.namespace):
		return asked{}
	case n >= 2 && kinds[labels[n-1]] != 0:
		return named(kinds[labels[n-1]], labels[:n-1], at)
	case n >= 3 && kinds[labels[n-2]] != 0 && !explicit:
		k := kinds[labels[n-2]]
		if k == kindVirtual {
			at.peer = labels[n-1]
		} else {
			at.dc = labels[n-1]
		}
		return named(k, labels[:n-2], at)
	case n >= 4 && inNamespace(kinds[labels[n-3]]) && !explicit && catalog.ValidNamespace(labels[n-2]):
		at.namespace, at.dc = labels[n-2], labels[n-1]
		return named(kinds[labels[n-3]], labels[:n-3], at)
	}
	return asked{}
}

// inNamespace says whether what a name asks for may be in a namespace, by the older form <service>.service.<namespace>.<datacenter>. There is
// none with a namespace alone: that is a datacenter.
func inNamespace(k kind) bool { return k == kindService || k == kindConnect || k == kindVirtual }

// cutPlace takes the explicit pairs off the end: <dc>.dc, <peer>.peer, <namespace>.ns, <partition>.ap.
func cutPlace(labels []string) (rest []string, at place, explicit, ok bool) {
	for len(labels) >= 3 {
		value := labels[len(labels)-2]
		var to *string
		switch labels[len(labels)-1] {
		case "dc":
			to = &at.dc
		case "peer":
			to = &at.peer
		case "ns":
			to = &at.namespace
		case "ap":
			to = &at.partition
		default:
			return labels, at, explicit, true
		}
		if *to != "" {
			return nil, at, true, false
		}
		*to, explicit, labels = value, true, labels[:len(labels)-2]
	}
	return labels, at, explicit, !(at.dc != "" && at.peer != "")
}

// parseRFC2782 reads _service._tag[.service][.dc], and _query._tcp.query[.dc].
func parseRFC2782(labels []string, at place, explicit bool) asked {
	a := asked{kind: kindService, name: labels[0][1:], tag: labels[1][1:], place: at}
	tail := labels[2:]
	if len(tail) > 0 && kinds[tail[0]] != 0 {
		a.kind, tail = kinds[tail[0]], tail[1:]
	}
	switch {
	case len(tail) == 1 && !explicit:
		a.dc = tail[0]
	case len(tail) == 2 && !explicit && inNamespace(a.kind) && catalog.ValidNamespace(tail[0]):
		a.namespace, a.dc = tail[0], tail[1]
	case len(tail) > 0:
		return asked{}
	}
	switch a.kind {
	case kindService, kindConnect, kindIngress, kindQuery:
	default:
		return asked{}
	}
	if a.tag == "tcp" || a.kind != kindService {
		a.tag = ""
	}
	bad := a.namespace != "" && (!catalog.ValidNamespace(a.namespace) || a.kind == kindIngress && a.namespace != catalog.DefaultNamespace)
	if a.name == "" || bad {
		return asked{}
	}
	return a
}

// named is the question of a kind with the labels before it.
func named(k kind, before []string, at place) asked {
	a := asked{kind: k, place: at}
	switch last := before[len(before)-1]; k {
	case kindService:
		a.name, a.tag = last, strings.Join(before[:len(before)-1], ".")
	case kindNode, kindQuery:
		a.name = strings.Join(before, ".")
	case kindAddr:
		raw, err := hex.DecodeString(last)
		addr, ok := netip.AddrFromSlice(raw)
		if err != nil || !ok || len(before) != 1 {
			return asked{}
		}
		a.addr = addr
	default:
		if len(before) != 1 || k == kindIngress && at.namespace != "" && at.namespace != catalog.DefaultNamespace {
			return asked{} // gateways are of the default namespace
		}
		a.name = last
	}
	if a.name == "" && k != kindAddr {
		return asked{}
	}
	return a
}

// unescape undoes the escapes of a label in presentation form.
func unescape(label string) string {
	if !strings.Contains(label, `\`) {
		return label
	}
	var b strings.Builder
	for i := 0; i < len(label); i++ {
		if label[i] != '\\' || i+1 == len(label) {
			b.WriteByte(label[i])
			continue
		}
		if i+3 < len(label) {
			if n, err := strconv.ParseUint(label[i+1:i+4], 10, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		i++
		b.WriteByte(label[i])
	}
	return b.String()
}

// reverse is the address that a name under in-addr.arpa or ip6.arpa stands for.
func reverse(name string) (netip.Addr, bool) {
	if r, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(r, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		addr, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return addr, err == nil
	}
	r, ok := strings.CutSuffix(name, ".ip6.arpa.")
	parts := strings.Split(r, ".")
	if !ok || len(parts) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 31; i >= 0; i-- {
		if len(parts[i]) != 1 {
			return netip.Addr{}, false
		}
		b.WriteString(parts[i])
	}
	raw, err := hex.DecodeString(b.String())
	addr, valid := netip.AddrFromSlice(raw)
	return addr, err == nil && valid
}
