// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// randomData makes commands on keys and sessions, over few names.
func randomData(r *rand.Rand) Body {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	op := func() *KVOp {
		return &KVOp{
			Verb: KVVerb(pick(string(KVSet), string(KVCAS), string(KVLock), string(KVUnlock), string(KVDelete), string(KVDeleteCAS), string(KVDeleteTree), string(KVGet))),
			Key:  Raw(pick("a", "a/b", "a/c", "\x00\xff", "b")), Value: []byte(pick("", "x", "y")), Session: pick("s1", "s2"), Index: uint64(r.IntN(9)),
		}
	}
	switch r.IntN(8) {
	case 7:
		return SetCoordinates{[]NodeCoordinate{
			{Node: pick("n1", "N2"), Coord: Coordinate{Vec: []float64{r.Float64()}}}, {Node: pick("n3", "nobody"), Segment: pick("", "alpha")},
		}}
	case 5:
		q := PreparedQuery{ID: pick("q1", "q2"), Name: pick("", "a", "ab"), Session: pick("", "s1"), Service: QueryService{Service: "web"}}
		q.Template.Type = pick("", QueryPrefix)
		return SetQuery{Query: q, Create: r.IntN(2) == 0}
	case 6:
		return DeleteQuery{pick("q1", "q2")}
	case 0:
		s := Session{ID: pick("s1", "s2", "s3"), Node: pick("n1", "n2"), LockDelay: time.Second, Behavior: pick("release", "delete")}
		if r.IntN(2) == 0 {
			s.NodeChecks = []string{SerfHealth}
		}
		return CreateSession{s}
	case 1:
		return DestroySession{ID: pick("s1", "s2", "s3")}
	case 2:
		return Transaction{Ops: []TransactionOp{
			{KV: op()}, {Node: &NodeOp{RecordDelete, Node{Node: pick("n1", "n2")}}}, {KV: op()}, {Session: &DestroySession{ID: "s1"}},
			{Check: &CheckOp{RecordVerb(pick("set", "cas")), Check{Node: pick("n1", "n3"), CheckID: SerfHealth, Status: pick("passing", "critical")}}},
		}[r.IntN(5):]}
	}
	return *op()
}

func dataTopics() []Topic {
	sc := Scope{}.Default("dc1")
	list := []Topic{SessionsTopic(sc), NodeSessionsTopic(sc, "n1"), NodeSessionsTopic(sc, "n2"), SessionTopic(sc, "s1"), SessionTopic(sc, "S2")}
	list = append(list, aclTopic, coordinatesTopic(sc), queriesTopic, queryTopic("q1"), queryTopic("Q2"), virtualTopic(name("web")), virtualTopic(name("api")))
	for _, k := range []string{"", "a", "a/", "a/b", "\x00\xff", "c"} {
		list = append(list, KVTopic(name(k)), KVPrefixTopic(name(k)))
	}
	return list
}

var clock = time.UnixMilli(1_700_000_000_000)

func doAt(t testing.TB, s *Store, at time.Time, b Body) Result {
	t.Helper()
	data, err := EncodeAt(b, at)
	if err != nil {
		t.Fatal(err)
	}
	return s.Apply([]LogEntry{{s.Position().Index + 1, data}})[0]
}

func kv(t testing.TB, s *Store, op KVOp) bool {
	t.Helper()
	r := doAt(t, s, clock, op)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r.Value.(KVResult).Failed == ""
}

func TestKVRules(t *testing.T) {
	s := newStore(t, Config{})
	entry := func(key string) *KVEntry {
		e, err := s.Read().KV(name(key))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if !kv(t, s, KVOp{Verb: KVSet, Key: "a", Value: []byte("1"), Flags: 7}) || entry("a").ModifyIndex != 1 {
		t.Fatal(entry("a"))
	}
	kv(t, s, KVOp{Verb: KVSet, Key: "a", Value: []byte("1"), Flags: 7}) // the same: nothing moves
	if e := entry("a"); e.ModifyIndex != 1 || e.Flags != 7 {
		t.Errorf("%+v", e)
	}
	for _, c := range []struct {
		op   KVOp
		want bool
	}{
		{KVOp{Verb: KVCAS, Key: "a", Index: 0}, false},
		{KVOp{Verb: KVCAS, Key: "a", Index: 9}, false},
		{KVOp{Verb: KVCAS, Key: "a", Index: 1, Value: []byte("2")}, true},
		{KVOp{Verb: KVCAS, Key: "b", Index: 3}, false},
		{KVOp{Verb: KVCAS, Key: "b", Index: 0}, true},
		{KVOp{Verb: KVDeleteCAS, Key: "b", Index: 0}, false},
		{KVOp{Verb: KVDeleteCAS, Key: "none", Index: 4}, true},
		{KVOp{Verb: KVUnlock, Key: "a", Session: "x"}, false},
		{KVOp{Verb: KVCheckNotExists, Key: "none"}, true},
		{KVOp{Verb: KVCheckNotExists, Key: "a"}, false},
		{KVOp{Verb: KVCheckIndex, Key: "a", Index: 5}, true},
		{KVOp{Verb: KVCheckIndex, Key: "a", Index: 6}, false},
		{KVOp{Verb: KVGet, Key: "none"}, false},
		{KVOp{Verb: KVGetOrEmpty, Key: "none"}, true},
	} {
		if got := kv(t, s, c.op); got != c.want {
			t.Errorf("%+v: %v", c.op, got)
		}
	}
	if r := do(t, s, KVOp{Verb: KVSet}); r.Err == nil || r.Err.Error() != "Missing key name" {
		t.Error(r.Err)
	}
	if r := do(t, s, KVOp{Verb: "odd", Key: "a"}); r.Err == nil {
		t.Error("an unknown verb was taken")
	}
	if r := do(t, s, KVOp{Verb: KVLock, Key: "a", Session: "no"}); r.Err == nil || !strings.HasPrefix(r.Err.Error(), `invalid session "no"`) {
		t.Error(r.Err)
	}
}

func TestKVKeys(t *testing.T) {
	s := newStore(t, Config{})
	for _, k := range []Raw{"a", "a/", "a/b", "a/b/c", "a/b/d", "a/e", "a//x", "ab", "\xff\x00", "z"} {
		kv(t, s, KVOp{Verb: KVSet, Key: k})
	}
	for _, c := range []struct {
		prefix, separator string
		want              []string
	}{
		{"a/", "", []string{"a/", "a//x", "a/b", "a/b/c", "a/b/d", "a/e"}},
		{"a/", "/", []string{"a/", "a//", "a/b", "a/b/", "a/e"}},
		{"", "/", []string{"a", "a/", "ab", "z", "\xff\x00"}},
		{"none", "/", nil},
	} {
		got, err := s.Read().KVKeys(name(c.prefix), c.separator)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%q by %q: %s", c.prefix, c.separator, d)
		}
	}
	do(t, s, KVOp{Verb: KVDeleteTree, Key: "a/"})
	if got, _ := s.Read().KVKeys(name(""), ""); len(got) != 4 {
		t.Errorf("%q", got)
	}
}

func TestLocks(t *testing.T) {
	s := newStore(t, Config{})
	doAt(t, s, clock, web("n1", 80))
	create := func(id, behavior string) {
		t.Helper()
		r := doAt(t, s, clock, CreateSession{Session{
			ID: id, Node: "n1", Behavior: behavior, LockDelay: 10 * time.Second, NodeChecks: []string{SerfHealth}, ServiceChecks: []ServiceCheck{{ID: "c1"}},
		}})
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	lock := func(key, session string, at time.Time) bool {
		t.Helper()
		r := doAt(t, s, at, KVOp{Verb: KVLock, Key: Raw(key), Session: session, Value: []byte(session)})
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return r.Value.(KVResult).Failed == ""
	}
	get := func(key string) *KVEntry { e, _ := s.Read().KV(name(key)); return e }
	create("s1", SessionRelease)
	create("s2", SessionDelete)
	if !lock("k", "s1", clock) || !lock("k", "s1", clock) || lock("k", "s2", clock) {
		t.Fatalf("%+v", get("k"))
	}
	if e := get("k"); e.LockIndex != 1 || e.Session != "s1" || e.FencingIndex != e.ModifyIndex {
		t.Errorf("%+v", e)
	}
	fence := get("k").FencingIndex
	kv(t, s, KVOp{Verb: KVSet, Key: "k", Value: []byte("new")}) // a write leaves the lock
	if e := get("k"); e.Session != "s1" || e.FencingIndex != fence {
		t.Errorf("%+v", e)
	}
	lock("gone", "s2", clock)

	// The check goes critical: both sessions end, in the same command.
	doAt(t, s, clock, Register{Node: Node{Node: "n1", Address: "10.0.0.1"}, Checks: []Check{{CheckID: "c1", ServiceID: "web1", Status: HealthCritical}}})
	if list, _ := s.Read().Sessions(Scope{}); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	if e := get("k"); e == nil || e.Session != "" || e.FencingIndex != 0 || e.LockIndex != 1 || e.ModifyIndex != s.Position().Index {
		t.Errorf("%+v", e)
	}
	if get("gone") != nil {
		t.Error("a key of a session with behavior delete is still there")
	}
	if r := doAt(t, s, clock, CreateSession{Session{ID: "s3", Node: "n1", NodeChecks: []string{"c1"}}}); r.Err == nil || r.Err.Error() != "Check 'c1' is in critical state" {
		t.Error(r.Err)
	}
	doAt(t, s, clock, CreateSession{Session{ID: "s3", Node: "n1"}})
	if lock("k", "s3", clock.Add(9*time.Second)) || !lock("k", "s3", clock.Add(11*time.Second)) {
		t.Error("the lock delay isn't kept")
	}
	if lock("gone", "s3", clock.Add(9*time.Second)) || !lock("gone", "s3", clock.Add(11*time.Second)) {
		t.Error("the lock delay of a deleted key isn't kept")
	}
	if e := get("gone"); e.LockIndex != 1 || e.FencingIndex <= fence {
		t.Errorf("%+v: the fencing index must rise", e)
	}
	// A delay that a wrong clock set far ahead holds nobody up.
	doAt(t, s, clock.Add(1000*time.Hour), DestroySession{ID: "s3"})
	doAt(t, s, clock, CreateSession{Session{ID: "s4", Node: "n1"}})
	if !lock("k", "s4", clock.Add(20*time.Second)) {
		t.Error("a wrong clock's delay holds")
	}
	// One whose ID begins with another's.
	doAt(t, s, clock, CreateSession{Session{ID: "s41", Node: "n1"}})
	lock("longer", "s41", clock)
	doAt(t, s, clock, CreateSession{Session{ID: "s", Node: "n1"}})
	doAt(t, s, clock, DestroySession{ID: "s"})
	if get("longer").Session != "s41" {
		t.Error("another session's lock was released")
	}
	// The node goes, and the session with it.
	doAt(t, s, clock, Deregister{Node: "n1"})
	if list, _ := s.Read().Sessions(Scope{}); len(list) != 0 || get("k").Session != "" {
		t.Errorf("%+v", list)
	}
	for _, c := range []struct {
		s    Session
		want string
	}{
		{Session{ID: "x", Node: "n1"}, "Missing node registration"},
		{Session{ID: "x", Node: "n1", Behavior: "odd"}, "Invalid Behavior setting 'odd'"},
	} {
		if r := do(t, s, CreateSession{c.s}); r.Err == nil || r.Err.Error() != c.want {
			t.Error(r.Err)
		}
	}
	doAt(t, s, clock, web("n1", 80))
	if r := do(t, s, CreateSession{Session{ID: "x", Node: "n1", NodeChecks: []string{"Nope"}}}); r.Err == nil || r.Err.Error() != "Missing check 'Nope' registration" {
		t.Error(r.Err)
	}
}

func TestTransaction(t *testing.T) {
	s := newStore(t, Config{})
	doAt(t, s, clock, web("n1", 80))
	doAt(t, s, clock, CreateSession{Session{ID: "s1", Node: "n1"}})
	run := func(ops ...TransactionOp) TransactionResult {
		t.Helper()
		r := doAt(t, s, clock, Transaction{ops})
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return r.Value.(TransactionResult)
	}
	key := func(verb KVVerb, key Raw, value string) TransactionOp {
		return TransactionOp{KV: &KVOp{Verb: verb, Key: key, Value: []byte(value), Session: "s1"}}
	}
	got := run(key(KVSet, "a", "1"), key(KVGet, "a", ""), key(KVLock, "l", ""), key(KVCheckSession, "l", ""), key(KVDelete, "none", ""))
	if len(got.Errors) != 0 || len(got.Results) != 4 || string(got.Results[1].KV.Value) != "1" {
		t.Fatalf("%+v", got)
	}
	// One that fails undoes all, and each fault is named.
	got = run(key(KVSet, "b", "1"), key(KVGet, "none", ""), TransactionOp{Node: &NodeOp{RecordGet, Node{Node: "n9"}}}, TransactionOp{})
	want := []OpError{{1, `key "none" doesn't exist`}, {2, `node "n9" doesn't exist`}, {3, "the operation is empty"}}
	if d := cmp.Diff(want, got.Errors); d != "" {
		t.Error(d)
	}
	if e, _ := s.Read().KV(name("b")); e != nil {
		t.Error("half of a transaction that failed was applied")
	}
	// An operation sees what those before it ended.
	got = run(TransactionOp{Node: &NodeOp{RecordDelete, Node{Node: "n1"}}}, key(KVLock, "l2", ""))
	if len(got.Errors) != 1 || got.Errors[0].What != `invalid session "s1"` {
		t.Errorf("%+v", got)
	}
	node, _ := s.Read().Node(name("n1"))
	got = run(
		TransactionOp{Node: &NodeOp{RecordCAS, Node{Node: "n1", Address: "10.9.9.9", Indexes: node.Indexes}}},
		TransactionOp{Service: &ServiceOp{RecordSet, Service{Node: "n1", ID: "db1", Service: "db", Port: 5}}},
		TransactionOp{Check: &CheckOp{RecordSet, Check{Node: "n1", CheckID: "x", ServiceID: "db1", Status: HealthPassing}}},
		TransactionOp{Service: &ServiceOp{RecordDeleteCAS, Service{Node: "n1", ID: "web1", Indexes: Indexes{ModifyIndex: 1}}}},
	)
	if len(got.Errors) != 0 || got.Results[0].Node.Address != "10.9.9.9" || got.Results[2].Check.ServiceName != "db" {
		t.Fatalf("%+v", got)
	}
	if list, _ := s.Read().Instances(name("db")); len(list) != 1 || len(list[0].Checks) != 2 {
		t.Errorf("%+v", list)
	}
	got = run(TransactionOp{Check: &CheckOp{RecordCAS, Check{Node: "n1", CheckID: "x", Status: HealthPassing}}})
	if len(got.Errors) != 1 || got.Errors[0].What != `failed to set check "x" on node "n1", index is stale` {
		t.Errorf("%+v", got)
	}
	read := Transaction{[]TransactionOp{key(KVGetTree, "", ""), {Service: &ServiceOp{RecordGet, Service{Node: "n1", ID: "db1"}}}}}
	if !read.ReadOnly() || len(s.Read().Transaction(&read).Results) != 3 {
		t.Errorf("%+v", s.Read().Transaction(&read))
	}
}

// TestKVWatches: what changes wakes those who read it, and nobody else; reaping wakes nobody.
func TestKVWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Config{})
		doAt(t, s, clock, web("n1", 80))
		kv(t, s, KVOp{Verb: KVSet, Key: "a/b"})
		var mu sync.Mutex // guards woken while the waiters run
		woken := map[string]bool{}
		ctx, cancel := context.WithCancel(t.Context())
		wait := func(label string, read func(*Txn)) {
			txn := s.Read().Record()
			read(txn)
			go func() {
				if s.WaitChange(ctx, txn) == nil {
					mu.Lock()
					defer mu.Unlock()
					woken[label] = true
				}
			}()
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for _, label := range want {
				if !woken[label] {
					t.Errorf("%s didn't wake", label)
				}
				delete(woken, label)
			}
			for label := range woken {
				t.Errorf("%s woke for nothing", label)
			}
			clear(woken)
		}
		key := func(k string) { wait("key "+k, func(txn *Txn) { _, _ = txn.KV(name(k)) }) }
		prefix := func(k string) { wait("prefix "+k, func(txn *Txn) { _, _ = txn.KVList(name(k)) }) }
		session := func(id string) { wait("session "+id, func(txn *Txn) { _, _ = txn.Session(Scope{}, id) }) }
		key("a/b")
		key("a/c")
		prefix("a/")
		prefix("b/")
		prefix("")
		session("s1")
		wait("sessions", func(txn *Txn) { _, _ = txn.Sessions(Scope{}) })
		wait("node n2", func(txn *Txn) { _, _ = txn.NodeSessions(name("n2")) })
		kv(t, s, KVOp{Verb: KVSet, Key: "a/b"}) // the same
		expect()
		kv(t, s, KVOp{Verb: KVSet, Key: "a/b", Value: []byte("x")})
		expect("key a/b", "prefix a/", "prefix ")
		prefix("a/")
		key("a/b")
		kv(t, s, KVOp{Verb: KVDeleteTree, Key: "a/b"})
		expect("key a/b", "prefix a/")
		prefix("a/")
		doAt(t, s, clock, CreateSession{Session{ID: "s2", Node: "n1"}})
		expect("sessions")
		doAt(t, s, clock, CreateSession{Session{ID: "s1", Node: "n1"}})
		expect("session s1")
		do(t, s, Reap{Tombstones: s.Position().Index})
		expect()
		cancel()
		synctest.Wait()
		if n := s.waiters.count(); n != 0 || len(s.waiters.lengths) != 0 {
			t.Errorf("%d waiters are left", n)
		}
	})
}

// A reader that was away until its deletion was forgotten still learns of it.
func TestReap(t *testing.T) {
	s := newStore(t, Config{})
	kv(t, s, KVOp{Verb: KVSet, Key: "a"})
	kv(t, s, KVOp{Verb: KVDelete, Key: "a"})
	read := func() (*Txn, uint64) {
		txn := s.Read().Record()
		_, _ = txn.KV(name("a"))
		return txn, txn.ResultIndex()
	}
	if _, i := read(); i != 2 {
		t.Errorf("index %d of a key that was deleted at 2", i)
	}
	if !s.Read().Reapable(2) || s.Read().Reapable(1) {
		t.Error("Reapable")
	}
	do(t, s, Reap{Tombstones: 2})
	txn, i := read()
	if i != 1 || !txn.Regressed(2) || txn.Regressed(1) || txn.Regressed(3) {
		t.Errorf("index %d, reaped %d", i, txn.Reaped())
	}
}

func BenchmarkApplyKV(b *testing.B) {
	s := newStore(b, Config{})
	var batch [][]byte
	for i := range 2000 {
		data, err := EncodeAt(KVOp{Verb: KVSet, Key: Raw("service/config/" + string(rune('a'+i%26)) + "/" + time.Duration(i).String()), Value: make([]byte, 64+i%2)}, clock)
		if err != nil {
			b.Fatal(err)
		}
		batch = append(batch, data)
	}
	b.ReportAllocs()
	index := uint64(0)
	for i := 0; b.Loop(); i++ {
		log := make([]LogEntry, 64)
		for j := range log {
			index++
			log[j] = LogEntry{index, batch[(i*64+j)%len(batch)]}
		}
		s.Apply(log)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(index), "ns/command")
}
