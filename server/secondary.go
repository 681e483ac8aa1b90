// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/api"
)

// secondary says whether another datacenter is the primary: that has the root, and there config entries and intentions are written.
func (s *Server) secondary() bool { return s.c.Primary != "" && s.c.Primary != s.c.Datacenter }

// atPrimary refuses what is done in the primary alone.
func (s *Server) atPrimary(what string) error {
	return &api.StatusError{
		Code: http.StatusBadRequest,
		Text: fmt.Sprintf("%s is the primary datacenter's, which is %s: ask there, as with ?dc=%s", what, s.c.Primary, s.c.Primary),
	}
}

// firstEntries are the config entries that are written where they aren't there.
func (s *Server) firstEntries() []catalog.Entry {
	if s.secondary() {
		return nil // they come from the primary
	}
	return s.c.Entries
}

// SignIntermediate signs the intermediate of a secondary's authority by this cluster's root.
func (a *authority) SignIntermediate(ctx context.Context, csrPEM string) (string, error) {
	if a.follows() {
		return "", a.s.atPrimary("the root")
	}
	a.changes.Lock()
	defer a.changes.Unlock()
	provider, state := a.now()
	if provider == nil {
		return "", api.ErrNoLeader
	}
	cert, err := provider.SignIntermediate(ctx, csrPEM, a.s.c.Now())
	if errors.Is(err, ca.ErrCSR) {
		return "", &api.StatusError{Code: http.StatusBadRequest, Text: err.Error(), Err: err}
	}
	if errors.Is(err, ca.ErrNoRootKey) {
		return "", fmt.Errorf("%w: this datacenter followed another primary before: name that one, or begin these servers anew with an empty data_dir", err)
	}
	if err != nil {
		return "", err
	}
	inter, err := ca.ParseCert(cert)
	if err != nil {
		return "", err
	}
	if inter.NotAfter.After(state.OthersUntil) { // before anybody has it: revocation lists end with it
		state.OthersUntil = inter.NotAfter.UTC()
		if err := a.store(ctx, state, provider); err != nil {
			return "", err
		}
	}
	a.s.c.Log.Info("an intermediate of another datacenter's authority was signed")
	return cert, nil
}

// followPrimary keeps the authority as the primary's wants it: the roots that are trusted there, and an intermediate that is signed
// by the active one, renewed when half of its life is over. While the primary can't be asked, leaves are signed by what there is.
func (a *authority) followPrimary(ctx context.Context) error {
	return follow(ctx, func(index uint64) (uint64, error) {
		var view api.RootsView
		next, err := a.s.askAbroad(ctx, a.s.c.Primary, "/v1/connect/ca/roots", url.Values{"stale": {""}}, index, &view)
		if err == nil {
			err = a.take(ctx, ca.Primary{ClusterID: strings.TrimSuffix(view.TrustDomain, ".consul"), ActiveRootID: view.ActiveRootID, Roots: view.Roots})
		}
		return next, err
	}, func(err error, retry time.Duration) {
		a.s.c.Log.Warn("certificate authority: the primary's can't be followed", "primary", a.s.c.Primary, "retry_in", retry, "error", err)
	})
}

// follows says whether this authority's root is the primary's. A datacenter that had a root of its own before keeps it.
func (a *authority) follows() bool {
	provider, state := a.now()
	return a.s.secondary() && (provider == nil || state.Follows())
}

func (s *Server) ownDomain(cluster string) error {
	return fmt.Errorf("this datacenter has a trust domain of its own, %s.consul, and goes on with it: to join that of %s, begin its servers anew with an empty data_dir",
		cluster, s.c.Primary)
}

// take makes what the primary's authority says this one's.
func (a *authority) take(ctx context.Context, p ca.Primary) error {
	if p.ClusterID == "" || p.ActiveRootID == "" {
		return errors.New("the primary has no root yet")
	}
	a.changes.Lock()
	defer a.changes.Unlock()
	stored, err := a.s.store.Read().CA()
	if err != nil {
		return err
	}
	if stored != nil && stored.ClusterID != "" && stored.ClusterID != p.ClusterID {
		return a.s.ownDomain(stored.ClusterID)
	}
	_, was := a.now()
	state := was
	state.Datacenter, state.Config = a.s.c.Datacenter, a.s.c.CA.WithDefaults() // what its leader's file says
	fresh := ca.NewBuiltin(a.s.c.Rand)
	reason, _ := ca.Behind(state, p, a.s.c.Now())
	intermediate, key := "", ""
	if reason != "" {
		var csr string
		if key, csr, err = fresh.RequestIntermediate(state.Config, identity.ForCluster(p.ClusterID)); err != nil {
			return err
		}
		if intermediate, err = a.s.intermediateFromPrimary(ctx, csr); err != nil {
			return err
		}
		a.s.c.Log.Info("certificate authority", "action", "another intermediate, signed by the primary's root", "root", p.ActiveRootID, "reason", reason)
	}
	next, err := ca.Follow(state, p, intermediate, key, a.s.c.Now())
	if err != nil {
		return err
	}
	if err := fresh.Configure(next.Setup()); err != nil { // before it is anybody's
		return err
	}
	if reason == "" && sameState(was, next) {
		return nil
	}
	return a.store(ctx, next, fresh)
}

// sameState compares two states of a secondary.
func sameState(a, b ca.State) bool {
	x, xerr := json.Marshal(a)
	y, yerr := json.Marshal(b)
	return xerr == nil && yerr == nil && bytes.Equal(x, y)
}

// intermediateBody is the form of /v1/weft/ca/intermediate.
type intermediateBody struct{ CSR, Certificate string }

func (s *Server) intermediateFromPrimary(ctx context.Context, csr string) (string, error) {
	body, err := json.Marshal(intermediateBody{CSR: csr})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, abroadGrace)
	defer cancel()
	var answer intermediateBody
	target := "/v1/weft/ca/intermediate?dc=" + url.QueryEscape(s.c.Primary)
	if _, err := s.exchangeAbroad(ctx, s.c.Primary, http.MethodPut, target, bytes.NewReader(body), &answer); err != nil {
		return "", err
	}
	return answer.Certificate, nil
}

// followEntries keeps this datacenter's config entries and intentions as the primary's are.
func (s *Server) followEntries(ctx context.Context) error {
	return follow(ctx, func(index uint64) (uint64, error) {
		var raw [][]byte
		next, err := s.askAbroad(ctx, s.c.Primary, "/v1/weft/entries", url.Values{}, index, &raw)
		if err == nil {
			err = s.takeEntries(ctx, raw)
		}
		return next, err
	}, func(err error, retry time.Duration) {
		s.c.Log.Warn("the primary's config entries can't be followed: those that are here hold", "primary", s.c.Primary, "retry_in", retry, "error", err)
	})
}

// takeEntries applies what differs from the primary's entries, at once.
func (s *Server) takeEntries(ctx context.Context, raw [][]byte) error {
	type id struct {
		kind string
		key  catalog.Key
	}
	have := map[id]catalog.Entry{}
	all, err := s.store.Read().AllEntries()
	if err != nil {
		return err
	}
	idOf := func(e catalog.Entry) id { return id{e.EntryKind(), e.Head().Key().Fold()} }
	for _, e := range all {
		have[idOf(e)] = e
	}
	var change catalog.SetEntries
	for _, data := range raw {
		var box catalog.EntryBox
		if err := catalog.FromCanonical(data, &box); err != nil {
			return fmt.Errorf("an entry of the primary's can't be read, is its weft a newer one? %w", err)
		}
		head := box.Entry.Head()
		head.Datacenter, head.Indexes, head.Hash = s.c.Datacenter, catalog.Indexes{}, 0
		at := idOf(box.Entry)
		same := false
		if old := have[at]; old != nil {
			if same, err = catalog.SameContent(old, box.Entry); err != nil {
				return err
			}
		}
		delete(have, at)
		if !same {
			change.Set = append(change.Set, box)
		}
	}
	for at := range have {
		change.Delete = append(change.Delete, catalog.EntryRef{Kind: at.kind, Key: at.key})
	}
	if len(change.Set)+len(change.Delete) == 0 {
		return nil
	}
	if _, err := s.Propose(ctx, change); err != nil {
		return err
	}
	s.c.Log.Info("config entries are as the primary's", "primary", s.c.Primary, "written", len(change.Set), "deleted", len(change.Delete))
	return nil
}
