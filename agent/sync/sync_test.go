// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	gosync "sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

var scope = catalog.Scope{}.Default("dc1")

func service(id, owner string, port int) *catalog.Service {
	return &catalog.Service{Scope: scope, Node: "n1", ID: id, Service: id, Port: port, Owner: owner}
}

func check(id, service, owner, status, output string) *catalog.Check {
	return &catalog.Check{Scope: scope, Node: "n1", CheckID: id, Name: id, ServiceID: service, Status: status, Output: output, Owner: owner}
}

// random makes a wanted state and a catalog that overlap in part.
func random(r *rand.Rand) (*local.Wanted, *Host) {
	w := &local.Wanted{Node: catalog.Node{Scope: scope, Node: "n1"}, Services: map[string]*local.Service{}, Checks: map[string]*local.Check{}}
	h := &Host{Services: map[string]*catalog.Service{}, Checks: map[string]*catalog.Check{}}
	owner := func() string { return []string{local.Owner, local.Owner, "k8s", ""}[r.IntN(4)] }
	status := func() string { return []string{catalog.HealthPassing, catalog.HealthCritical}[r.IntN(2)] }
	for i := range r.IntN(5) {
		id := fmt.Sprint("s", i)
		if r.IntN(2) == 0 {
			w.Services[id] = &local.Service{Record: service(id, local.Owner, r.IntN(2)), Token: "t" + id}
		}
		if r.IntN(2) == 0 {
			h.Services[id] = service(id, owner(), r.IntN(2))
		}
	}
	for i := range r.IntN(8) {
		id, of := fmt.Sprint("c", i), ""
		if r.IntN(2) == 0 {
			of = fmt.Sprint("s", r.IntN(5))
		}
		if _, ok := w.Services[of]; (ok || of == "") && r.IntN(2) == 0 {
			w.Checks[id] = &local.Check{Record: check(id, of, local.Owner, status(), fmt.Sprint(r.IntN(2)))}
		}
		if _, ok := h.Services[of]; (ok || of == "") && r.IntN(2) == 0 {
			h.Checks[id] = check(id, of, owner(), status(), fmt.Sprint(r.IntN(2)))
		}
	}
	return w, h
}

// The difference applied to what the catalog has gives what is wanted, and what others own stays.
func TestDiffAppliedIsWanted(t *testing.T) {
	for seed := range uint64(5000) {
		w, h := random(rand.New(rand.NewPCG(seed, 1)))
		services, checks := maps.Clone(h.Services), maps.Clone(h.Checks)
		for _, item := range Diff(w, h, true) {
			if s := h.Services[item.DeleteService]; item.DeleteService != "" && s.Owner != local.Owner {
				t.Fatalf("seed %d: removes service %s of owner %q", seed, s.ID, s.Owner)
			}
			if c := h.Checks[item.DeleteCheck]; item.DeleteCheck != "" && c.Owner != local.Owner {
				t.Fatalf("seed %d: removes check %s of owner %q", seed, c.CheckID, c.Owner)
			}
			next := &Host{Services: services, Checks: checks}
			if c := item.Check; c != nil && c.ServiceID != "" && services[c.ServiceID] == nil {
				t.Fatalf("seed %d: check %s before its service", seed, c.CheckID)
			}
			next.take(item.SyncItem)
		}
		want := Host{Services: map[string]*catalog.Service{}, Checks: map[string]*catalog.Check{}}
		for id, s := range h.Services {
			if s.Owner != local.Owner {
				want.Services[id] = s
			}
		}
		for id, s := range w.Services {
			want.Services[id] = s.Record
		}
		for id, c := range h.Checks {
			if c.Owner != local.Owner && (c.ServiceID == "" || want.Services[c.ServiceID] != nil) {
				want.Checks[id] = c
			}
		}
		for id, c := range w.Checks {
			want.Checks[id] = c.Record
		}
		if diff := cmp.Diff(want, Host{Services: services, Checks: checks}); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
		if again := Diff(w, &Host{Services: services, Checks: checks}, true); len(again) != 0 {
			t.Fatalf("seed %d: a second difference: %+v", seed, again)
		}
	}
}

func TestDiffOutputs(t *testing.T) {
	wanted := func(status, output string) *local.Wanted {
		return &local.Wanted{Checks: map[string]*local.Check{"c": {Record: check("c", "", local.Owner, status, output)}}}
	}
	have := &Host{Checks: map[string]*catalog.Check{"c": check("c", "", local.Owner, catalog.HealthPassing, "old")}}
	for _, c := range []struct {
		status, output string
		outputs        bool
		want           int
	}{
		{catalog.HealthPassing, "old", true, 0},
		{catalog.HealthPassing, "new", false, 0},
		{catalog.HealthPassing, "new", true, 1},
		{catalog.HealthCritical, "new", false, 1},
	} {
		if got := Diff(wanted(c.status, c.output), have, c.outputs); len(got) != c.want {
			t.Errorf("%+v: %d items", c, len(got))
		}
	}
	if got := Diff(wanted(catalog.HealthCritical, "new"), have, false); got[0].Check.Output != "new" {
		t.Errorf("a changed status is sent with the old output %q", got[0].Check.Output)
	}
}

// Tags that others may change in the catalog are left to them; an empty list is none.
func TestDiffTags(t *testing.T) {
	mine, theirs := service("web", local.Owner, 1), service("web", local.Owner, 1)
	theirs.Tags = []string{"x"}
	wanted := &local.Wanted{Services: map[string]*local.Service{"web": {Record: mine}}}
	have := &Host{Services: map[string]*catalog.Service{"web": theirs}}
	if len(Diff(wanted, have, true)) != 1 {
		t.Error("changed tags aren't sent")
	}
	mine.EnableTagOverride, theirs.EnableTagOverride = true, true
	if len(Diff(wanted, have, true)) != 0 {
		t.Error("overridden tags are sent")
	}
	mine.Tags, mine.EnableTagOverride, theirs.EnableTagOverride, theirs.Tags = []string{}, false, false, nil
	if len(Diff(wanted, have, true)) != 0 {
		t.Error("no tags differ from no tags")
	}
}

// state is a wanted state that a test sets.
type state struct {
	mu      gosync.Mutex
	w       local.Wanted
	changed chan struct{}
}

func newState() *state {
	return &state{changed: make(chan struct{}), w: local.Wanted{
		Version: 1, Node: catalog.Node{Scope: scope, Node: "n1", Address: "10.0.0.1"},
		Services: map[string]*local.Service{}, Checks: map[string]*local.Check{},
	}}
}

func (s *state) Wanted() (local.Wanted, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.w
	w.Services, w.Checks = maps.Clone(w.Services), maps.Clone(w.Checks)
	return w, s.changed
}

func (s *state) set(f func(w *local.Wanted)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.w)
	s.w.Version++
	close(s.changed)
	s.changed = make(chan struct{})
}

// server is a catalog that a test looks into.
type server struct {
	mu            gosync.Mutex
	host          Host
	asked, synced int
	items         int
	tokens        []string
	down          bool
	refuse        string // ID of a service
	index         uint64
}

// with looks into the server, or changes it.
func (f *server) with(do func(f *server)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(f)
}

// snapshot is a copy to look at.
func (f *server) snapshot() (host Host, asked, synced int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Host{Node: f.host.Node, Services: maps.Clone(f.host.Services), Checks: maps.Clone(f.host.Checks)}, f.asked, f.synced
}

var errDown = errors.New("down")

func (f *server) Host(context.Context, *weftv1.HostRequest, ...grpc.CallOption) (*weftv1.HostResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.down {
		return nil, errDown
	}
	resp := &weftv1.HostResponse{}
	enc := func(v any) []byte {
		b, err := catalog.Canonical(v)
		if err != nil {
			panic(err)
		}
		return b
	}
	if f.host.Node != nil {
		resp.Node = enc(*f.host.Node)
	}
	for _, s := range f.host.Services {
		resp.Services = append(resp.Services, enc(*s))
	}
	for _, c := range f.host.Checks {
		resp.Checks = append(resp.Checks, enc(*c))
	}
	return resp, nil
}

func (f *server) Sync(_ context.Context, r *weftv1.SyncRequest, _ ...grpc.CallOption) (*weftv1.SyncResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	f.synced++
	f.tokens = r.GetTokens()
	var cmd catalog.Sync
	if err := catalog.FromCanonical(r.GetSync(), &cmd); err != nil {
		return nil, err
	}
	f.host.Node = &cmd.Node
	f.index++
	resp := &weftv1.SyncResponse{Index: f.index}
	for _, item := range cmd.Items {
		f.items++
		result := &weftv1.ItemResult{}
		if item.Service != nil && item.Service.ID == f.refuse {
			result.Error = "refused"
		} else {
			f.host.take(item)
		}
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

// bubble runs a syncer between a state and a server; f does its steps, each of which waits for what follows from it.
func bubble(t *testing.T, f func(t *testing.T, st *state, sv *server, s *Syncer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := newState()
		sv := &server{host: Host{Services: map[string]*catalog.Service{}, Checks: map[string]*catalog.Check{}}}
		s, err := New(Config{State: st, Client: sv, Log: slog.New(slog.DiscardHandler), Full: 40 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		f(t, st, sv, s)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestLoopFollowsChanges(t *testing.T) {
	bubble(t, func(t *testing.T, st *state, sv *server, s *Syncer) {
		synctest.Wait()
		if host, _, synced := sv.snapshot(); host.Node == nil || synced != 1 {
			t.Fatalf("the node isn't there: %d", synced)
		}
		start := time.Now()
		st.set(func(w *local.Wanted) {
			w.Services["web"] = &local.Service{Record: service("web", local.Owner, 80), Token: "secret"}
		})
		index, err := s.Wait(t.Context(), 2)
		if err != nil || index != 2 || time.Since(start) != 0 {
			t.Errorf("waited %v for index %d: %v", time.Since(start), index, err)
		}
		sv.with(func(sv *server) {
			if sv.host.Services["web"] == nil || sv.items != 1 || sv.tokens[0] != "secret" {
				t.Errorf("the catalog has %v, with tokens %q", sv.host.Services, sv.tokens)
			}
		})
		st.set(func(w *local.Wanted) { delete(w.Services, "web") })
		if _, err := s.Wait(t.Context(), 3); err != nil {
			t.Error(err)
		}
		if host, _, _ := sv.snapshot(); len(host.Services) != 0 {
			t.Errorf("not removed: %v", host.Services)
		}
	})
}

// What comes in numbers is sent in few commands, and all of it.
func TestLoopGathersChanges(t *testing.T) {
	bubble(t, func(t *testing.T, st *state, sv *server, s *Syncer) {
		synctest.Wait()
		_, _, before := sv.snapshot()
		const many = 100
		for i := range many {
			st.set(func(w *local.Wanted) {
				id := fmt.Sprint("s", i)
				w.Services[id] = &local.Service{Record: service(id, local.Owner, 80)}
			})
			time.Sleep(time.Millisecond)
		}
		if _, err := s.Wait(t.Context(), many+1); err != nil {
			t.Fatal(err)
		}
		if host, _, synced := sv.snapshot(); len(host.Services) != many || synced-before > many/5 {
			t.Errorf("the catalog has %d services after %d commands", len(host.Services), synced-before)
		}
	})
}

// What others change in the catalog is set right with the next comparison.
func TestLoopComparesAll(t *testing.T) {
	bubble(t, func(t *testing.T, st *state, sv *server, _ *Syncer) {
		st.set(func(w *local.Wanted) { w.Services["web"] = &local.Service{Record: service("web", local.Owner, 80)} })
		synctest.Wait()
		sv.with(func(sv *server) { delete(sv.host.Services, "web") })
		time.Sleep(50 * time.Second) // the spread is a quarter
		synctest.Wait()
		host, asked, _ := sv.snapshot()
		if host.Services["web"] == nil {
			t.Error("what was lost stays lost")
		}
		if asked > 3 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// Outputs alone wait for their interval, and aren't forgotten.
func TestLoopHoldsOutputsBack(t *testing.T) {
	bubble(t, func(t *testing.T, st *state, sv *server, _ *Syncer) {
		set := func(status, output string) {
			st.set(func(w *local.Wanted) {
				w.Checks["c"] = &local.Check{Record: check("c", "", local.Owner, status, output)}
			})
			synctest.Wait()
		}
		set(catalog.HealthPassing, "1")
		_, _, sent := sv.snapshot()
		set(catalog.HealthPassing, "2")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, _, synced := sv.snapshot(); synced != sent {
			t.Error("an output is sent at once")
		}
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		host, _, _ := sv.snapshot()
		if got := host.Checks["c"].Output; got != "2" {
			t.Errorf("after six minutes the output is %q", got)
		}
		set(catalog.HealthCritical, "3")
		host, _, _ = sv.snapshot()
		if got := host.Checks["c"].Status; got != catalog.HealthCritical {
			t.Errorf("a status waits: %q", got)
		}
	})
}

// A server that is away is tried again, slower and slower, and caught up with when it is back.
func TestLoopSurvivesServer(t *testing.T) {
	bubble(t, func(t *testing.T, st *state, sv *server, s *Syncer) {
		synctest.Wait()
		sv.with(func(sv *server) { sv.down, sv.asked = true, 0 })
		st.set(func(w *local.Wanted) { w.Services["web"] = &local.Service{Record: service("web", local.Owner, 80)} })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if _, asked, _ := sv.snapshot(); asked < 55 || asked > 80 {
			t.Errorf("asked %d times in ten minutes, want about one in ten seconds", asked)
		}
		sv.with(func(sv *server) { sv.down = false })
		start := time.Now()
		if _, err := s.Wait(t.Context(), 2); err != nil || time.Since(start) > retryLast {
			t.Errorf("caught up after %v: %v", time.Since(start), err)
		}
	})
}

// One refused item holds up no other; it isn't reported as done.
func TestLoopRefusedItem(t *testing.T) {
	bubble(t, func(t *testing.T, st *state, sv *server, s *Syncer) {
		sv.with(func(sv *server) { sv.refuse = "bad" })
		st.set(func(w *local.Wanted) {
			w.Services["bad"] = &local.Service{Record: service("bad", local.Owner, 80)}
			w.Services["good"] = &local.Service{Record: service("good", local.Owner, 80)}
		})
		synctest.Wait()
		if host, _, _ := sv.snapshot(); host.Services["good"] == nil || host.Services["bad"] != nil {
			t.Errorf("the catalog has %v", host.Services)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Wait(ctx, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("reported as done: %v", err)
		}
		sv.with(func(sv *server) { sv.refuse = "" })
		time.Sleep(time.Minute)
		synctest.Wait()
		if host, _, _ := sv.snapshot(); host.Services["bad"] == nil {
			t.Error("not tried again")
		}
	})
}
