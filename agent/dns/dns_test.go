// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// servers is a fake of the servers' API: documents by path and query, with an index that blocking reads wait on.
type servers struct {
	mu      sync.Mutex
	docs    map[string]string
	index   uint64
	changed chan struct{}
	down    bool
	token   string // unless it is "", whoever has another is refused
	reads   map[string]int
	age     time.Duration
}

func newServers(docs map[string]string) *servers {
	return &servers{docs: docs, index: 10, changed: make(chan struct{}), reads: map[string]int{}}
}

// change changes what is answered, and wakes those who wait.
func (f *servers) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *servers) set(path, doc string) {
	f.change(func() {
		f.docs[path] = doc
		f.index++
	})
}

func (f *servers) setDown(down bool) { f.change(func() { f.down = down }) }

func (f *servers) setToken(token string) { f.change(func() { f.token = token }) }

func (f *servers) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads[path]
}

func (f *servers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	index, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	key := r.URL.Path
	if dc := q.Get("dc"); dc != "" {
		key += "?dc=" + dc
	}
	if peer := q.Get("peer"); peer != "" {
		key += "?peer=" + peer
	}
	wait, _ := time.ParseDuration(q.Get("wait"))
	over := time.After(wait)
	f.mu.Lock()
	f.reads[key]++
	refused := func() bool { return f.token != "" && r.Header.Get("X-Consul-Token") != f.token }
	for waited := false; index == f.index && !f.down && !waited && !refused(); {
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-over:
			waited = true
		case <-r.Context().Done():
			return
		}
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	if f.down {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return
	}
	if refused() {
		http.Error(w, "ACL not found", http.StatusForbidden)
		return
	}
	doc, ok := f.docs[key]
	if !ok && strings.HasPrefix(key, "/v1/health/") {
		doc, ok = "[]", true
	}
	if !ok {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(f.index, 10))
	w.Header().Set("X-Consul-LastContact", strconv.FormatInt(f.age.Milliseconds(), 10))
	w.Header().Set("X-Consul-KnownLeader", strconv.FormatBool(f.age == 0))
	_, _ = w.Write([]byte(doc))
}

type object = map[string]any

func doc(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func inst(node, nodeAddr, service, addr string, port int, status string, tags ...string) object {
	return object{
		"Node": object{"Node": node, "Address": nodeAddr, "Datacenter": "dc1", "Meta": object{"rack": "r1"}},
		"Service": object{
			"Service": service, "Address": addr, "Port": port, "Tags": tags, "Weights": object{"Passing": 3, "Warning": 1},
		},
		"Checks": []object{{"Status": status}},
	}
}

func world() *servers {
	virtual := inst("n1", "10.0.0.1", "api", "", 80, "passing")
	virtual["Service"].(object)["TaggedAddresses"] = object{"consul-virtual": object{"Address": "240.0.0.7", "Port": 80}}
	remote := inst("r1", "10.9.0.1", "web", "", 80, "passing")
	remote["Node"].(object)["Datacenter"] = "dc2"
	remote["Node"].(object)["TaggedAddresses"] = object{"wan": "198.51.100.7"}
	return newServers(map[string]string{
		"/v1/catalog/datacenters": doc([]string{"dc1", "dc2"}),
		"/v1/catalog/nodes": doc([]object{
			{"Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": object{"rack": "r1", "rfc1035-note": "as it is", "a=b": "c"}},
			{"Node": "Six", "Address": "fd00::6", "Datacenter": "dc1"},
			{"Node": "n.dotted", "Address": "10.0.0.3", "Datacenter": "dc1"},
			{"Node": "named", "Address": "n1.node.consul", "Datacenter": "dc1"},
			{"Node": "outside", "Address": "db.example.com", "Datacenter": "dc1"},
		}),
		"/v1/catalog/nodes?dc=dc2":         doc([]object{{"Node": "r1", "Address": "10.9.0.1", "Datacenter": "dc2", "TaggedAddresses": object{"wan": "198.51.100.7"}}}),
		"/v1/catalog/services":             doc(object{"web": []string{"v1", "v2"}, "Upper": []string{}, "down": []string{}, "ext": []string{}, "api": []string{}, "six": []string{}, "many": []string{}, "mesh": []string{}, "cluster": []string{}, "dual": []string{}}),
		"/v1/catalog/services?dc=dc2":      doc(object{"web": []string{}}),
		"/v1/catalog/services?peer=east":   doc(object{"pay": []string{}}),
		"/v1/health/service/web?dc=dc2":    doc([]object{remote}),
		"/v1/health/service/pay?peer=east": doc([]object{inst("p1", "10.8.0.1", "pay", "", 99, "passing")}),
		"/v1/health/service/web":           doc([]object{inst("n1", "10.0.0.1", "web", "", 80, "passing", "v1"), inst("n2", "10.0.0.2", "web", "10.1.1.1", 81, "warning", "V2", "blue.green"), inst("n3", "10.0.0.9", "web", "", 80, "critical", "v1")}),
		"/v1/health/service/upper":         doc([]object{inst("n1", "10.0.0.1", "Upper", "", 80, "passing")}),
		"/v1/health/service/down":          doc([]object{inst("n1", "10.0.0.1", "down", "", 80, "critical")}),
		"/v1/health/service/ext":           doc([]object{inst("n1", "10.0.0.1", "ext", "db.example.com", 5432, "passing")}),
		"/v1/health/service/api":           doc([]object{virtual}),
		"/v1/health/service/six":           doc([]object{inst("n6", "fd00::6", "six", "fd00::66", 80, "passing")}),
		"/v1/health/connect/web":           doc([]object{inst("n1", "10.0.0.1", "web-sidecar-proxy", "", 21000, "passing")}),
		"/v1/health/connect/mesh":          doc([]object{tagged(inst("n1", "10.0.0.1", "mesh-proxy", "", 21000, "critical"), "consul-virtual", "240.0.0.8")}),
		"/v1/health/service/mesh":          doc([]object{tagged(inst("n1", "10.0.0.1", "mesh", "", 80, "critical"), "virtual", "172.20.0.8")}),
		"/v1/health/service/cluster":       doc([]object{tagged(inst("n1", "10.0.0.1", "cluster", "", 80, "passing"), "virtual", "172.20.0.9")}),
		"/v1/health/connect/pay?peer=east": doc([]object{tagged(inst("p1", "10.8.0.1", "pay-proxy", "", 21000, "passing"), "consul-virtual", "240.0.0.9")}),
		"/v1/health/service/dual":          doc([]object{inst("n1", "10.0.0.1", "dual", "", 80, "passing"), inst("n6", "fd00::6", "dual", "", 80, "passing")}),
		"/v1/query/geo/execute?dc=dc2":     doc(object{"Service": "web", "Nodes": []object{remote}}),
		"/v1/health/ingress/web":           doc([]object{inst("gw", "10.0.0.5", "ingress", "", 8080, "passing")}),
		"/v1/query/geo/execute":            doc(object{"Service": "web", "DNS": object{"TTL": "7s"}, "Nodes": []object{inst("n1", "10.0.0.1", "web", "", 80, "passing")}}),
		"/v1/query/empty/execute":          doc(object{"Service": "web", "Nodes": []object{}}),
		"/v1/health/service/many":          doc(many(500)),
	})
}

// tagged gives an instance one more address.
func tagged(i object, tag, address string) object {
	i["Service"].(object)["TaggedAddresses"] = object{tag: object{"Address": address, "Port": 80}}
	return i
}

func many(n int) []object {
	var out []object
	for i := range n {
		out = append(out, inst(fmt.Sprintf("m%d", i), fmt.Sprintf("10.5.%d.%d", i/250, i%250+1), "many", "", 80, "passing"))
	}
	return out
}

func zones() Zones {
	return Zones{Settings: DefaultSettings(), Domain: "consul.", AltDomain: "Mesh.Test"}
}

// running is a server that follows topics until the test ends.
func running(t testing.TB, f http.Handler, z Zones, dial func(context.Context, string, string) (net.Conn, error)) *Server {
	t.Helper()
	return runningWith(t, Config{Servers: f, Dial: dial}, z)
}

func runningWith(t testing.TB, c Config, z Zones) *Server {
	t.Helper()
	c.NodeName, c.Address, c.Datacenter, c.Log = "n1", "10.0.0.1", "dc1", slog.New(slog.DiscardHandler)
	s, err := New(c, z)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	for {
		s.source.mu.RLock()
		ready := s.source.ctx != nil
		s.source.mu.RUnlock()
		if ready {
			return s
		}
	}
}

func ask(t testing.TB, s *Server, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	req := new(dns.Msg)
	req.SetQuestion(name, qtype)
	tcp := true
	for _, c := range change {
		if c == nil {
			tcp = false
			continue
		}
		c(req)
	}
	ctx, cancel := context.WithTimeout(t.Context(), answerTime)
	defer cancel()
	m, err := s.respond(ctx, req, netip.MustParseAddr("192.0.2.1"), tcp, true)
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[qtype], err)
	}
	if _, err := m.Pack(); err != nil {
		t.Errorf("%s %s can't be packed: %v", name, dns.TypeToString[qtype], err)
	}
	return m
}

// short writes an answer as its code and its records, "+" before additional ones and "-" before those of authority.
func short(m *dns.Msg) string {
	var out []string
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		var lines []string
		for _, rr := range section {
			switch rr := rr.(type) {
			case *dns.SOA:
				lines = append(lines, []string{"", "-", "+"}[i]+"SOA "+rr.Hdr.Name)
			case *dns.OPT:
			default:
				f := strings.SplitN(rr.String(), "\t", 5)
				lines = append(lines, []string{"", "-", "+"}[i]+strings.Join(append([]string{f[0], f[1]}, f[3:]...), " "))
			}
		}
		slices.Sort(lines)
		out = append(out, lines...)
	}
	return strings.Join(append([]string{dns.RcodeToString[m.Rcode]}, out...), "\n")
}

// What the settings and the transport allow is kept to.
func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		set         func(*Settings)
		udp, edns   bool
		qtype       uint16
		name        string
		answers     int
		truncated   bool
		most        int
		noneOfExtra bool
	}{
		"tcp: all":                   {qtype: dns.TypeA, name: "many", answers: 500},
		"udp: three":                 {udp: true, qtype: dns.TypeA, name: "many", answers: 3},
		"udp: truncated is said":     {set: func(s *Settings) { s.EnableTruncate = true }, udp: true, qtype: dns.TypeA, name: "many", answers: 3, truncated: true},
		"udp: all of two":            {set: func(s *Settings) { s.EnableTruncate = true }, udp: true, qtype: dns.TypeA, name: "web", answers: 2},
		"udp: another limit":         {set: func(s *Settings) { s.UDPAnswerLimit = 7 }, udp: true, qtype: dns.TypeA, name: "many", answers: 7},
		"udp: no limit but the size": {set: func(s *Settings) { s.UDPAnswerLimit = 0 }, udp: true, qtype: dns.TypeA, name: "many", answers: -1, most: 512},
		"udp: EDNS":                  {set: func(s *Settings) { s.EnableTruncate = true }, udp: true, edns: true, qtype: dns.TypeSRV, name: "many", answers: -1, truncated: true, most: 4096},
		"a record limit":             {set: func(s *Settings) { s.ARecordLimit = 5 }, qtype: dns.TypeA, name: "many", answers: 5},
		"a record limit not of SRV":  {set: func(s *Settings) { s.ARecordLimit = 1 }, qtype: dns.TypeSRV, name: "web", answers: 2},
		"only passing":               {set: func(s *Settings) { s.OnlyPassing = true }, qtype: dns.TypeA, name: "web", answers: 1},
		"no compression fits less":   {set: func(s *Settings) { s.DisableCompression, s.UDPAnswerLimit = true, 0 }, udp: true, qtype: dns.TypeA, name: "many", answers: -1, most: 512},
		"no TXT beside":              {set: func(s *Settings) { s.EnableAdditionalNodeMetaTXT = false }, qtype: dns.TypeSRV, name: "api", answers: 1, noneOfExtra: true},
	} {
		z := zones()
		if c.set != nil {
			c.set(&z.Settings)
		}
		s := running(t, world(), z, nil)
		change := []func(*dns.Msg){}
		if c.udp {
			change = append(change, nil)
		}
		if c.edns {
			change = append(change, func(m *dns.Msg) { m.SetEdns0(4096, true) })
		}
		m := ask(t, s, c.name+".service.consul.", c.qtype, change...)
		b, _ := m.Pack()
		switch {
		case c.answers >= 0 && len(m.Answer) != c.answers:
			t.Errorf("%s: %d answers, want %d", name, len(m.Answer), c.answers)
		case c.answers < 0 && (len(b) > c.most || len(b) < c.most*3/4 || len(m.Answer) < 4):
			t.Errorf("%s: %d bytes with %d answers of at most %d", name, len(b), len(m.Answer), c.most)
		case m.Truncated != c.truncated:
			t.Errorf("%s: truncated %t", name, m.Truncated)
		case c.noneOfExtra && len(m.Extra) != 1:
			t.Errorf("%s: %v", name, m.Extra)
		}
		if opt := m.IsEdns0(); (opt != nil) != c.edns || c.edns && !opt.Do() {
			t.Errorf("%s: EDNS in the answer: %v", name, opt)
		}
		targets := map[string]bool{}
		for _, rr := range m.Answer {
			if srv, ok := rr.(*dns.SRV); ok {
				targets[srv.Target] = true
			}
		}
		for _, rr := range m.Extra {
			if rr.Header().Rrtype != dns.TypeOPT && !targets[rr.Header().Name] {
				t.Errorf("%s: %s belongs to no answer", name, rr)
			}
		}
	}
}

// Answers come in an order that changes, and each instance is as likely as any other.
func TestShuffle(t *testing.T) {
	s := running(t, world(), zones(), nil)
	first := map[string]int{}
	for range 200 {
		first[ask(t, s, "web.service.consul.", dns.TypeA).Answer[0].String()]++
	}
	if len(first) != 2 {
		t.Errorf("always first: %v", first)
	}
}

// What was asked for once is followed: a change is seen without another read, and a leader that is lost doesn't take the
// answers away, as far as the settings say.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := world()
		z := zones()
		z.Settings.MaxStale = time.Hour
		s := running(t, f, z, nil)
		addresses := func() int { return len(ask(t, s, "web.service.consul.", dns.TypeA).Answer) }
		if n := addresses(); n != 2 {
			t.Fatalf("%d addresses", n)
		}
		for range 100 {
			addresses()
		}
		time.Sleep(time.Second)
		if n := f.count("/v1/health/service/web"); n != 2 { // the first, and one that waits
			t.Errorf("%d reads", n)
		}
		f.set("/v1/health/service/web", doc([]object{inst("n1", "10.0.0.1", "web", "", 80, "passing")}))
		time.Sleep(time.Second)
		if n := addresses(); n != 1 {
			t.Errorf("after a change: %d addresses", n)
		}

		f.setDown(true)
		time.Sleep(time.Minute)
		if n := addresses(); n != 1 {
			t.Errorf("without a leader: %d addresses", n)
		}
		if m := ask(t, s, "api.service.consul.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("never read, without a leader: %s", short(m))
		}
		strict := z
		strict.Settings.AllowStale = false
		if err := s.Configure(strict); err != nil {
			t.Fatal(err)
		}
		if m := ask(t, s, "web.service.consul.", dns.TypeA); m.Rcode != dns.RcodeServerFailure || len(m.Ns) != 0 {
			t.Errorf("allow_stale = false without a leader: %s", short(m))
		}
		if err := s.Configure(z); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		addresses() // still asked for, or it wouldn't be followed any more
		if m := ask(t, s, "web.service.consul.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("older than max_stale: %s", short(m))
		}
		f.setDown(false)
		time.Sleep(10 * time.Second)
		if n := addresses(); n != 1 {
			t.Errorf("with a leader again: %d addresses", n)
		}
		time.Sleep(time.Hour)
		s.source.mu.RLock()
		defer s.source.mu.RUnlock()
		if len(s.source.entries) != 0 {
			t.Errorf("%d topics are followed though nobody asks", len(s.source.entries))
		}
	})
}

// What a token showed isn't shown when it is gone, nor when the agent has another: a refusal isn't an outage.
func TestTokenThatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := world()
		f.token = "first"
		var own atomic.Value
		own.Store("first")
		s := runningWith(t, Config{Servers: f, Token: func() string { return own.Load().(string) }}, zones())
		answers := func(what string, want int) {
			t.Helper()
			for _, name := range []string{"web.service.consul.", "n1.node.consul."} {
				if m := ask(t, s, name, dns.TypeA); min(len(m.Answer), 1) != want || m.Rcode == dns.RcodeServerFailure {
					t.Errorf("%s: %s: %s", what, name, short(m))
				}
			}
		}
		answers("its own token", 1)
		f.setToken("second")
		time.Sleep(time.Second)
		answers("a token that is gone", 0)
		own.Store("second")
		answers("another token", 1)
		own.Store("third")
		answers("a token that shows nothing", 0)
		own.Store("second")
		answers("another token again", 1)
	})
}

// A server without a leader says how old its knowledge is.
func TestMaxStaleOfServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := world()
		f.age = 30 * time.Second
		z := zones()
		s := running(t, f, z, nil)
		if m := ask(t, s, "n1.node.consul.", dns.TypeA); m.Rcode != dns.RcodeSuccess {
			t.Errorf("%s", short(m))
		}
		z.Settings.MaxStale = 10 * time.Second
		if err := s.Configure(z); err != nil {
			t.Fatal(err)
		}
		if m := ask(t, s, "n1.node.consul.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("30 s old with max_stale of 10 s: %s", short(m))
		}
	})
}

// Names that no list has cost no reads, and few topics are followed however many names are asked for.
func TestRandomNames(t *testing.T) {
	f := world()
	s := running(t, f, zones(), nil)
	for i := range 5000 {
		if m := ask(t, s, fmt.Sprintf("x%d.service.consul.", i), dns.TypeA); m.Rcode != dns.RcodeNameError {
			t.Fatal(short(m))
		}
	}
	s.source.mu.RLock()
	defer s.source.mu.RUnlock()
	if n := len(s.source.entries); n != 1 {
		t.Errorf("%d topics", n)
	}
}

func TestSettings(t *testing.T) {
	s := DefaultSettings()
	s.ServiceTTL = map[string]time.Duration{"*": 1, "web*": 2, "web-api": 3, "web-a*": 4}
	for name, want := range map[string]time.Duration{"x": 1, "web": 2, "web-api": 3, "web-apis": 4} {
		if got := s.serviceTTL(name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	bad := Zones{Settings: DefaultSettings(), Domain: "", Recursors: []string{"dns.example"}}
	bad.Settings.RecursorStrategy = "any"
	bad.Settings.UDPAnswerLimit = -1
	bad.Settings.ServiceTTL = map[string]time.Duration{"a*b": 1}
	err := bad.Validate()
	for _, want := range []string{`domain: ""`, `recursors: "dns.example"`, "recursor_strategy", "udp_answer_limit", "service_ttl"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}
