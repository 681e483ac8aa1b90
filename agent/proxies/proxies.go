// SPDX-License-Identifier: Apache-2.0

// Package proxies is what an agent's ADS serves: for each sidecar of this host it renders the newest configuration out of
// the replica, the leaf and the registration, hands it to the streams of that proxy, and keeps what was acknowledged. A
// proxy proves who it is by its secret. Rendering itself is connect/xds's; nothing here looks into a resource. Manager.Run
// owns the goroutines, one for each open stream.
package proxies

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/agent/leaf"
	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/agent/replica"
	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/ads"
	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// Config is what a Manager is made of.
type Config struct {
	State   *local.State
	Store   *catalog.Store // the replica
	Replica *replica.Replica
	Leaves  *leaf.Manager
	Feed    weftv1.FeedClient // takes the reports
	// Synced returns when the catalog has this version of the wanted state: before that no leaf is signed for what is new in it.
	Synced func(ctx context.Context, version uint64) (index uint64, err error)
	// Key is what the proxies' secrets are derived from; it never leaves the agent.
	Key          []byte
	ADSAddress   string // as proxies of this host reach it
	NodeAddress  string
	DefaultAllow bool
	// MaxPerSecond bounds the renderings for all proxies together; 0: nothing does.
	MaxPerSecond float64
	// Trusted are the users whose processes get a proxy's configuration whatever its registration names: root, and the agent's own.
	Trusted []uint32
	// Caller tells the process at the other end of a request; nil: the kernel is asked.
	Caller func(context.Context) (listen.Owner, error)
	Now    func() time.Time // nil: the system's clock
	Log    *slog.Logger
}

// Manager serves this host's proxies.
type Manager struct {
	c      Config
	shared xds.Shared // of all sessions' renderings

	mu       sync.Mutex // guards all below
	sessions map[*session]struct{}
	last     map[string]rest.ProxyStatus // by proxy, the newest
	unsaid   map[string]bool             // proxies whose status isn't reported yet
	changed  chan struct{}               // something to report
	turnAt   time.Time                   // of the next rendering, where they are bounded
}

// New makes a manager. It starts nothing.
func New(c Config) (*Manager, error) {
	if len(c.Key) < 16 {
		return nil, errors.New("proxies: the key for secrets is too short")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Caller == nil {
		c.Caller = listen.Caller
	}
	return &Manager{c: c, sessions: map[*session]struct{}{}, last: map[string]rest.ProxyStatus{}, unsaid: map[string]bool{}, changed: make(chan struct{}, 1)}, nil
}

// Secret is what proves to ADS that its bearer is this proxy.
func (m *Manager) Secret(proxyID string) string {
	mac := hmac.New(sha256.New, m.c.Key)
	mac.Write([]byte("weft proxy\x00" + proxyID))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Access is how a registered proxy reaches ADS.
func (m *Manager) Access(proxyID string) (rest.Access, error) {
	wanted, _ := m.c.State.Wanted()
	s, ok := wanted.Services[proxyID]
	if !ok || s.Record.Kind != catalog.KindConnectProxy {
		return rest.Access{}, fmt.Errorf("no proxy %q is registered on this agent: %w", proxyID, local.ErrUnknown)
	}
	return rest.Access{
		ProxyID: proxyID, Service: s.Record.Proxy.DestinationServiceName, Namespace: s.Record.Namespace, ADSAddress: m.c.ADSAddress, Secret: m.Secret(proxyID),
		Config: s.Record.Proxy.Config, Key: keyOf(s.Record),
	}, nil
}

// keyOf is the service whose proxy a record is of.
func keyOf(proxy *catalog.Service) catalog.Key {
	return proxy.Scope.Name(proxy.Proxy.DestinationServiceName)
}

// Status lists every registered proxy.
func (m *Manager) Status() []rest.ProxyStatus {
	wanted, _ := m.c.State.Wanted()
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []rest.ProxyStatus
	for _, id := range slices.Sorted(maps.Keys(wanted.Services)) {
		r := wanted.Services[id].Record
		if r.Kind != catalog.KindConnectProxy {
			continue
		}
		st := m.last[id]
		st.ProxyID, st.Service, st.Namespace = id, r.Proxy.DestinationServiceName, r.Namespace
		if st.NotReady == "" && !st.Connected {
			st.NotReady = m.c.Replica.Refused(id)
		}
		all = append(all, st)
	}
	return all
}

// Run keeps the interests and leaves in line with the registered proxies, and reports what proxies have, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g := run.New(ctx)
	g.Go("leaves", m.keepLeaves)
	g.Go("interests", m.keepInterests)
	return g.Wait()
}

// keepLeaves names the leaves that are needed, each as soon as the catalog knows its service. Something in the wanted state that
// the catalog refuses doesn't hold up the rest for long.
func (m *Manager) keepLeaves(ctx context.Context) error {
	var pace local.Pace
	for {
		wanted, changed := m.c.State.Wanted()
		sctx, cancel := context.WithTimeout(ctx, syncedWithin)
		_, err := m.c.Synced(sctx, wanted.Version)
		cancel()
		if err != nil && ctx.Err() != nil {
			return nil
		}
		leaves := map[catalog.Key]string{}
		for _, s := range wanted.Services {
			if s.Record.Kind == catalog.KindConnectProxy {
				leaves[keyOf(s.Record)] = s.Token
			}
		}
		m.c.Leaves.Keep(leaves)
		select {
		case <-changed:
			pace.Wait(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// keepInterests says what the proxies read of the catalog, and reports what they have.
func (m *Manager) keepInterests(ctx context.Context) error {
	report := time.NewTicker(reportAtLeast)
	defer report.Stop()
	var known map[string]replica.Interest // nil: nobody was told yet
	var pace local.Pace
	for {
		wanted, changed := m.c.State.Wanted()
		now := m.want(&wanted, known)
		for id := range known {
			if _, stays := now[id]; !stays {
				m.report(ctx, true) // one that went is no longer in it
				break
			}
		}
		known = now
		select {
		case <-changed:
			pace.Wait(ctx)
		case <-m.changed:
			m.report(ctx, false)
		case <-report.C:
			m.report(ctx, true)
		case <-ctx.Done():
			m.closeAll()
			return nil
		}
	}
}

const (
	reportAtLeast = 30 * time.Second
	reportWithin  = 5 * time.Second
	syncedWithin  = time.Second
)

// want says what the registered proxies need of the catalog, by proxy, if that is something else than what is known.
func (m *Manager) want(wanted *local.Wanted, known map[string]replica.Interest) map[string]replica.Interest {
	interests := map[string]replica.Interest{}
	for id, s := range wanted.Services {
		if s.Record.Kind != catalog.KindConnectProxy {
			continue
		}
		interests[id] = replica.Interest{Token: s.Token, Proxy: s.Record}
	}
	same := func(a, b replica.Interest) bool { return a.Token == b.Token && a.Proxy == b.Proxy }
	if known == nil || !maps.EqualFunc(interests, known, same) {
		m.c.Replica.SetInterests(interests)
	}
	return interests
}

// report tells a server what proxies have: those that changed since the last report, or all. A server that has nothing to add
// to asks for all.
func (m *Manager) report(ctx context.Context, complete bool) {
	ctx, cancel := context.WithTimeout(ctx, reportWithin)
	defer cancel()
	m.mu.Lock()
	unsaid := m.unsaid
	m.unsaid = map[string]bool{}
	m.mu.Unlock()
	unknown, err := m.send(ctx, complete, unsaid)
	if err == nil && unknown {
		_, err = m.send(ctx, true, unsaid)
	}
	if err != nil {
		m.c.Log.Debug("report on proxies wasn't taken", "error", err)
		m.mu.Lock()
		maps.Copy(m.unsaid, unsaid)
		m.mu.Unlock()
	}
}

func (m *Manager) send(ctx context.Context, complete bool, some map[string]bool) (unknown bool, err error) {
	node := m.c.State.Node()
	req := &weftv1.ReportRequest{
		Node: node.Node, Partition: node.Partition, Position: wire.Position(m.c.Store.Position()), Complete: complete, DefaultAllow: m.c.DefaultAllow,
	}
	for _, st := range m.Status() {
		if complete || some[st.ProxyID] {
			req.Proxies = append(req.Proxies, reportOf(&st))
		}
	}
	resp, err := m.c.Feed.Report(ctx, req)
	return resp.GetUnknown(), err
}

func reportOf(st *rest.ProxyStatus) *weftv1.ProxyReport {
	return &weftv1.ProxyReport{
		ProxyId: st.ProxyID, Service: st.Service, RenderedIndex: st.RenderedIndex, RenderedHash: st.RenderedHash,
		AckedHash: st.AckedHash, Refusal: st.Refusal, Connected: st.Connected, Version: st.Version, Warnings: st.Warnings,
		NotReady: st.NotReady, AckedIndex: st.AckedIndex, ConfigHash: st.ConfigHash, TypeHashes: st.TypeHashes,
		Weft: st.Abilities.Weft, ProxyVersion: st.Abilities.Version,
	}
}

func (m *Manager) note(id string, change func(*rest.ProxyStatus)) {
	m.mu.Lock()
	st := m.last[id]
	change(&st)
	m.last[id] = st
	m.unsaid[id] = true
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Open authenticates a proxy and begins to render for it. node.id only says which secret must be shown.
func (m *Manager) Open(ctx context.Context, c ads.Claim) (ads.Stream, error) {
	id := c.NodeID
	wanted, _ := m.c.State.Wanted()
	svc, ok := wanted.Services[id]
	if !hmac.Equal([]byte(c.Secret), []byte(m.Secret(id))) && !guard.Off("C111") {
		return nil, status.Errorf(codes.PermissionDenied,
			"the proxy that calls itself %q doesn't prove it: it needs its bootstrap secret, which `weft connect envoy` and `weft connect proxy` bring", id)
	}
	// One that isn't registered, or not yet again, waits on its stream, and has its configuration with the registration.
	if ok && svc.Record.Kind != catalog.KindConnectProxy {
		return nil, status.Errorf(codes.NotFound, "%q is registered on this agent as a service, not as a proxy", id)
	}
	s := &session{m: m, id: id, claim: c, caller: m.caller(ctx), changed: make(chan struct{}), done: make(chan struct{})}
	if ok {
		if err := m.suits(s.caller, boundsOf(&wanted, keyOf(svc.Record), proxyBound)); err != nil {
			m.c.Log.Warn("a process was refused a proxy's configuration", "proxy", id, "uid", s.caller.uid(), "error", err)
			return nil, status.Errorf(codes.PermissionDenied, "the configuration of %q isn't for this process: %v", id, err)
		}
	}
	ctx, s.cancel = context.WithCancel(ctx)
	m.mu.Lock()
	m.sessions[s] = struct{}{}
	m.mu.Unlock()
	m.note(id, func(st *rest.ProxyStatus) {
		st.Connected, st.Version, st.Abilities = true, c.UserAgent, c.Abilities
	})
	go s.run(ctx) // ends with Close or with the stream
	return s, nil
}

func (m *Manager) closeAll() {
	m.mu.Lock()
	open := slices.Collect(maps.Keys(m.sessions))
	m.mu.Unlock()
	for _, s := range open {
		s.Close()
	}
}

// session is one stream of one proxy.
type session struct {
	m      *Manager
	id     string
	claim  ads.Claim
	caller caller
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // guards all below
	output  *xds.Output
	changed chan struct{}

	memo xds.Memo // of run alone
}

// Output gives the newest rendering, nil while there is none, and a channel that is closed when there is a newer one.
func (s *session) Output() (*xds.Output, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output, s.changed
}

// Acked notes that the proxy has taken the output of this hash.
func (s *session) Acked(_, hash string) {
	s.m.note(s.id, func(st *rest.ProxyStatus) {
		st.AckedHash = hash
		if hash == st.RenderedHash {
			st.Refusal, st.AckedIndex = "", st.RenderedIndex
		}
	})
}

// Refused notes that the proxy won't take what it was sent, or can't do it: then it doesn't have the newest rendering any more.
func (s *session) Refused(typeURL, text string) {
	s.m.c.Log.Error("a proxy refused its configuration", "proxy", s.id, "type", typeURL, "error", text)
	s.m.note(s.id, func(st *rest.ProxyStatus) {
		st.Refusal = strings.TrimSpace(typeURL + ": " + text)
		if st.AckedHash == st.RenderedHash {
			st.AckedHash = ""
		}
	})
}

// Close ends the session and waits until it has.
func (s *session) Close() {
	s.cancel()
	<-s.done
	s.m.mu.Lock()
	delete(s.m.sessions, s)
	other := false
	for o := range s.m.sessions {
		other = other || o.id == s.id
	}
	s.m.mu.Unlock()
	if !other {
		s.m.note(s.id, func(st *rest.ProxyStatus) { st.Connected = false })
	}
}

// run renders at each change of anything that the last rendering read, until ctx ends.
func (s *session) run(ctx context.Context) {
	defer close(s.done)
	watch := s.m.c.Store.Watch()
	defer watch.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for s.m.turn(ctx) {
		wanted, localChanged := s.m.c.State.Wanted()
		leafChanged := s.m.c.Leaves.Changed()
		heard := s.m.c.Replica.Changed()
		if expired, _ := s.m.c.Replica.Expired(); !expired {
			heard = nil // what matters of it wakes by itself
		}
		txn := s.m.c.Store.Read().Record()
		var wait time.Duration
		if svc, ok := wanted.Services[s.id]; ok && s.permitted(&wanted, svc.Record) {
			wait = s.render(txn, svc.Record)
		} else {
			s.publish(nil) // deregistered, or another's now: the proxy keeps what it has until somebody stops it
			wait = time.Hour
		}
		topics := txn.Topics()
		if watch.Only(topics) && !s.m.c.Store.Read().Unchanged(topics, txn.Moment()) {
			continue // it changed before it was watched
		}
		timer.Reset(wait)
		select {
		case <-watch.Woken():
		case <-localChanged:
		case <-leafChanged:
		case <-heard:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// permitted says whether the process may have a registration's configuration, which may have come, or changed, since its stream began.
func (s *session) permitted(wanted *local.Wanted, proxy *catalog.Service) bool {
	if proxy.Kind != catalog.KindConnectProxy {
		return true // rendering says what is wrong
	}
	err := s.m.suits(s.caller, boundsOf(wanted, keyOf(proxy), proxyBound))
	if err == nil {
		return true
	}
	text := "the process that asks isn't the proxy: " + err.Error()
	s.m.note(s.id, func(st *rest.ProxyStatus) {
		if st.NotReady != text {
			s.m.c.Log.Warn("a process is refused a proxy's configuration", "proxy", s.id, "uid", s.caller.uid(), "error", err)
		}
		st.NotReady = text
	})
	return false
}

// turn waits until one more may be rendered; false is ctx's end.
func (m *Manager) turn(ctx context.Context) bool {
	if m.c.MaxPerSecond <= 0 {
		return ctx.Err() == nil
	}
	now := m.c.Now()
	m.mu.Lock()
	at := m.turnAt
	if at.Before(now) {
		at = now
	}
	m.turnAt = at.Add(time.Duration(float64(time.Second) / m.c.MaxPerSecond))
	m.mu.Unlock()
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// unready is how soon what isn't ready is tried again, should nothing wake the session before.
const unready = 5 * time.Second

// render makes the newest output and says after which time to do so again if nothing changes.
func (s *session) render(txn *catalog.Txn, proxy *catalog.Service) time.Duration {
	now := s.m.c.Now()
	expired, expires := s.m.c.Replica.Expired()
	in := xds.Input{
		Txn: txn, Proxy: proxy, NodeAddress: s.m.c.NodeAddress, Abilities: s.claim.Abilities, DefaultAllow: s.m.c.DefaultAllow, DenyAll: expired, Now: now, Memo: &s.memo, Shared: &s.m.shared,
	}
	l, err := s.m.c.Leaves.CurrentIn(txn, keyOf(proxy))
	if err == nil {
		in.Leaf = &xds.Leaf{CertPEM: l.CertPEM, KeyPEM: l.PrivateKeyPEM}
	}
	out, rerr := xds.Render(in)
	if err == nil {
		err = rerr
	}
	if err != nil {
		s.m.note(s.id, func(st *rest.ProxyStatus) { st.NotReady = err.Error() })
		if !errors.Is(err, xds.ErrNotReady) && !errors.Is(err, catalog.ErrNotCovered) && !errors.Is(err, leaf.ErrNotReady) {
			s.m.c.Log.Warn("a proxy can't be configured, it keeps what it has", "proxy", s.id, "error", err)
		}
		return unready
	}
	warnings := out.Warnings
	if refused := s.m.c.Replica.Refused(s.id); refused != "" {
		warnings = append(slices.Clone(warnings), refused)
	}
	if expired {
		warnings = append(slices.Clone(warnings), "no server was heard since "+expires.Add(-s.m.c.Replica.MaxAge()).Format(time.RFC3339)+
			", which is longer than proxy.offline_max_age: all callers are denied")
	}
	s.m.c.State.Expose(s.id, out.Expose) // if that changes the registration, that is rendered next
	s.publish(out)
	s.m.note(s.id, func(st *rest.ProxyStatus) {
		st.NotReady, st.Warnings = "", warnings
		st.RenderedIndex, st.RenderedHash, st.ConfigHash, st.TypeHashes = txn.Index(), out.Hash, out.ConfigHash, out.TypeHashes
		if out.Hash == st.AckedHash {
			st.AckedIndex = st.RenderedIndex
		}
	})
	next := now.Add(time.Hour)
	for _, t := range []time.Time{out.Deadline, expires} {
		if !t.IsZero() && t.After(now) && t.Before(next) {
			next = t
		}
	}
	return max(time.Millisecond, next.Sub(now))
}

func (s *session) publish(out *xds.Output) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if out == nil || (s.output != nil && s.output.Hash == out.Hash) {
		return
	}
	s.output = out
	close(s.changed)
	s.changed = make(chan struct{})
}
