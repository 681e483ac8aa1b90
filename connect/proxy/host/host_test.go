// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// fakes makes runners and notes what becomes of them.
type fakes struct {
	mu    sync.Mutex
	notes []string
	fail  map[string]int // how often New fails
	panic map[string]int
	hold  chan struct{} // a runner that ends waits for it, where it is set
}

func (f *fakes) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notes = append(f.notes, s)
}

func (f *fakes) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.notes
	f.notes = nil
	return out
}

var errMake = errors.New("can't be made")

func (f *fakes) make(m Member) (Runner, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail[m.ProxyID] > 0 {
		f.fail[m.ProxyID]--
		return nil, errMake
	}
	return &fake{f: f, m: m}, nil
}

type fake struct {
	f *fakes
	m Member
}

func (r *fake) Ready() bool { return true }

func (r *fake) Run(ctx context.Context) error {
	r.f.mu.Lock()
	n := r.f.panic[r.m.ProxyID]
	r.f.panic[r.m.ProxyID] = n - 1
	r.f.mu.Unlock()
	if n > 0 {
		panic("broken " + r.m.ProxyID)
	}
	r.f.note("start " + r.m.ProxyID + " " + r.m.Secret)
	<-ctx.Done()
	if r.f.hold != nil {
		<-r.f.hold
	}
	r.f.note("end " + r.m.ProxyID + " " + r.m.Secret)
	return nil
}

func newFakes() *fakes { return &fakes{fail: map[string]int{}, panic: map[string]int{}} }

// bubble gives a host whose members run, with no socket, in a bubble.
func bubble(t *testing.T, f *fakes, check func(t *testing.T, h *Host)) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{c: Config{New: f.make, Log: slog.New(slog.DiscardHandler)}, members: map[string]*member{}}
		h.group = run.New(t.Context())
		check(t, h)
		h.mu.Lock()
		g := h.group
		h.group = nil
		h.mu.Unlock()
		if err := g.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestOnlyWhatChangedIsTouched(t *testing.T) {
	f := newFakes()
	bubble(t, f, func(t *testing.T, h *Host) {
		steps := []struct {
			want  []Member
			notes []string
		}{
			{[]Member{{ProxyID: "a", Secret: "1"}, {ProxyID: "b", Secret: "1"}}, []string{"start a 1", "start b 1"}},
			{[]Member{{ProxyID: "b", Secret: "1"}, {ProxyID: "a", Secret: "1"}}, nil},
			{[]Member{{ProxyID: "a", Secret: "1"}}, []string{"end b 1"}},
			{[]Member{{ProxyID: "a", Secret: "2"}}, []string{"end a 1", "start a 2"}},
			{[]Member{{ProxyID: "b", Secret: "2"}}, []string{"end a 2", "start b 2"}},
		}
		for i, s := range steps {
			if _, err := h.configure(uint64(i), s.want); err != nil {
				t.Fatal(err)
			}
			time.Sleep(grace) // of the bubble
			synctest.Wait()
			got := map[string]bool{}
			for _, n := range f.take() {
				got[n] = true
			}
			want := map[string]bool{}
			for _, n := range s.notes {
				want[n] = true
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("step %d (-want +got):\n%s", i, d)
			}
		}
	})
}

// An instance that is registered again soon, as at each restart of a service, meets the proxy that it had.
func TestAMemberThatComesBackWasNeverAway(t *testing.T) {
	f := newFakes()
	bubble(t, f, func(t *testing.T, h *Host) {
		a := []Member{{ProxyID: "a", Secret: "1"}}
		for i := range 10 {
			for _, want := range [][]Member{a, nil} {
				list, err := h.configure(uint64(i), want)
				if err != nil || len(list) != len(want) {
					t.Fatal(list, err)
				}
				time.Sleep(grace / 2) // of the bubble
			}
		}
		if d := cmp.Diff([]string{"start a 1"}, f.take()); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		time.Sleep(grace) // of the bubble
		synctest.Wait()
		if d := cmp.Diff([]string{"end a 1"}, f.take()); d != "" {
			t.Errorf("after its grace (-want +got):\n%s", d)
		}
		if list, _ := h.Members(); len(list) != 0 {
			t.Error(list)
		}
	})
}

func TestDrainingDoesntDelayTheNext(t *testing.T) {
	f := newFakes()
	bubble(t, f, func(t *testing.T, h *Host) {
		f.hold = make(chan struct{}) // of the bubble
		for i, secret := range []string{"1", "2"} {
			if _, err := h.configure(uint64(i), []Member{{ProxyID: "a", Secret: secret}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if d := cmp.Diff([]string{"start a 1", "start a 2"}, f.take()); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		close(f.hold)
	})
}

func TestAFailingMemberIsStartedAgainAndHurtsNobody(t *testing.T) {
	f := newFakes()
	f.fail["bad"], f.panic["worse"] = 3, 2
	bubble(t, f, func(t *testing.T, h *Host) {
		if _, err := h.configure(1, []Member{{ProxyID: "bad"}, {ProxyID: "good"}, {ProxyID: "worse"}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		list, generation := h.Members()
		if generation != 1 || len(list) != 3 || !errors.Is(list[0].Err, errMake) || !list[1].Ready || list[2].Err == nil ||
			!strings.Contains(list[2].Err.Error(), "broken worse") {
			t.Fatalf("members: %+v of generation %d", list, generation)
		}
		time.Sleep(time.Minute) // of the bubble
		synctest.Wait()
		list, _ = h.Members()
		for _, m := range list {
			if !m.Ready || m.Err != nil {
				t.Errorf("%s: ready %v, error %v", m.ProxyID, m.Ready, m.Err)
			}
		}
	})
}

// A host proxy is replaced: its successor begins with its members, callers are held off meanwhile, and it ends when its members
// have, without starting anything again.
func TestASuccessor(t *testing.T) {
	f := newFakes()
	socket := filepath.Join(t.TempDir(), "host.sock")
	start := func(predecessor []byte, retire chan struct{}) (*Host, chan error) {
		door, err := listen.New(listen.Config{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		h, err := New(Config{
			Socket: socket, Version: "1", Door: door, Predecessor: predecessor, Retire: retire, Log: slog.New(slog.DiscardHandler),
			New: func(m Member) (Runner, error) { return &retiring{fake{f: f, m: m}, retire}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- h.Run(t.Context()) }()
		return h, done
	}
	retire := make(chan struct{})
	old, ended := start(nil, retire)
	member := &proxyv1.HostMember{ProxyId: "web-1", Service: "web", AdsAddress: "a:1", Secret: "s", Token: "t"}
	config := &proxyv1.HostConfig{Generation: 4, Members: []*proxyv1.HostMember{member}}
	agent := dial(t, socket)
	if _, err := agent.Configure(t.Context(), config, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	note, err := old.HandOver()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Configure(t.Context(), config); status.Code(err) != codes.Unavailable {
		t.Errorf("while a successor comes up: %v", err)
	}
	old.Resume()
	if _, err := agent.Configure(t.Context(), config); err != nil {
		t.Errorf("after all without one: %v", err)
	}
	close(retire)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	next, _ := start(note, make(chan struct{}))
	for deadline := time.Now().Add(5 * time.Second); !next.Ready(); {
		if time.Now().After(deadline) {
			t.Fatal("the successor doesn't become ready")
		}
	}
	list, generation := next.Members()
	want := Member{ProxyID: "web-1", Service: "web", ADSAddress: "a:1", Secret: "s", Token: "t"}
	if generation != 4 || len(list) != 1 || list[0].Member != want {
		t.Errorf("%+v of generation %d", list, generation)
	}
}

// retiring is a runner that ends also when it is retired.
type retiring struct {
	fake
	retire chan struct{}
}

func (r *retiring) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.retire:
			cancel()
		case <-ctx.Done():
		}
	}()
	return r.fake.Run(ctx)
}

func TestControlSocket(t *testing.T) {
	f := newFakes()
	socket := filepath.Join(t.TempDir(), "host.sock")
	door, err := listen.New(listen.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Socket: socket, Version: "1.2.3", Door: door, New: f.make, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()

	agent := dial(t, socket)
	hello, err := agent.Hello(t.Context(), &proxyv1.HostHello{Protocol: 7, Version: "9"}, grpc.WaitForReady(true))
	if err != nil || hello.GetProtocol() != Protocol || hello.GetVersion() != "1.2.3" || hello.GetPid() != int32(os.Getpid()) {
		t.Fatalf("hello: %v, %v", hello, err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if _, err := agent.Hello(t.Context(), &proxyv1.HostHello{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a caller without a version: %v", err)
	}
	good := &proxyv1.HostMember{ProxyId: "web-1", Service: "web", AdsAddress: "unix:/run/xds.sock", Secret: "s"}
	st, err := agent.Configure(t.Context(), &proxyv1.HostConfig{Generation: 4, Members: []*proxyv1.HostMember{good}})
	if err != nil || st.GetGeneration() != 4 || len(st.GetMembers()) != 1 || st.GetMembers()[0].GetProxyId() != "web-1" {
		t.Fatalf("status: %v, %v", st, err)
	}

	refused(t, agent, good)
	if list, generation := h.Members(); len(list) != 1 || generation != 4 {
		t.Errorf("a refused configuration left %v of generation %d", list, generation)
	}

	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's path is still there: %v", err)
	}
}

func refused(t *testing.T, agent proxyv1.HostProxyClient, good *proxyv1.HostMember) {
	for _, c := range []struct {
		member *proxyv1.HostMember
		text   string
	}{
		{&proxyv1.HostMember{Service: "web", AdsAddress: "a:1"}, "members[1].proxy_id is missing"},
		{&proxyv1.HostMember{ProxyId: "web-1", Service: "web", AdsAddress: "a:1"}, "twice"},
		{&proxyv1.HostMember{ProxyId: "x", AdsAddress: "a:1"}, "service is missing"},
		{&proxyv1.HostMember{ProxyId: "x", Service: "web"}, "neither unix:/path nor host:port"},
		{&proxyv1.HostMember{ProxyId: "x", Service: "web", AdsAddress: "unix:"}, "names no path"},
	} {
		_, err := agent.Configure(t.Context(), &proxyv1.HostConfig{Generation: 5, Members: []*proxyv1.HostMember{good, c.member}})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), c.text) {
			t.Errorf("want %q, got %v", c.text, err)
		}
	}
}

func dial(t *testing.T, socket string) proxyv1.HostProxyClient {
	conn, err := grpc.NewClient("passthrough:///host", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return proxyv1.NewHostProxyClient(conn)
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "path is missing") {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{Socket: "x"}); err == nil || !strings.Contains(err.Error(), "must be set") {
		t.Errorf("got %v", err)
	}
}
