// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// form is a question with its answer, as short writes it.
type form struct {
	name  string
	qtype uint16
	want  string
}

const soa = "\n-SOA consul."

// checkForms asks each, of servers that know world, and wants Consul's answer.
func checkForms(t *testing.T, forms []form) {
	t.Helper()
	z := zones()
	z.TranslateWAN = true
	z.Settings.NodeTTL = 2 * time.Second
	z.Settings.ServiceTTL = map[string]time.Duration{"*": time.Second, "we*": 5 * time.Second, "api": 9 * time.Second}
	s := running(t, world(), z, nil)
	for _, c := range forms {
		if diff := cmp.Diff(c.want, short(ask(t, s, c.name, c.qtype))); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.name, dns.TypeToString[c.qtype], diff)
		}
	}
}

// Nodes and services, by every form of their names and every type.
func TestNodesAndServices(t *testing.T) {
	checkForms(t, []form{
		{"n1.node.consul.", dns.TypeA, "NOERROR\nn1.node.consul. 2 A 10.0.0.1\n" +
			"+n1.node.consul. 2 TXT \"a`=b=c\"\n+n1.node.consul. 2 TXT \"as it is\"\n+n1.node.consul. 2 TXT \"rack=r1\""},
		{"N1.Node.Consul.", dns.TypeAAAA, "NOERROR" + soa},
		{"n1.node.dc1.consul.", dns.TypeTXT, "NOERROR\nn1.node.dc1.consul. 2 TXT \"a`=b=c\"\nn1.node.dc1.consul. 2 TXT \"as it is\"\nn1.node.dc1.consul. 2 TXT \"rack=r1\""},
		{"six.node.consul.", dns.TypeAAAA, "NOERROR\nsix.node.consul. 2 AAAA fd00::6"},
		{"n.dotted.node.consul.", dns.TypeA, "NOERROR\nn.dotted.node.consul. 2 A 10.0.0.3"},
		{"named.node.consul.", dns.TypeA, "NOERROR\nn1.node.consul. 2 A 10.0.0.1\nnamed.node.consul. 2 CNAME n1.node.consul."},
		{"named.node.consul.", dns.TypeCNAME, "NOERROR\nnamed.node.consul. 2 CNAME n1.node.consul."},
		{"outside.node.consul.", dns.TypeA, "NOERROR\noutside.node.consul. 2 CNAME db.example.com."},
		{"r1.node.dc2.consul.", dns.TypeA, "NOERROR\nr1.node.dc2.consul. 2 A 198.51.100.7"},
		{"n1.node.dc9.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"nobody.node.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"web.service.consul.", dns.TypeA, "NOERROR\nweb.service.consul. 5 A 10.0.0.1\nweb.service.consul. 5 A 10.1.1.1"},
		{"web.service.mesh.test.", dns.TypeA, "NOERROR\nweb.service.mesh.test. 5 A 10.0.0.1\nweb.service.mesh.test. 5 A 10.1.1.1"},
		{"v1.web.service.consul.", dns.TypeA, "NOERROR\nv1.web.service.consul. 5 A 10.0.0.1"},
		{"v2.web.service.dc1.consul.", dns.TypeA, "NOERROR\nv2.web.service.dc1.consul. 5 A 10.1.1.1"},
		{"blue.green.web.service.consul.", dns.TypeA, "NOERROR\nblue.green.web.service.consul. 5 A 10.1.1.1"},
		{"v9.web.service.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"web.service.consul.", dns.TypeAAAA, "NOERROR" + soa},
		{"web.service.consul.", dns.TypeMX, "NOERROR" + soa},
		{"upper.service.consul.", dns.TypeA, "NOERROR\nupper.service.consul. 1 A 10.0.0.1"},
		{"six.service.consul.", dns.TypeSRV, "NOERROR\nsix.service.consul. 1 SRV 1 3 80 fd000000000000000000000000000066.addr.dc1.consul.\n" +
			"+fd000000000000000000000000000066.addr.dc1.consul. 1 AAAA fd00::66"},
		{"down.service.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"nothing.service.consul.", dns.TypeSRV, "NXDOMAIN" + soa},
		{"web.service.consul.", dns.TypeSRV, "NOERROR\nweb.service.consul. 5 SRV 1 1 81 0a010101.addr.dc1.consul.\nweb.service.consul. 5 SRV 1 3 80 n1.node.dc1.consul.\n" +
			"+0a010101.addr.dc1.consul. 5 A 10.1.1.1\n+n1.node.dc1.consul. 5 A 10.0.0.1\n+n1.node.dc1.consul. 5 TXT \"rack=r1\""},
		{"_web._tcp.service.consul.", dns.TypeA, "NOERROR\n_web._tcp.service.consul. 5 A 10.0.0.1\n_web._tcp.service.consul. 5 A 10.1.1.1"},
		{"_web._v1.consul.", dns.TypeA, "NOERROR\n_web._v1.consul. 5 A 10.0.0.1"},
		{"_web._v1.service.dc1.consul.", dns.TypeA, "NOERROR\n_web._v1.service.dc1.consul. 5 A 10.0.0.1"},
		{"_web._v1.dc1.consul.", dns.TypeA, "NOERROR\n_web._v1.dc1.consul. 5 A 10.0.0.1"},
		{"web.service.dc2.consul.", dns.TypeA, "NOERROR\nweb.service.dc2.consul. 5 A 198.51.100.7"},
		{"web.service.dc2.dc.consul.", dns.TypeSRV, "NOERROR\nweb.service.dc2.dc.consul. 5 SRV 1 3 80 r1.node.dc2.consul.\n+r1.node.dc2.consul. 5 A 198.51.100.7\n+r1.node.dc2.consul. 5 TXT \"rack=r1\""},
		{"web.service.dc9.dc.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"pay.service.east.peer.consul.", dns.TypeA, "NOERROR\npay.service.east.peer.consul. 1 A 10.8.0.1"},
		{"ext.service.consul.", dns.TypeA, "NOERROR\next.service.consul. 1 CNAME db.example.com."},
		{"ext.service.consul.", dns.TypeSRV, "NOERROR\next.service.consul. 1 SRV 1 3 5432 db.example.com."},
		{"n1.node.consul.", dns.TypeANY, "NOERROR\nn1.node.consul. 2 A 10.0.0.1\nn1.node.consul. 2 TXT \"a`=b=c\"\nn1.node.consul. 2 TXT \"as it is\"\nn1.node.consul. 2 TXT \"rack=r1\""},
		{"n1.node.consul.", dns.TypeSRV, "NOERROR" + soa},
		{"n1.node.consul.", dns.TypeMX, "NOERROR" + soa},
		{"web.service.consul.", dns.TypeANY, "NOERROR\nweb.service.consul. 5 A 10.0.0.1\nweb.service.consul. 5 A 10.1.1.1\nweb.service.consul. 5 SRV 1 1 81 0a010101.addr.dc1.consul.\nweb.service.consul. 5 SRV 1 3 80 n1.node.dc1.consul.\n+0a010101.addr.dc1.consul. 5 A 10.1.1.1\n+n1.node.dc1.consul. 5 A 10.0.0.1\n+n1.node.dc1.consul. 5 TXT \"rack=r1\""},
		{"web.service.consul.", dns.TypeTXT, "NOERROR" + soa},
		{"web.service.consul.", dns.TypeCNAME, "NOERROR" + soa},
		{"web.service.consul.", dns.TypeSOA, "NOERROR" + soa},
		{"web.service.consul.", dns.TypeNS, "NOERROR" + soa},
		{"dual.service.consul.", dns.TypeANY, "NOERROR\ndual.service.consul. 1 A 10.0.0.1\ndual.service.consul. 1 AAAA fd00::6\ndual.service.consul. 1 SRV 1 3 80 n1.node.dc1.consul.\ndual.service.consul. 1 SRV 1 3 80 n6.node.dc1.consul.\n+n1.node.dc1.consul. 1 A 10.0.0.1\n+n1.node.dc1.consul. 1 TXT \"rack=r1\"\n+n6.node.dc1.consul. 1 AAAA fd00::6\n+n6.node.dc1.consul. 1 TXT \"rack=r1\""},
		{"dual.service.consul.", dns.TypeAAAA, "NOERROR\ndual.service.consul. 1 AAAA fd00::6"},
		{"ext.service.consul.", dns.TypeANY, "NOERROR\next.service.consul. 1 CNAME db.example.com.\next.service.consul. 1 SRV 1 3 5432 db.example.com."},
		{"six.service.consul.", dns.TypeA, "NOERROR" + soa},
		{"down.service.consul.", dns.TypeAAAA, "NXDOMAIN" + soa},
		{"V1.WEB.Service.Consul.", dns.TypeA, "NOERROR\nV1.WEB.Service.Consul. 5 A 10.0.0.1"},
		{"_WEB._V1.Consul.", dns.TypeSRV, "NOERROR\n_WEB._V1.Consul. 5 SRV 1 3 80 n1.node.dc1.consul.\n+n1.node.dc1.consul. 5 A 10.0.0.1\n+n1.node.dc1.consul. 5 TXT \"rack=r1\""},
		{"_web._blue.green.consul.", dns.TypeSRV, "NXDOMAIN" + soa},
		{"_web._tcp.dc9.consul.", dns.TypeSRV, "NXDOMAIN" + soa},
		{"_web._tcp.service.dc2.dc.consul.", dns.TypeSRV, "NOERROR\n_web._tcp.service.dc2.dc.consul. 5 SRV 1 3 80 r1.node.dc2.consul.\n+r1.node.dc2.consul. 5 A 198.51.100.7\n+r1.node.dc2.consul. 5 TXT \"rack=r1\""},
		{"web.service.default.ns.consul.", dns.TypeA, "NOERROR\nweb.service.default.ns.consul. 5 A 10.0.0.1\nweb.service.default.ns.consul. 5 A 10.1.1.1"},
		{"web.service.dc1.dc.east.peer.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"n1.node.east.peer.consul.", dns.TypeA, "NXDOMAIN" + soa},
	})
}

// Sidecars, virtual addresses, gateways, prepared queries, and addresses as names.
func TestOtherKinds(t *testing.T) {
	checkForms(t, []form{
		{"web.connect.consul.", dns.TypeSRV, "NOERROR\nweb.connect.consul. 5 SRV 1 3 21000 n1.node.dc1.consul.\n+n1.node.dc1.consul. 5 A 10.0.0.1\n+n1.node.dc1.consul. 5 TXT \"rack=r1\""},
		{"web.ingress.consul.", dns.TypeA, "NOERROR\nweb.ingress.consul. 5 A 10.0.0.5"},
		{"api.virtual.consul.", dns.TypeA, "NOERROR\napi.virtual.consul. 2 A 240.0.0.7"},
		{"web.virtual.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"mesh.virtual.consul.", dns.TypeA, "NOERROR\nmesh.virtual.consul. 2 A 240.0.0.8"},
		{"MESH.Virtual.consul.", dns.TypeANY, "NOERROR\nMESH.Virtual.consul. 2 A 240.0.0.8"},
		{"mesh.virtual.consul.", dns.TypeAAAA, "NOERROR" + soa},
		{"mesh.virtual.consul.", dns.TypeSRV, "NOERROR" + soa},
		{"mesh.virtual.dc1.dc.consul.", dns.TypeA, "NOERROR\nmesh.virtual.dc1.dc.consul. 2 A 240.0.0.8"},
		{"mesh.virtual.default.ns.default.ap.consul.", dns.TypeA, "NOERROR\nmesh.virtual.default.ns.default.ap.consul. 2 A 240.0.0.8"},
		{"x.mesh.virtual.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"cluster.virtual.consul.", dns.TypeA, "NOERROR\ncluster.virtual.consul. 2 A 172.20.0.9"},
		{"pay.virtual.east.consul.", dns.TypeA, "NOERROR\npay.virtual.east.consul. 2 A 240.0.0.9"},
		{"pay.virtual.east.peer.consul.", dns.TypeA, "NOERROR\npay.virtual.east.peer.consul. 2 A 240.0.0.9"},
		{"none.virtual.east.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"_web._tcp.connect.consul.", dns.TypeSRV, "NOERROR\n_web._tcp.connect.consul. 5 SRV 1 3 21000 n1.node.dc1.consul.\n+n1.node.dc1.consul. 5 A 10.0.0.1\n+n1.node.dc1.consul. 5 TXT \"rack=r1\""},
		{"_web._tcp.ingress.consul.", dns.TypeSRV, "NOERROR\n_web._tcp.ingress.consul. 5 SRV 1 3 8080 gw.node.dc1.consul.\n+gw.node.dc1.consul. 5 A 10.0.0.5\n+gw.node.dc1.consul. 5 TXT \"rack=r1\""},
		{"v1.web.connect.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"none.connect.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"none.ingress.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"web.connect.dc1.consul.", dns.TypeA, "NOERROR\nweb.connect.dc1.consul. 5 A 10.0.0.1"},
		{"geo.query.dc2.consul.", dns.TypeA, "NOERROR\ngeo.query.dc2.consul. 5 A 198.51.100.7"},
		{"GEO.query.consul.", dns.TypeSRV, "NOERROR\nGEO.query.consul. 7 SRV 1 3 80 n1.node.dc1.consul.\n+n1.node.dc1.consul. 7 A 10.0.0.1\n+n1.node.dc1.consul. 7 TXT \"rack=r1\""},
		{"geo.query.consul.", dns.TypeTXT, "NOERROR" + soa},
		{"0A010101.ADDR.consul.", dns.TypeA, "NOERROR\n0A010101.ADDR.consul. 2 A 10.1.1.1"},
		{"0a010101.addr.consul.", dns.TypeANY, "NOERROR\n0a010101.addr.consul. 2 A 10.1.1.1"},
		{"fd000000000000000000000000000066.addr.consul.", dns.TypeA, "NOERROR" + soa},
		{"zz010101.addr.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"geo.query.consul.", dns.TypeA, "NOERROR\ngeo.query.consul. 7 A 10.0.0.1"},
		{"_geo._tcp.query.consul.", dns.TypeSRV, "NOERROR\n_geo._tcp.query.consul. 7 SRV 1 3 80 n1.node.dc1.consul.\n+n1.node.dc1.consul. 7 A 10.0.0.1\n+n1.node.dc1.consul. 7 TXT \"rack=r1\""},
		{"empty.query.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"none.query.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"0a010101.addr.dc1.consul.", dns.TypeA, "NOERROR\n0a010101.addr.dc1.consul. 2 A 10.1.1.1"},
		{"0a010101.addr.consul.", dns.TypeAAAA, "NOERROR" + soa},
		{"fd000000000000000000000000000066.addr.consul.", dns.TypeAAAA, "NOERROR\nfd000000000000000000000000000066.addr.consul. 2 AAAA fd00::66"},
		{"0a0101.addr.consul.", dns.TypeA, "NXDOMAIN" + soa},
	})
}

// The zones themselves, names of addresses, and what isn't in a zone.
func TestZone(t *testing.T) {
	checkForms(t, []form{
		{"1.0.0.10.in-addr.arpa.", dns.TypeA, "NOERROR" + soa},
		{"1.0.0.10.in-addr.arpa.", dns.TypeANY, "NOERROR\n1.0.0.10.in-addr.arpa. 2 PTR n1.node.dc1.consul."},
		{"0.10.in-addr.arpa.", dns.TypePTR, "REFUSED"},
		{"consul.", dns.TypeANY, "NOERROR\nSOA consul.\nconsul. 2 NS n1.node.dc1.consul.\n+n1.node.dc1.consul. 2 A 10.0.0.1"},
		{"CONSUL.", dns.TypeSOA, "NOERROR\nSOA consul.\n-consul. 2 NS n1.node.dc1.consul.\n+n1.node.dc1.consul. 2 A 10.0.0.1"},
		{"consul.", dns.TypeTXT, "NOERROR" + soa},
		{"dc1.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"node.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"ns.consul.", dns.TypeAAAA, "NOERROR" + soa},
		{"mesh.test.", dns.TypeSOA, "NOERROR\nSOA mesh.test.\n-mesh.test. 2 NS n1.node.dc1.mesh.test.\n+n1.node.dc1.mesh.test. 2 A 10.0.0.1"},
		{"consul.", dns.TypeIXFR, "NOTIMP"},
		{"1.0.0.10.in-addr.arpa.", dns.TypePTR, "NOERROR\n1.0.0.10.in-addr.arpa. 2 PTR n1.node.dc1.consul."},
		{"1.1.1.10.in-addr.arpa.", dns.TypePTR, "NOERROR\n1.1.1.10.in-addr.arpa. 2 PTR web.service.consul."},
		{"6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR,
			"NOERROR\n6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. 2 PTR Six.node.dc1.consul."},
		{"9.9.9.9.in-addr.arpa.", dns.TypePTR, "NXDOMAIN" + soa},
		{"consul.", dns.TypeSOA, "NOERROR\nSOA consul.\n-consul. 2 NS n1.node.dc1.consul.\n+n1.node.dc1.consul. 2 A 10.0.0.1"},
		{"consul.", dns.TypeNS, "NOERROR\nconsul. 2 NS n1.node.dc1.consul.\n+n1.node.dc1.consul. 2 A 10.0.0.1"},
		{"consul.", dns.TypeA, "NOERROR" + soa},
		{"ns.consul.", dns.TypeA, "NOERROR\nns.consul. 2 A 10.0.0.1"},
		{"service.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"web.nonsense.consul.", dns.TypeA, "NXDOMAIN" + soa},
		{"example.com.", dns.TypeA, "REFUSED"},
		{"notconsul.", dns.TypeA, "REFUSED"},
		{"consul.", dns.TypeAXFR, "NOTIMP"},
	})
}
