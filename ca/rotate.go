// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// How far back new leaves let a host that hasn't heard of the newest roots find one that it knows: over as many rotations as there
// are in bridgeTime, but at the least over fewCrossCerts and at the most over maxCrossCerts. Every handshake carries them.
const (
	fewCrossCerts = 4
	maxCrossCerts = 20
	bridgeTime    = time.Hour
)

// ActionKind is a thing that the authority must do.
type ActionKind string

// The kinds of action.
const (
	// ActionRotateRoot asks for a new root: the first one, or one before the active one ends.
	ActionRotateRoot ActionKind = "rotate-root"
	// ActionRenewIntermediate asks for a new intermediate under the active root.
	ActionRenewIntermediate ActionKind = "renew-intermediate"
	// ActionPruned tells that a root, on which no leaf can depend any more, is gone from the new state.
	ActionPruned ActionKind = "pruned"
	// ActionForgot tells that revocations, or intermediates that sign no more, are gone: what they were about has ended.
	ActionForgot ActionKind = "forgot"
	// ActionExpiring tells that a root that came from outside ends soon and that somebody must bring a new one.
	ActionExpiring ActionKind = "expiring"
)

// Action is a thing to do, or one that Next did.
type Action struct {
	Kind ActionKind
	// RootID is the root that it is about, empty for the first root.
	RootID string
	// Reason is for logs and people.
	Reason string
}

// Next is what the state becomes by the passing of time alone, with what else must be done now, and when to look again.
// A zero wake means that nothing will happen before the actions are carried out. It changes nothing in s.
func Next(s State, now time.Time) (next State, actions []Action, wake time.Time) {
	next, actions, wake = prune(s, now)
	next, actions, wake = forget(next, actions, wake, now)
	active, ok := next.Active()
	if !ok {
		return next, append(actions, Action{Kind: ActionRotateRoot, Reason: "there is no active root"}), wake
	}
	cfg := next.Config.WithDefaults()

	// A root goes while a whole generation of intermediates still fits in, or a fifth of its life if that is shorter.
	rootDue := active.NotAfter.Add(-min(cfg.IntermediateCertTTL, active.NotAfter.Sub(active.NotBefore)/5))
	if now.Before(rootDue) {
		wake = soonest(wake, rootDue)
	} else if cfg.outside() {
		actions = append(actions, Action{ActionExpiring, active.ID, "the root that comes from outside ends on " +
			active.NotAfter.UTC().Format(time.RFC3339) + "; configure a new one"})
	} else {
		return next, append(actions, Action{ActionRotateRoot, active.ID, "the active root ends on " + active.NotAfter.UTC().Format(time.RFC3339)}), wake
	}

	due, err := intermediateDue(next.Material)
	switch {
	case err != nil:
		actions = append(actions, Action{ActionRenewIntermediate, active.ID, "the intermediate can't be read: " + err.Error()})
	case !now.Before(due) && now.Before(active.NotAfter):
		actions = append(actions, Action{ActionRenewIntermediate, active.ID, "half of the intermediate's life is over"})
	case now.Before(due):
		wake = soonest(wake, due)
	}
	return next, actions, wake
}

// prune drops the roots whose time is over, and the cross-signed certificates when no older root is left to vouch.
func prune(s State, now time.Time) (State, []Action, time.Time) {
	var actions []Action
	var wake time.Time
	var kept []Retiring
	roots := slices.Clone(s.Roots)
	for _, r := range s.Retiring {
		if now.Before(r.Until) {
			kept = append(kept, r)
			wake = soonest(wake, r.Until)
			continue
		}
		roots = slices.DeleteFunc(roots, func(root catalog.CARoot) bool { return root.ID == r.RootID && !root.Active })
		actions = append(actions, Action{ActionPruned, r.RootID, "no leaf can depend on it since " + r.Until.UTC().Format(time.RFC3339)})
	}
	if len(actions) == 0 {
		return s, nil, wake
	}
	s.Roots, s.Retiring = roots, kept
	if len(kept) == 0 {
		s.Material.CrossCerts = nil
		for i := range s.Roots {
			if s.Roots[i].Active {
				s.Roots[i].IntermediateCerts = []string{s.Material.IntermediateCert}
			}
		}
	}
	return s, actions, wake
}

func intermediateDue(m Material) (time.Time, error) {
	cert, err := ParseCert(m.IntermediateCert)
	if err != nil {
		return time.Time{}, err
	}
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2), nil
}

func soonest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// Advance is Next with its actions carried out by the provider, which must be configured with s.Setup(). The caller
// stores the new state and then calls Configure with it; until then the provider goes on with the old one, so a state
// that could not be stored has no effect.
func Advance(ctx context.Context, s State, p Provider, now time.Time) (next State, actions []Action, wake time.Time, err error) {
	next, actions, _ = Next(s, now)
	for _, a := range actions {
		switch a.Kind {
		case ActionRotateRoot:
			next, err = Rotate(ctx, next, p, p, now, false)
		case ActionRenewIntermediate:
			next, err = RenewIntermediate(ctx, next, p, now)
		}
		if err != nil {
			return s, nil, time.Time{}, fmt.Errorf("%s: %w", a.Kind, err)
		}
	}
	_, _, wake = Next(next, now)
	return next, actions, wake, nil
}

// Rotate replaces the active root, if there is one, by a new one of fresh, cross-signed by the old one's provider. Both
// stay trusted until no leaf can depend on the old one. The providers are the same one unless the provider is being
// changed. Force goes on without a cross-signature if the old provider can't give one.
//
// Rotating to a root that is trusted already (the configured one, again) changes nothing but the intermediate.
func Rotate(ctx context.Context, s State, old, fresh Provider, now time.Time, force bool) (State, error) {
	m, err := fresh.GenerateRoot(ctx, now)
	if err != nil {
		return State{}, err
	}
	cert, err := ParseCert(m.RootCert)
	if err != nil {
		return State{}, fmt.Errorf("new root: %w", err)
	}
	was, hadRoot := s.Active()
	if hadRoot && was.ID == fingerprint(cert) {
		m.CrossCerts = s.Material.CrossCerts
		return s.withMaterial(m, now)
	}
	if hadRoot {
		cross, err := old.CrossSign(ctx, cert, now)
		switch {
		case err == nil:
			// While older roots retire, what they vouched for stays in the chain: two quick rotations must not cut off a host
			// that knows only the first root.
			m.CrossCerts = append([]string{cross}, s.Material.CrossCerts[:min(len(s.Material.CrossCerts), maxCrossCerts-1)]...)
		case errors.Is(err, ErrExpired):
			// Nobody trusts the old root any more: a new start without its blessing is the only way out.
		case !force:
			return State{}, fmt.Errorf("cross-sign the new root: %w", err)
		}
	}

	next := s
	next.Roots, next.Retiring = slices.Clone(s.Roots), slices.Clone(s.Retiring)
	for i := range next.Roots {
		next.Roots[i].Active = false
	}
	if hadRoot {
		ttl := max(s.LongestLeafTTL, s.Config.WithDefaults().LeafCertTTL)
		// Twice a leaf's life: once for the leaf signed just now, and as much for hosts that hear of the new root late.
		until := now.Add(2*ttl + Backdate)
		next.Retiring = append(next.Retiring, Retiring{RootID: was.ID, Since: now, Until: until})
	}
	root, err := newRoot(s.ClusterID, m)
	if err != nil {
		return State{}, err
	}
	next.Issuers = s.formerIssuers(m, now)
	// A root that was active earlier can come back by configuration: it is not retiring then.
	next.Retiring = slices.DeleteFunc(next.Retiring, func(r Retiring) bool { return r.RootID == root.ID })
	next.Roots = slices.DeleteFunc(next.Roots, func(r catalog.CARoot) bool { return r.ID == root.ID })
	next.Roots = slices.Insert(next.Roots, 0, root)
	next.Material = m
	next.LongestLeafTTL = s.Config.WithDefaults().LeafCertTTL
	return next, nil
}

// RenewIntermediate replaces the intermediate under the active root. Leaves of the old one stay valid: they carry it.
func RenewIntermediate(ctx context.Context, s State, p Provider, now time.Time) (State, error) {
	m, err := p.Intermediate(ctx, now)
	if err != nil {
		return State{}, err
	}
	m.CrossCerts = s.Material.CrossCerts // Next may have dropped them since the provider was configured
	return s.withMaterial(m, now)
}

// withMaterial puts other material under the same active root.
func (s State) withMaterial(m Material, now time.Time) (State, error) {
	root, err := newRoot(s.ClusterID, m)
	if err != nil {
		return State{}, err
	}
	s.Issuers = s.formerIssuers(m, now)
	s.Roots = slices.Clone(s.Roots)
	for i, r := range s.Roots {
		if r.Active {
			root.CreateIndex, root.ModifyIndex = r.CreateIndex, r.ModifyIndex
			s.Roots[i] = root
		}
	}
	s.Material = m
	return s, nil
}

// Reconfigure gives the state with another configuration, and whether that needs a new root: then configure a provider
// with the new state's Setup and call Rotate with it as fresh. The same configuration again gives the same state and false.
func Reconfigure(s State, c Config) (next State, rotate bool, err error) {
	if err := c.Validate(); err != nil {
		return s, false, err
	}
	was, now := s.Config.WithDefaults(), c.WithDefaults()
	if reflect.DeepEqual(was, now) {
		return s, false, nil
	}
	next = s
	next.Config = now
	next.LongestLeafTTL = max(s.LongestLeafTTL, was.LeafCertTTL, now.LeafCertTTL)
	_, hasRoot := s.Active()
	return next, hasRoot && was.rotates(now), nil
}
