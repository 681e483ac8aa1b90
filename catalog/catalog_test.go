// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/weftmesh/weft/internal/stormtest"
)

func newStore(t testing.TB, c Config) *Store {
	t.Helper()
	c.Datacenter = "dc1"
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustEncode(t testing.TB, b Body) []byte {
	t.Helper()
	data, err := Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func do(t testing.TB, s *Store, b Body) Result {
	t.Helper()
	return s.Apply([]LogEntry{{s.Position().Index + 1, mustEncode(t, b)}})[0]
}

func name(n string) Key { return Scope{}.Default("dc1").Name(n) }

func web(node string, port int) Register {
	return Register{
		Node: Node{Node: node, Address: "10.0.0.1"},
		Services: []Service{
			{ID: "web1", Service: "web", Port: port, Tags: []string{"v1"}},
			{
				ID: "web1-sidecar-proxy", Service: "web-sidecar-proxy", Kind: KindConnectProxy, Port: 21000,
				Proxy: &Proxy{DestinationServiceName: "web", Config: Opaque{"a": uint64(3), "b": map[string]any{"c": 1.5}}},
			},
		},
		Checks: []Check{{CheckID: "c1", ServiceID: "web1", Status: HealthPassing}, {CheckID: SerfHealth, Status: HealthPassing}},
	}
}

func TestRegister(t *testing.T) {
	s := newStore(t, Config{})
	if r := do(t, s, web("n1", 80)); r.Err != nil {
		t.Fatal(r.Err)
	}
	txn := s.Read().Record()
	list, err := txn.Instances(name("WEB"))
	if err != nil || len(list) != 1 || len(list[0].Checks) != 2 || list[0].Node == nil {
		t.Fatalf("%+v, %v", list, err)
	}
	side, _ := txn.ConnectInstances(name("web"))
	if len(side) != 1 || side[0].Service.ID != "web1-sidecar-proxy" {
		t.Fatalf("%+v", side)
	}
	want := Opaque{"a": int64(3), "b": map[string]any{"c": 1.5}}
	if d := cmp.Diff(want, side[0].Service.Proxy.Config); d != "" {
		t.Error(d)
	}
	names, _ := txn.ServiceNames(Scope{})
	if d := cmp.Diff(map[string][]string{"web": {"v1"}, "web-sidecar-proxy": nil}, names); d != "" {
		t.Error(d)
	}
	do(t, s, web("n1", 80)) // the same again
	if got := s.Read().Record(); true {
		_, _ = got.Instances(name("web"))
		if got.ResultIndex() != 1 || got.Index() != 2 {
			t.Errorf("index %d, result index %d after a write of the same", got.Index(), got.ResultIndex())
		}
	}
	do(t, s, Deregister{Node: "n1"})
	got := s.Read().Record()
	if list, _ := got.Instances(name("web")); len(list) != 0 || got.ResultIndex() != 3 {
		t.Errorf("%v, index %d", list, got.ResultIndex())
	}
	bad := web("n1", 1)
	bad.Checks = append(bad.Checks, Check{CheckID: "x", ServiceID: "nope"})
	if r := do(t, s, bad); !errors.Is(r.Err, ErrNotFound) || !strings.Contains(r.Err.Error(), `"nope"`) {
		t.Errorf("%v", r.Err)
	}
	if n, _ := s.Read().Node(name("n1")); n != nil {
		t.Error("half of a failed command was applied")
	}
}

func TestCorrupt(t *testing.T) {
	s := newStore(t, Config{})
	unknown := seal(must(encode(map[string]any{"Type": "register", "Body": map[string]any{"Nope": 1}})))
	rs := s.Apply([]LogEntry{{1, mustEncode(t, web("n1", 1))}, {2, unknown}, {3, mustEncode(t, web("n2", 1))}})
	var c *CorruptError
	if rs[0].Err != nil || !errors.As(rs[1].Err, &c) || c.Index != 2 || !errors.As(rs[2].Err, &c) || s.Position().Index != 1 {
		t.Fatalf("%+v", rs)
	}
}

// Every bit of a log entry counts: flipped, or the rest cut off, it is corrupt and nothing is applied.
func TestDamagedEntry(t *testing.T) {
	entry := mustEncode(t, web("n1", 80))
	s := newStore(t, Config{})
	refused := func(data []byte, how string) {
		t.Helper()
		var c *CorruptError
		if r := s.Apply([]LogEntry{{1, data}})[0]; !errors.As(r.Err, &c) || c.Index != 1 {
			t.Fatalf("%s: %v", how, r.Err)
		}
	}
	for bit := range 8 * len(entry) {
		data := bytes.Clone(entry)
		data[bit/8] ^= 1 << (bit % 8)
		refused(data, fmt.Sprint("bit ", bit))
	}
	for n := range entry {
		refused(entry[:n], fmt.Sprint("cut at ", n))
	}
	if s.Position().Index != 0 {
		t.Error("something was applied")
	}
}

// A snapshot that is cut anywhere, has a bit flipped, or something behind its end is refused, and the store stays as it was.
func TestDamagedSnapshot(t *testing.T) {
	from := newStore(t, Config{Epoch: 3})
	do(t, from, web("n1", 80))
	var snap bytes.Buffer
	if _, err := from.Snapshot().WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, Config{Epoch: 9})
	do(t, s, web("n2", 81))
	do(t, s, web("n3", 82))
	position, digest := s.Position(), s.Digest()
	refused := func(data []byte, how string) {
		t.Helper()
		var c *CorruptError
		err := s.Restore(bytes.NewReader(data))
		if !errors.As(err, &c) && !errors.Is(err, ErrSchema) {
			t.Fatalf("%s: %v", how, err)
		}
		if s.Position() != position || !bytes.Equal(s.Digest(), digest) {
			t.Fatalf("%s: the store was touched", how)
		}
	}
	for n := range snap.Len() {
		refused(snap.Bytes()[:n], fmt.Sprint("cut at ", n))
		data := bytes.Clone(snap.Bytes())
		data[n] ^= 1 << (n % 8)
		refused(data, fmt.Sprint("flipped at ", n))
	}
	refused(append(bytes.Clone(snap.Bytes()), 0), "longer")
	if err := s.Restore(&snap); err != nil {
		t.Error(err)
	}
}

func TestEntriesAndIntentions(t *testing.T) {
	s := newStore(t, Config{})
	zero := uint64(0)
	set := func(e Entry, cas *uint64) Result { return do(t, s, SetEntry{EntryBox{e}, cas}) }
	e := &ServiceDefaults{EntryHead: EntryHead{Name: "web"}, Protocol: "HTTP"}
	e.Normalize()
	if r := set(e, &zero); r.Value != true {
		t.Fatal(r)
	}
	if r := set(e, &zero); r.Value != true { // the same: no-op, whatever the check says
		t.Fatal(r)
	}
	f := *e
	f.Protocol = "tcp"
	if r := set(&f, &zero); r.Value != false {
		t.Fatal(r)
	}
	got, err := EntryAs[*ServiceDefaults](s.Read(), KindServiceDefaults, name("web"))
	if err != nil || got.Protocol != "http" || got.ModifyIndex != 1 {
		t.Fatalf("%+v %v", got, err)
	}
	in := func(src, dst, mode string) Result {
		return do(t, s, SetIntention{name(dst), SourceIntention{Name: src, Action: "allow"}, mode})
	}
	in("*", "db", IntentionCreate)
	in("web", "db", IntentionCreate)
	if r := in("web", "db", IntentionCreate); !errors.Is(r.Err, ErrExists) {
		t.Fatal(r)
	}
	if r := in("we*", "db", IntentionUpsert); !errors.Is(r.Err, ErrInvalid) {
		t.Fatal(r)
	}
	si, _ := EntryAs[*ServiceIntentions](s.Read(), KindServiceIntentions, name("db"))
	if len(si.Sources) != 2 || si.Sources[0].Precedence != 9 || si.Sources[1].Precedence != 8 {
		t.Fatalf("%+v", si.Sources)
	}
	over := s.Read().Without(KindServiceIntentions, name("db")).With(&f)
	if x, _ := over.Entry(KindServiceIntentions, name("db")); x != nil {
		t.Error("deleted in the overlay but there")
	}
	if x, _ := over.Entries("", Scope{}); len(x) != 1 || x[0].(*ServiceDefaults).Protocol != "tcp" {
		t.Errorf("%v", x)
	}
	sp := &ServiceSplitter{EntryHead: EntryHead{Name: "web"}, Splits: []ServiceSplit{{Weight: 90}}}
	if err := sp.Validate(); err == nil || err.Error() != "the sum of all split weights must be 100, not 90.000000" || !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// randomCommand makes commands over few names, so that they meet.
func randomCommand(r *rand.Rand) Body {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	node := func() Node {
		return Node{Node: pick("n1", "N1", "n2", "n3"), Address: pick("10.0.0.1", "10.0.0.2"), ID: pick("", "", "u1", "u2")}
	}
	service := func() Service {
		s := Service{ID: pick("a", "b", "c"), Service: pick("web", "api", "db"), Port: r.IntN(3), Tags: []string{pick("v1", "v2")}}
		if r.IntN(3) == 0 {
			s.Kind, s.Proxy = KindConnectProxy, &Proxy{DestinationServiceName: pick("web", "api")}
		}
		return s
	}
	check := func() Check {
		return Check{CheckID: pick("c1", "c2", SerfHealth), ServiceID: pick("", "a", "b"), Status: pick("passing", "critical")}
	}
	switch r.IntN(18) {
	case 16, 17:
		return randomACL(r)
	case 10, 11, 12, 13, 14, 15:
		return randomData(r)
	case 0, 1, 2:
		return Register{Node: node(), Services: []Service{service()}, SkipNodeUpdate: r.IntN(2) == 0}
	case 3:
		return Register{Node: node(), Checks: []Check{check()}}
	case 4:
		return Deregister{Node: pick("n1", "n2", "n3"), ServiceID: pick("", "a", "b", "c"), CheckID: pick("", "", "c1")}
	case 5:
		s, c := service(), check()
		return Sync{Node: node(), Items: []SyncItem{{Service: &s}, {Check: &c}, {DeleteService: pick("a", "b")}}}
	case 6:
		e := &ServiceDefaults{EntryHead: EntryHead{Name: pick("web", "api")}, Protocol: pick("http", "tcp")}
		return SetEntry{Entry: EntryBox{e}}
	case 7:
		return DeleteEntry{Kind: pick(KindServiceDefaults, KindServiceIntentions), Key: name(pick("web", "api"))}
	case 8:
		return SetIntention{name(pick("web", "api", "*")), SourceIntention{Name: pick("web", "db", "*"), Action: "deny"}, pick(IntentionCreate, IntentionUpsert)}
	}
	switch r.IntN(8) {
	case 0, 1:
		return SetCluster{pick("c1", "c2")}
	case 2:
		return AssignVirtualIPs{name(pick("web", "api")), []string{pick("10.3.0.1", "10.3.0.2")}}
	}
	return DeleteIntention{Destination: name(pick("web", "api")), Source: name(pick("web", "db"))}
}

func randomTopics() []Topic {
	sc := Scope{}.Default("dc1")
	list := []Topic{NodesTopic(sc), ServicesTopic(sc), VirtualsTopic(sc), CATopic(), EntriesTopic("", sc), EntriesTopic(KindServiceDefaults, sc)}
	for _, n := range []string{"n1", "n2", "n3"} {
		list = append(list, NodeTopic(name(n)))
	}
	for _, n := range []string{"web", "api", "db", "none"} {
		list = append(list, ServiceTopic(name(n)), ConnectTopic(name(n)), EntryTopic(KindServiceDefaults, name(n)),
			EntryTopic(KindServiceIntentions, name(n)))
	}
	return list
}

// answer is all that a view says about a topic.
func answer(t *Txn, topic Topic) (any, uint64, error) {
	rec := t.Record()
	var out any
	var err error
	switch topic.Kind {
	case TopicNodes:
		out, err = rec.Nodes(topic.Key.Scope)
	case TopicNode:
		n, e := rec.Node(topic.Key)
		s, _ := rec.NodeServices(topic.Key)
		c, _ := rec.NodeChecks(topic.Key)
		out, err = []any{n, s, c}, e
	case TopicServices:
		out, err = rec.ServiceNames(topic.Key.Scope)
	case TopicService:
		out, err = rec.Instances(topic.Key)
	case TopicConnect:
		out, err = rec.ConnectInstances(topic.Key)
	case TopicEntry:
		out, err = rec.Entry(topic.Entry, topic.Key)
	case TopicEntries:
		out, err = rec.Entries(topic.Entry, topic.Key.Scope)
	case TopicACL:
		var all []ACLObject
		for _, kind := range []string{ACLTokens, ACLPolicies, ACLRoles, ACLBindingRules, ACLAuthMethods} {
			list, e := rec.ACLList(kind)
			all, err = append(all, list...), e
		}
		out = all
	case TopicKV:
		out, err = rec.KV(topic.Key)
	case TopicKVPrefix:
		out, err = rec.KVList(topic.Key)
	case TopicSession:
		out, err = rec.Session(topic.Key.Scope, topic.Key.Name)
	case TopicQuery:
		out, err = rec.Query(topic.Key.Name)
	case TopicQueries:
		out, err = rec.Queries()
		for _, n := range []string{"a", "abc", "zz"} {
			q, _ := rec.FindQuery(n)
			out = []any{out, q}
		}
	case TopicCoordinates:
		out, err = rec.Coordinates(topic.Key.Scope, "")
	case TopicVirtual:
		out, err = rec.VirtualIP(topic.Key)
	case TopicVirtuals:
		out, err = rec.VirtualIPs(topic.Key.Scope)
	case TopicSessions:
		out, err = rec.Sessions(topic.Key.Scope)
	case TopicNodeSessions:
		out, err = rec.NodeSessions(topic.Key)
	case TopicCA:
		var ca *CAState
		if ca, err = rec.CA(); ca != nil {
			ca = ca.public()
		}
		out = ca
	}
	return out, rec.ResultIndex(), err
}

func TestBatchesAndSnapshots(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		one, many := newStore(t, Config{}), newStore(t, Config{})
		var log []LogEntry
		for i := range 120 {
			log = append(log, LogEntry{uint64(2*i + 3), mustEncode(t, randomCommand(r))})
		}
		var a, b []Result
		last := map[Topic]uint64{}
		for _, e := range log {
			a = append(a, one.Apply([]LogEntry{e})...)
			for _, topic := range append(randomTopics(), dataTopics()...) {
				_, ix, _ := answer(one.Read(), topic)
				if ix < last[topic] {
					t.Fatalf("seed %d: %s went from %d back to %d", seed, topic, last[topic], ix)
				}
				last[topic] = ix
			}
		}
		for rest := log; len(rest) > 0; {
			n := min(1+r.IntN(20), len(rest))
			b = append(b, many.Apply(rest[:n])...)
			rest = rest[n:]
		}
		if d := cmp.Diff(texts(a), texts(b)); d != "" {
			t.Fatalf("seed %d: %s", seed, d)
		}
		if !bytes.Equal(one.Digest(), many.Digest()) {
			t.Fatalf("seed %d: digests differ", seed)
		}
		var snap bytes.Buffer
		if _, err := one.Snapshot().WriteTo(&snap); err != nil {
			t.Fatal(err)
		}
		restored := newStore(t, Config{})
		if err := restored.Restore(bytes.NewReader(snap.Bytes())); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one.Digest(), restored.Digest()) {
			t.Fatalf("seed %d: digest after restore differs", seed)
		}
		for _, topic := range append(randomTopics(), dataTopics()...) {
			x, i, _ := answer(one.Read(), topic)
			y, j, _ := answer(restored.Read(), topic)
			if d := differ(x, y); d != "" || i != j {
				t.Fatalf("seed %d: %s: %d %d %s", seed, topic, i, j, d)
			}
		}
		before := restored.Digest()
		for range 20 {
			bad := bytes.Clone(snap.Bytes())
			if at := r.IntN(len(bad)); r.IntN(2) == 0 {
				bad = bad[:at]
			} else {
				bad[at] ^= 1 << r.IntN(8)
			}
			if err := restored.Restore(bytes.NewReader(bad)); err == nil {
				t.Fatalf("seed %d: a damaged snapshot was taken", seed)
			}
		}
		if !bytes.Equal(before, restored.Digest()) {
			t.Fatal("a refused snapshot changed the store")
		}
	}
}

func texts(rs []Result) (out []string) {
	for _, r := range rs {
		value := fmt.Sprint(r.Value)
		switch r.Value.(type) {
		case KVResult, TransactionResult: // with pointers
			value = string(must(json.Marshal(r.Value)))
		}
		out = append(out, fmt.Sprintf("%d %s %v", r.Index, value, r.Err))
	}
	return out
}

// TestReplica feeds a replica by random commands with topics that come and go, and compares all that it answers.
// differ is cmp.Diff, which takes ten times as long as finding that there is no difference.
func differ(a, b any) string {
	if reflect.DeepEqual(a, b) {
		return ""
	}
	return cmp.Diff(a, b)
}

func TestReplica(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		server := newStore(t, Config{Epoch: 7, WindowBytes: 200 << 10})
		replica := newStore(t, Config{Replica: true})
		all := randomTopics()
		covered := map[Topic]bool{}
		for step := range 80 {
			for range r.IntN(4) {
				do(t, server, randomCommand(r))
			}
			if r.IntN(25) == 0 { // a restore: another epoch
				var snap bytes.Buffer
				_, _ = server.Snapshot().WriteTo(&snap)
				if err := server.Restore(&snap); err != nil {
					t.Fatal(err)
				}
			}
			view := server.Read()
			u := Update{Position: view.Position()}
			items, _, ok := view.Changes(replica.Position(), func(x Topic) bool { return covered[x] }, 0)
			if ok {
				u.Items = items
			}
			snapshot := func(x Topic) {
				list, err := view.Items(x)
				if err != nil {
					t.Fatal(err)
				}
				u.Items, u.Snapshot = append(list, u.Items...), append(u.Snapshot, x)
			}
			for _, x := range all {
				switch {
				case covered[x] && r.IntN(20) == 0:
					delete(covered, x)
					u.Dropped = append(u.Dropped, x)
				case covered[x] && !ok:
					snapshot(x)
				case !covered[x] && r.IntN(10) == 0:
					covered[x] = true
					u.Covered = append(u.Covered, x)
					snapshot(x)
				}
			}
			if err := replica.ApplyItems(u); err != nil {
				t.Fatal(err)
			}
			for _, x := range all {
				got, gi, err := answer(replica.Read(), x)
				if !covered[x] {
					if !errors.Is(err, ErrNotCovered) {
						t.Fatalf("seed %d step %d: %s isn't covered, but %v, %v", seed, step, x, got, err)
					}
					continue
				}
				want, wi, _ := answer(view, x)
				if d := differ(want, got); d != "" || gi != wi || err != nil {
					t.Fatalf("seed %d step %d: %s: index %d, want %d; %v\n%s", seed, step, x, gi, wi, err, d)
				}
			}
		}
		drop := Update{Position: replica.Position(), Dropped: all}
		if err := replica.ApplyItems(drop); err != nil {
			t.Fatal(err)
		}
		replica.Read().eachRow(func(row snapshotRow) { t.Fatalf("seed %d: left over: %+v", seed, row) })
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		woken := map[string]bool{}
		done := make(chan string, 20000)
		wait := func(name string, topic Topic) {
			go func() {
				if s.Wait(ctx, []Topic{topic}, s.Position().Index+1) == nil {
					done <- name
				}
			}()
		}
		wait("web", ServiceTopic(name("web")))
		wait("connect", ConnectTopic(name("web")))
		wait("db", ServiceTopic(name("db")))
		wait("entry", EntryTopic(KindServiceDefaults, name("web")))
		for i := range 10000 {
			wait("other", ServiceTopic(name(fmt.Sprint("x", i))))
		}
		synctest.Wait()
		collect := func() []string {
			synctest.Wait()
			clear(woken)
			for len(done) > 0 {
				woken[<-done] = true
			}
			var out []string
			for n := range woken {
				out = append(out, n)
			}
			slices.Sort(out)
			return out
		}
		do(t, s, web("n1", 80))
		if got := collect(); !slices.Equal(got, []string{"connect", "web"}) {
			t.Fatalf("woken: %v", got)
		}
		do(t, s, web("n1", 80))
		if got := collect(); len(got) != 0 {
			t.Fatalf("a write of the same woke %v", got)
		}
		var snap bytes.Buffer
		_, _ = s.Snapshot().WriteTo(&snap)
		if err := s.Restore(&snap); err != nil {
			t.Fatal(err)
		}
		if got := collect(); !slices.Equal(got, []string{"db", "entry", "other"}) {
			t.Fatalf("restore woke %v", got)
		}
		wait("db", ServiceTopic(name("db")))
		synctest.Wait()
		cancel()
		synctest.Wait()
		if n := s.waiters.count(); n != 0 {
			t.Errorf("%d waiters left", n)
		}
	})
}

func TestC103_NodeIdentity(t *testing.T) {
	s := newStore(t, Config{})
	node := func(name, id, health string) Result {
		return do(t, s, Register{Node: Node{Node: name, ID: id, Address: "10.0.0.1"}, Checks: []Check{{CheckID: SerfHealth, Status: health}}})
	}
	node("a", "u1", HealthPassing)
	if r := node("b", "u1", HealthPassing); !errors.Is(r.Err, ErrConflict) {
		t.Fatal(r)
	}
	if r := node("a", "u2", HealthPassing); !errors.Is(r.Err, ErrConflict) {
		t.Fatal(r)
	}
	if r := node("A", "u2", HealthPassing); !errors.Is(r.Err, ErrConflict) {
		t.Error("a name that differs by case alone", r)
	}
	node("a", "", HealthCritical)
	for _, to := range []string{"b", "c", "a"} { // each takes the ID from the one before, which is dead
		if r := node(to, "u1", HealthCritical); r.Err != nil {
			t.Fatal(r)
		}
		if list, _ := s.Read().Nodes(Scope{}); len(list) != 1 || list[0].Node != to || list[0].ID != "u1" {
			t.Fatalf("%+v", list)
		}
	}
	if r := do(t, s, Register{Node: Node{Node: "x"}}); r.Err == nil || r.Err.Error() != "Must provide address if SkipNodeUpdate is not set" {
		t.Fatal(r)
	}
}

func TestWaitForCoverage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, replica := newStore(t, Config{}), newStore(t, Config{Replica: true})
		do(t, server, web("n1", 80))
		topic := ServiceTopic(name("web"))
		view := replica.Read().Record()
		if _, err := view.Instances(name("web")); !errors.Is(err, ErrNotCovered) {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- replica.WaitChange(t.Context(), view) }()
		synctest.Wait()
		update := func() error {
			items, _ := server.Read().Items(topic)
			return replica.ApplyItems(Update{Position: server.Position(), Items: items, Snapshot: []Topic{topic}, Covered: []Topic{topic}})
		}
		if len(done) != 0 || update() != nil || <-done != nil {
			t.Fatal("coverage did not wake who waited for it")
		}
		if err := replica.WaitChange(t.Context(), view); err != nil { // it is no longer as the view saw it
			t.Fatal(err)
		}
	})
}

// TestLargeSync registers and removes many services by one command.
func TestLargeSync(t *testing.T) {
	s := newStore(t, Config{})
	var add, drop Sync
	add.Node = Node{Node: "n1", Address: "10.0.0.1"}
	drop.Node = add.Node
	for i := range 5000 {
		id := fmt.Sprint("s", i)
		add.Items = append(add.Items, SyncItem{Service: &Service{ID: id, Service: "many"}}, SyncItem{Check: &Check{CheckID: id, ServiceID: id}})
		drop.Items = append(drop.Items, SyncItem{DeleteService: id})
	}
	if r := do(t, s, add); r.Err != nil {
		t.Fatal(r.Err)
	}
	if l, _ := s.Read().Instances(name("many")); len(l) != 5000 || len(l[7].Checks) != 1 {
		t.Fatal(len(l))
	}
	do(t, s, drop)
	if c, _ := s.Read().NodeChecks(name("n1")); len(c) != 0 {
		t.Fatal(len(c))
	}
}

// TestPanic makes a command fail in a way that only a fault of ours could.
func TestPanic(t *testing.T) {
	s := newStore(t, Config{})
	do(t, s, SetCluster{"x"})
	bodies := []timed{{&SetCluster{"x"}, 0}, {(*Sync)(nil), 0}, {&RaiseSchema{1}, 0}}
	results, panicked := make([]Result, 3), map[int]error{}
	batch := []LogEntry{{2, nil}, {3, nil}, {4, nil}}
	for {
		w := newWrite(s)
		if w.applyAll(batch, bodies, results, panicked) {
			s.publish(w)
			break
		}
		w.txn.Abort()
	}
	if results[0].Err != nil || results[1].Err == nil || results[2].Value != uint64(1) || s.Read().Schema() != 1 {
		t.Fatalf("%+v", results)
	}
}

func FuzzApply(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		f.Add(mustEncode(f, randomCommand(r)))
	}
	stormtest.Fuzz(f, func(t *testing.T, data []byte) {
		s := newStore(t, Config{})
		do(t, s, web("n1", 80))
		if n := len(data) - 4; n >= 0 {
			data = data[:n]
		}
		rs := s.Apply([]LogEntry{{10, seal(bytes.Clone(data))}}) // the sum is right, so that what is inside gets read
		var c *CorruptError
		var p *panicError
		if errors.As(rs[0].Err, &p) {
			t.Fatal(rs[0].Err)
		}
		if !errors.As(rs[0].Err, &c) {
			if s.Digest() == nil {
				t.Fatal("no digest")
			}
		}
	})
}

func FuzzRestore(f *testing.F) {
	s := newStore(f, Config{})
	do(f, s, web("n1", 80))
	var snap bytes.Buffer
	_, _ = s.Snapshot().WriteTo(&snap)
	f.Add(snap.Bytes()[:snap.Len()-sha256.Size])
	stormtest.Fuzz(f, func(t *testing.T, data []byte) {
		sum := sha256.Sum256(data) // right, so that what is inside gets read
		data = append(bytes.Clone(data), sum[:]...)
		_ = newStore(t, Config{}).Restore(bytes.NewReader(data))
	})
}

func BenchmarkApplyRegister(b *testing.B) {
	s := newStore(b, Config{})
	var batch [][]byte
	for i := range 1000 {
		for port := range 2 { // each write changes something
			batch = append(batch, mustEncode(b, Register{
				Node:     Node{Node: fmt.Sprint("n", i), Address: "10.0.0.1"},
				Services: []Service{{ID: "web1", Service: "web", Port: 80 + port}},
			}))
		}
	}
	b.ReportAllocs()
	index := uint64(0)
	for i := 0; b.Loop(); i++ {
		var log []LogEntry
		for j := range 64 {
			index++
			log = append(log, LogEntry{index, batch[(i*64+j)%len(batch)]})
		}
		s.Apply(log)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(index), "ns/command")
}

func BenchmarkInstances30(b *testing.B) {
	s := newStore(b, Config{})
	for i := range 30 {
		do(b, s, web(fmt.Sprint("n", i), 80))
	}
	t := s.Read()
	b.ReportAllocs()
	for b.Loop() {
		if l, _ := t.Instances(name("web")); len(l) != 30 {
			b.Fatal(len(l))
		}
	}
}
