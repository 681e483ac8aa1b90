// SPDX-License-Identifier: Apache-2.0

package leaf

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

type refusing struct{ weftv1.CAClient }

func (refusing) Sign(context.Context, *weftv1.SignRequest, ...grpc.CallOption) (*weftv1.SignResponse, error) {
	return nil, status.Error(codes.PermissionDenied, "not registered here")
}

// Who asks for a leaf that a server won't sign hears why: at once where nothing is on its way that could change it, else at the
// end of the wait.
func TestARefusalIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := catalog.New(catalog.Config{Datacenter: "dc1"})
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range []catalog.Body{
			catalog.SetCluster{ID: "c1"},
			catalog.SetCA{State: catalog.CAState{ActiveRootID: "r1", Roots: []catalog.CARoot{{ID: "r1", Active: true}}}},
		} {
			data, err := catalog.Encode(c)
			if err != nil {
				t.Fatal(err)
			}
			if r := store.Apply([]catalog.LogEntry{{Index: uint64(i + 1), Data: data}}); r[0].Err != nil {
				t.Fatal(r[0].Err)
			}
		}
		m, err := New(Config{Node: "n1", Client: refusing{}, Store: store, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		for patient, want := range map[bool]time.Duration{false: 0, true: 10 * time.Second} {
			start := time.Now()
			wctx, stop := context.WithTimeout(ctx, 10*time.Second)
			_, err := m.Get(wctx, catalog.Scope{}.Default("dc1").Name("web"), "", patient)
			stop()
			if !errors.Is(err, ErrRefused) || !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "not registered here") || time.Since(start) != want {
				t.Errorf("patient %t: after %v: %v", patient, time.Since(start), err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A leaf isn't shown together with roots that don't hold its own: after a restart the agent's replica runs through old ones.
func TestALeafWaitsForItsRoot(t *testing.T) {
	store, err := catalog.New(catalog.Config{Datacenter: "dc1"})
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	apply := func(b catalog.Body) {
		t.Helper()
		data, err := catalog.Encode(b)
		if err != nil {
			t.Fatal(err)
		}
		index++
		if r := store.Apply([]catalog.LogEntry{{Index: index, Data: data}}); r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
	}
	m, err := New(Config{Node: "n1", Client: refusing{}, Store: store, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	web := catalog.Scope{}.Default("dc1").Name("web")
	m.mu.Lock()
	s := m.slotLocked(web)
	s.root, s.leaf = "r2", ca.Leaf{SerialNumber: "01", ValidBefore: time.Now().Add(time.Hour)}
	m.mu.Unlock()
	apply(catalog.SetCluster{ID: "c1"})
	apply(catalog.SetCA{State: catalog.CAState{ActiveRootID: "r1", Roots: []catalog.CARoot{{ID: "r1", Active: true}}}})
	if _, err := m.CurrentIn(store.Read(), web); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "r2") {
		t.Errorf("without its root: %v", err)
	}
	apply(catalog.SetCA{CAS: index, State: catalog.CAState{ActiveRootID: "r2", Roots: []catalog.CARoot{{ID: "r2", Active: true}, {ID: "r1"}}}})
	if l, err := m.CurrentIn(store.Read(), web); err != nil || l.SerialNumber != "01" {
		t.Errorf("with its root: %v, %v", l, err)
	}
}
