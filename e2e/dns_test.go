// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// digged is what dig says: the status, the flags, and the answer's records as "name type data", sorted.
type digged struct {
	status, flags string
	answer        []string
	extra         []string
}

func dig(t *testing.T, port int, args ...string) digged {
	t.Helper()
	all := append([]string{"@127.0.0.1", "-p", strconv.Itoa(port), "+tries=1", "+time=6", "+nocmd", "+noall", "+comments", "+answer", "+additional", "+nocookie"}, args...)
	out, err := exec.Command("dig", all...).CombinedOutput()
	if err != nil {
		t.Fatalf("dig %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	var d digged
	section := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if _, rest, ok := strings.Cut(line, "status: "); ok {
			d.status, _, _ = strings.Cut(rest, ",")
		}
		if rest, ok := strings.CutPrefix(line, ";; flags: "); ok {
			d.flags, _, _ = strings.Cut(rest, ";")
		}
		if strings.HasPrefix(line, ";; ") {
			section = line
		}
		f := strings.Fields(line)
		if strings.HasPrefix(line, ";") || len(f) < 5 {
			continue
		}
		rr := f[0] + " " + f[3] + " " + strings.Join(f[4:], " ")
		if strings.Contains(section, "ADDITIONAL") {
			d.extra = append(d.extra, rr)
		} else {
			d.answer = append(d.answer, rr)
		}
	}
	slices.Sort(d.answer)
	return d
}

func (d digged) String() string { return strings.Join(append([]string{d.status}, d.answer...), "; ") }

// dnsRecords is what the catalog holds for the forms below.
func dnsRecords(t *testing.T, w *World) {
	t.Helper()
	put := func(body object) {
		t.Helper()
		body["NodeMeta"] = object{"rack": "r1"}
		if err := w.do(http.MethodPut, "/v1/catalog/register", body, nil); err != nil {
			t.Fatal(err)
		}
	}
	service := func(node, address, service, own string, port int, status string, tags ...string) {
		t.Helper()
		put(object{
			"Node": node, "Address": address,
			"Service": object{"Service": service, "ID": service, "Address": own, "Port": port, "Tags": tags, "Weights": object{"Passing": 3, "Warning": 1}},
			"Check":   object{"CheckID": "c-" + service, "Name": "c", "ServiceID": service, "Status": status},
		})
	}
	service("n1", "10.0.0.1", "web", "", 80, "passing", "v1")
	service("n2", "10.0.0.2", "web", "10.1.1.1", 81, "warning", "v2")
	service("n3", "10.0.0.3", "web", "", 80, "critical", "v1")
	service("n4", "fd00::4", "six", "fd00::44", 80, "passing")
	service("n1", "10.0.0.1", "ext", "db.example.test", 5432, "passing")
	for i := range 40 {
		node := fmt.Sprintf("many-%d", i)
		service(node, fmt.Sprintf("10.5.0.%d", i+1), "many", "", 80, "passing")
	}
	put(object{
		"Node": "n1", "Address": "10.0.0.1",
		"Service": object{"Kind": "connect-proxy", "Service": "web-proxy", "ID": "web-proxy", "Port": 21000, "Proxy": object{"DestinationServiceName": "web"}},
	})
	put(object{
		"Node": "n1", "Address": "10.0.0.1",
		"Service": object{"Service": "vip", "ID": "vip", "Port": 80, "TaggedAddresses": object{"virtual": object{"Address": "172.20.0.9", "Port": 80}}},
	})
}

// ingress is a gateway that lets callers from outside come to web.
func ingress(t *testing.T, w *World) {
	t.Helper()
	for path, body := range map[string]object{
		"/v1/catalog/register": {"Node": "n1", "Address": "10.0.0.1", "NodeMeta": object{"rack": "r1"}, "Service": object{"Kind": "ingress-gateway", "Service": "gw", "ID": "gw", "Port": 8080}},
		"/v1/config":           {"Kind": "ingress-gateway", "Name": "gw", "Listeners": []object{{"Port": 8080, "Services": []object{{"Name": "web"}}}}},
	} {
		if err := w.do(http.MethodPut, path, body, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// recursor is a DNS server that others' names are asked of.
func recursor(t *testing.T) string {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: p, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Name == "db.example.test." && r.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.IPv4(192, 0, 2, 53)}}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m) // who asked may be gone
	})}
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = server.Shutdown() // it may have ended
		<-done
	})
	return p.LocalAddr().String()
}

// Debian's dig gets Consul's answer for each form of name.
func TestDNS(t *testing.T) {
	enabled(t)
	if _, err := exec.LookPath("dig"); err != nil {
		t.Fatal("dig isn't there: run `make e2e`, which installs it")
	}
	w := mustWorld(t, Builtin, "allow", fmt.Sprintf(`
recursors = [%q]
alt_domain = "mesh.test"
dns_config {
  enable_truncate = true
  node_ttl = "3s"
  service_ttl { "*" = "1s" }
}`, recursor(t)))
	dnsRecords(t, w)
	ingress(t, w)
	if err := w.do(http.MethodPost, "/v1/query", object{"Name": "near-web", "Service": object{"Service": "web", "OnlyPassing": true}, "DNS": object{"TTL": "7s"}}, nil); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, func() error {
		if got := dig(t, w.dns, "web.service.consul"); len(got.answer) != 2 {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	web := func(name string) string {
		return fmt.Sprintf("NOERROR; %s. A 10.0.0.1; %s. A 10.1.1.1", name, name)
	}
	for _, c := range []struct{ ask, want string }{
		{"web.service.consul A", web("web.service.consul")},
		{"WEB.service.DC1.consul A +tcp", web("WEB.service.DC1.consul")},
		{"web.service.dc1.dc.consul A", web("web.service.dc1.dc.consul")},
		{"web.service.mesh.test A", web("web.service.mesh.test")},
		{"v1.web.service.consul A", "NOERROR; v1.web.service.consul. A 10.0.0.1"},
		{"v9.web.service.consul A", "NXDOMAIN"},
		{"_web._tcp.service.consul A", web("_web._tcp.service.consul")},
		{"_web._v2.consul SRV", "NOERROR; _web._v2.consul. SRV 1 1 81 0a010101.addr.dc1.consul."},
		{"web.service.consul SRV", "NOERROR; web.service.consul. SRV 1 1 81 0a010101.addr.dc1.consul.; web.service.consul. SRV 1 3 80 n1.node.dc1.consul."},
		{"web.service.consul AAAA", "NOERROR"},
		{"web.service.dc7.consul A", "NXDOMAIN"},
		{"nothing.service.consul A", "NXDOMAIN"},
		{"six.service.consul AAAA", "NOERROR; six.service.consul. AAAA fd00::44"},
		{"ext.service.consul A", "NOERROR; db.example.test. A 192.0.2.53; ext.service.consul. CNAME db.example.test."},
		{"web.connect.consul SRV", "NOERROR; web.connect.consul. SRV 1 1 21000 n1.node.dc1.consul."},
		{"near-web.query.consul A", "NOERROR; near-web.query.consul. A 10.0.0.1"},
		{"_near-web._tcp.query.consul SRV", "NOERROR; _near-web._tcp.query.consul. SRV 1 3 80 n1.node.dc1.consul."},
		{"none.query.consul A", "NXDOMAIN"},
		{"vip.virtual.consul A", "NOERROR; vip.virtual.consul. A 172.20.0.9"},
		{"web.virtual.consul A", "NOERROR; web.virtual.consul. A 240.0.0.1"},
		{"web.virtual.consul AAAA", "NOERROR"},
		{"six.virtual.consul A", "NXDOMAIN"},
		{"web.ingress.consul SRV", "NOERROR; web.ingress.consul. SRV 1 1 8080 n1.node.dc1.consul."},
		{"vip.ingress.consul A", "NXDOMAIN"},
		{"web.service.consul ANY +notcp", "NOERROR; web.service.consul. A 10.0.0.1; web.service.consul. A 10.1.1.1; web.service.consul. SRV 1 1 81 0a010101.addr.dc1.consul.; web.service.consul. SRV 1 3 80 n1.node.dc1.consul."},
		{"n1.node.consul ANY +notcp", `NOERROR; n1.node.consul. A 10.0.0.1; n1.node.consul. TXT "rack=r1"`},
		{"web.service.consul TXT", "NOERROR"},
		{"ext.service.consul CNAME", "NOERROR; ext.service.consul. CNAME db.example.test."},
		{"pay.service.east.peer.consul A", "NXDOMAIN"},
		{"fd000000000000000000000000000044.addr.consul AAAA", "NOERROR; fd000000000000000000000000000044.addr.consul. AAAA fd00::44"},
		{"consul AXFR +noidnout", "NOTIMP"},
		{"n1.node.consul A", "NOERROR; n1.node.consul. A 10.0.0.1"},
		{"n1.node.dc1.consul TXT", `NOERROR; n1.node.dc1.consul. TXT "rack=r1"`},
		{"nobody.node.consul A", "NXDOMAIN"},
		{"0a010101.addr.dc1.consul A", "NOERROR; 0a010101.addr.dc1.consul. A 10.1.1.1"},
		{"-x 10.0.0.1", "NOERROR; 1.0.0.10.in-addr.arpa. PTR n1.node.dc1.consul."},
		{"-x 10.1.1.1", "NOERROR; 1.1.1.10.in-addr.arpa. PTR web.service.consul."},
		{"-x fd00::4", "NOERROR; 4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR n4.node.dc1.consul."},
		{"db.example.test A", "NOERROR; db.example.test. A 192.0.2.53"},
		{"none.example.test A", "NXDOMAIN"},
		{"db.example.test A +norecurse", "REFUSED"},
		{"web.elsewhere.consul A", "NXDOMAIN"},
	} {
		if got := dig(t, w.dns, strings.Fields(c.ask)...).String(); got != c.want {
			t.Errorf("dig %s:\n got %s\nwant %s", c.ask, got, c.want)
		}
	}
	t.Run("limits", func(t *testing.T) { dnsLimits(t, w) })
	t.Run("a change is seen", func(t *testing.T) {
		if err := w.do(http.MethodPut, "/v1/catalog/deregister", object{"Node": "n2", "ServiceID": "web"}, nil); err != nil {
			t.Fatal(err)
		}
		took := until(t, 5*time.Second, func() error {
			if got := dig(t, w.dns, "web.service.consul").String(); got != "NOERROR; web.service.consul. A 10.0.0.1" {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
		t.Logf("seen by dig %s after the deregistration", took)
	})
}

// dnsLimits looks at sizes, flags, and what stands beside the answers.
func dnsLimits(t *testing.T, w *World) {
	t.Helper()
	if got := dig(t, w.dns, "many.service.consul", "+noedns", "+ignore"); len(got.answer) != 3 || !strings.Contains(got.flags, "tc") {
		t.Errorf("without EDNS: %d answers, flags %s", len(got.answer), got.flags)
	}
	if got := dig(t, w.dns, "many.service.consul", "+noedns"); len(got.answer) != 40 {
		t.Errorf("dig asks again over TCP and gets %d answers", len(got.answer))
	}
	if got := dig(t, w.dns, "many.service.consul", "+bufsize=1232"); len(got.answer) != 40 || strings.Contains(got.flags, "tc") {
		t.Errorf("with EDNS: %d answers, flags %s", len(got.answer), got.flags)
	}
	if got := dig(t, w.dns, "consul", "SOA"); got.status != "NOERROR" || len(got.answer) != 1 || !strings.Contains(got.answer[0], "ns.consul. hostmaster.consul.") {
		t.Errorf("SOA: %s", got)
	}
	if got := dig(t, w.dns, "consul", "NS"); got.status != "NOERROR" || len(got.answer) != 1 || len(got.extra) != 1 {
		t.Errorf("NS: %s, %v", got, got.extra)
	}
	if got := dig(t, w.dns, "web.service.consul", "SRV"); !strings.Contains(strings.Join(got.extra, "; "), "n1.node.dc1.consul. A 10.0.0.1") {
		t.Errorf("SRV's addresses: %v", got.extra)
	}
	if got := dig(t, w.dns, "web.service.consul", "+subnet=198.51.100.0/24"); got.status != "NOERROR" {
		t.Errorf("with a subnet: %s", got)
	}
}
