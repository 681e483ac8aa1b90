// SPDX-License-Identifier: Apache-2.0

// Package leaf keeps the leaf certificates of this host's services: it makes the keys here, has them signed by a server,
// and renews them early. When is the decision of ca.Watchdog; this package carries it out, in a loop that depends on
// nothing else of the agent, so that whatever else hangs, certificates don't run out. Manager.Run owns its goroutines.
package leaf

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/run"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// ErrNotReady says that there is no certificate yet, and nothing is wrong: the roots or the signature are on their way.
var ErrNotReady = errors.New("no certificate yet")

// ErrRefused says that a server won't sign, with its reason: asking again helps only if the registration is on its way to it.
var ErrRefused = errors.New("the server doesn't sign it")

// Config is what a Manager is made of.
type Config struct {
	Node   string
	Client weftv1.CAClient
	Store  *catalog.Store // the replica, for the trust domain and the roots
	Rand   io.Reader      // of keys and requests; nil: the system's
	// Token is what stands for a service's own token, "" too; nil: the token itself.
	Token func(own string) string
	// Now is the clock, Jitter spreads renewals by numbers from 0 to 1; nil: the system's.
	Now    func() time.Time
	Jitter func() float64
	Log    *slog.Logger
}

// Manager keeps the leaves that are wanted.
type Manager struct {
	c    Config
	kick chan struct{}

	mu       sync.Mutex // guards all below
	held     map[string]*slot
	changed  chan struct{}
	watchdog ca.Watchdog[string]
	active   string // root ID that the leaves were signed under
}

type slot struct {
	service catalog.Key
	token   string
	leaf    ca.Leaf
	root    string    // ID of the root that the leaf was signed under
	kept    bool      // by a local proxy; else only as long as somebody asks
	asked   time.Time // when it was last asked for
}

// idle is how long a leaf that nobody asks for any more is renewed.
const idle = 72 * time.Hour

// unsigned is how long one is tried for that no server has signed yet: anybody may ask for the leaf of any name.
const unsigned = time.Minute

// signers is how many signatures are asked for at once.
const signers = 8

// spread is over how long leaves are renewed after the root has changed.
const spread = 5 * time.Second

// New makes a manager. It starts nothing.
func New(c Config) (*Manager, error) {
	if c.Rand == nil {
		c.Rand = crand.Reader
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	m := &Manager{c: c, kick: make(chan struct{}, 1), held: map[string]*slot{}, changed: make(chan struct{})}
	m.watchdog.Jitter = c.Jitter
	return m, nil
}

// Keep names the services whose leaves are kept from now on, with the token that each acts with. Others are let go of
// unless somebody asks for them.
func (m *Manager) Keep(services map[catalog.Key]string) {
	m.mu.Lock()
	for _, s := range m.held {
		s.kept = false
	}
	for k, token := range services {
		s := m.slotLocked(k)
		s.kept, s.token = true, token
	}
	m.mu.Unlock()
	m.wake()
}

func (m *Manager) slotLocked(k catalog.Key) *slot {
	id := k.Partition + "/" + k.Namespace + "/" + k.Name
	s, ok := m.held[id]
	if !ok {
		s = &slot{service: k}
		m.held[id] = s
	}
	return s
}

func (m *Manager) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Current gives a service's leaf; ErrNotReady (with the reason, if signing fails) where there is none that is valid.
func (m *Manager) Current(k catalog.Key) (ca.Leaf, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slotLocked(k)
	s.asked = m.c.Now()
	if s.leaf.SerialNumber != "" && m.c.Now().Before(s.leaf.ValidBefore) {
		return s.leaf, nil
	}
	for _, t := range m.watchdog.Troubles(m.c.Now()) {
		if m.held[t.Key] == s {
			return ca.Leaf{}, fmt.Errorf("%w for %s: %w", ErrNotReady, k, t.Cause)
		}
	}
	return ca.Leaf{}, fmt.Errorf("%w for %s", ErrNotReady, k)
}

// CurrentIn is Current for who shows the leaf together with the roots of a catalog: it isn't ready while these lack the root that the
// leaf was signed under. An agent that has just begun may have followed the catalog only as far as roots of long ago, and a
// proxy that was sent those could call nobody.
func (m *Manager) CurrentIn(txn *catalog.Txn, k catalog.Key) (ca.Leaf, error) {
	l, err := m.Current(k)
	if err != nil {
		return l, err
	}
	m.mu.Lock()
	root := m.slotLocked(k).root
	m.mu.Unlock()
	state, err := txn.CA()
	if err != nil {
		return ca.Leaf{}, err
	}
	if state != nil && slices.ContainsFunc(state.Roots, func(r catalog.CARoot) bool { return r.ID == root }) {
		return l, nil
	}
	return ca.Leaf{}, fmt.Errorf("%w for %s: its root %s hasn't arrived", ErrNotReady, k, root)
}

// Get is Current that waits for the first leaf until ctx ends, or, unless it is patient, until a server has refused it. Its
// error says what is in the way.
func (m *Manager) Get(ctx context.Context, k catalog.Key, token string, patient bool) (ca.Leaf, error) {
	m.mu.Lock()
	s := m.slotLocked(k)
	s.asked = m.c.Now()
	if s.token == "" {
		s.token = token
	}
	m.mu.Unlock()
	m.wake()
	for {
		changed := m.Changed()
		l, err := m.Current(k)
		if err == nil || !patient && errors.Is(err, ErrRefused) {
			return l, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ca.Leaf{}, err
		}
	}
}

// Restore takes back a leaf of before the start, signed under the root of this ID. It must be called before Run.
func (m *Manager) Restore(root string, k catalog.Key, l ca.Leaf) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slotLocked(k)
	s.leaf, s.root, s.asked = l, root, m.c.Now()
	m.active = root
}

// Changed is closed when some leaf changes, or can't be had.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// All gives every leaf that is held, by service.
func (m *Manager) All() map[catalog.Key]ca.Leaf {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[catalog.Key]ca.Leaf, len(m.held))
	for _, s := range m.held {
		if s.leaf.SerialNumber != "" {
			all[s.service] = s.leaf
		}
	}
	return all
}

// Run renews until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g := run.New(ctx)
	g.Go("roots", m.followRoots)
	slots := make(chan struct{}, signers)
	for {
		renew, wait := m.plan(m.c.Store.Read(), m.c.Now())
		for _, id := range renew {
			g.Go("sign "+id, func(ctx context.Context) error {
				slots <- struct{}{}
				defer func() { <-slots }()
				m.renew(ctx, id)
				return nil
			})
		}
		timer := time.NewTimer(wait)
		select {
		case <-m.kick:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return g.Stop()
		}
		timer.Stop()
	}
}

// followRoots wakes the loop when the roots change.
func (m *Manager) followRoots(ctx context.Context) error {
	for {
		index := m.c.Store.Read().Index()
		m.wake()
		if err := m.c.Store.Wait(ctx, []catalog.Topic{catalog.CATopic()}, index); err != nil {
			return nil //nolint:nilerr // the wait ends only with the context
		}
	}
}

// plan asks the watchdog what to renew, and for how long nothing is to be done.
func (m *Manager) plan(txn *catalog.Txn, now time.Time) (renew []string, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	state, err := txn.CA()
	if err != nil || state == nil || state.ActiveRootID == "" {
		return nil, time.Minute // a change of the CA topic ends the wait
	}
	if m.active != state.ActiveRootID {
		if m.active != "" {
			m.watchdog.RootsChanged(now, spread)
		}
		m.active = state.ActiveRootID
	}
	leaves := make(map[string]ca.Leaf, len(m.held))
	for id, s := range m.held {
		after := idle
		if s.leaf.SerialNumber == "" {
			after = unsigned
		}
		if !s.kept && now.Sub(s.asked) > after { // one that nobody ever asked for goes at once
			delete(m.held, id)
			continue
		}
		if slices.ContainsFunc(state.Revoked, func(r catalog.Revoked) bool {
			return s.leaf.SerialNumber != "" && r.Refuses(s.leaf.SerialNumber, s.leaf.URI(), s.leaf.ValidAfter)
		}) {
			s.leaf = ca.Leaf{} // whoever has its key can be refused only if we have another
		}
		leaves[id] = s.leaf
	}
	renew, wake := m.watchdog.Next(now, leaves)
	wait = time.Hour
	if !wake.IsZero() {
		wait = min(wait, max(wake.Sub(now), time.Millisecond))
	}
	return renew, wait
}

// renew has one leaf signed.
func (m *Manager) renew(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, ca.AttemptTimeout)
	defer cancel()
	m.mu.Lock()
	s, ok := m.held[id]
	if !ok {
		m.mu.Unlock()
		return
	}
	service, token := s.service, s.token
	m.mu.Unlock()
	l, root, err := m.sign(ctx, service, token)
	m.mu.Lock()
	if err != nil {
		m.watchdog.Failed(id, m.c.Now(), err)
	} else if s, ok := m.held[id]; ok {
		s.leaf, s.root = l, root
		m.watchdog.Done(id) // it may be revoked before it is looked at again
	}
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		m.c.Log.Warn("leaf certificate can't be renewed", "service", service.Name, "error", err)
	}
	m.wake()
}

func (m *Manager) sign(ctx context.Context, service catalog.Key, token string) (l ca.Leaf, root string, err error) {
	state, err := m.c.Store.Read().CA()
	if err != nil {
		return ca.Leaf{}, "", err
	}
	id := identity.Service{
		TrustDomain: identity.TrustDomain(state.TrustDomain()), Partition: service.Partition, Namespace: service.Namespace,
		Datacenter: service.Datacenter, Service: service.Name,
	}
	key, err := ca.NewKey(m.c.Rand)
	if err != nil {
		return ca.Leaf{}, "", err
	}
	csr, err := ca.CSR(id, key, m.c.Rand)
	if err != nil {
		return ca.Leaf{}, "", err
	}
	if m.c.Token != nil {
		token = m.c.Token(token)
	}
	resp, err := m.c.Client.Sign(ctx, &weftv1.SignRequest{Node: m.c.Node, CsrPem: csr, Token: token})
	switch st := status.Convert(err); st.Code() {
	case codes.OK:
	case codes.PermissionDenied, codes.InvalidArgument:
		return ca.Leaf{}, "", fmt.Errorf("%w: %s", ErrRefused, st.Message())
	default:
		return ca.Leaf{}, "", fmt.Errorf("have it signed: %w", err)
	}
	l, err = ca.NewLeaf(id, key, resp.GetCertPem(), state.ModifyIndex)
	return l, resp.GetRootId(), err
}

// Troubled lists the services whose leaves should have been renewed and aren't, with the reason.
func (m *Manager) Troubled() map[catalog.Key]error {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[catalog.Key]error{}
	for _, t := range m.watchdog.Troubles(m.c.Now()) {
		if s, ok := m.held[t.Key]; ok {
			out[s.service] = t.Cause
		}
	}
	return out
}
