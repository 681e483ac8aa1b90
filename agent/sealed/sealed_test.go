// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftmesh/weft/agent/agenttest"
	"github.com/weftmesh/weft/agent/leaf"
	"github.com/weftmesh/weft/agent/replica"
	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
	"github.com/weftmesh/weft/server"
)

var scope = catalog.Scope{}.Default("dc1")

func sample() *Copy {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return &Copy{
		Node: "n1", Datacenter: "dc1", At: at, Position: catalog.Position{Epoch: 7, Index: 9}, Topics: []catalog.Topic{catalog.CATopic()},
		Items: []catalog.Item{{Topic: catalog.CATopic(), Index: 3}}, RootID: "r1",
		Leaves: []Leaf{{scope.Name("web"), ca.Leaf{SerialNumber: "1", PrivateKeyPEM: "very secret", ValidBefore: at}}},
	}
}

func TestSealAndOpen(t *testing.T) {
	key := bytes.Repeat([]byte{1}, keySize)
	data, err := seal(key, rand.Reader, sample())
	if err != nil {
		t.Fatal(err)
	}
	for _, plain := range []string{"very secret", "web", "dc1"} {
		if bytes.Contains(data, []byte(plain)) {
			t.Errorf("%q can be read in it", plain)
		}
	}
	got, err := open(key, data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Error(diff)
	}
	again, err := seal(key, rand.Reader, sample())
	if err != nil || bytes.Equal(again, data) {
		t.Errorf("sealed twice, the same bytes (%v): a nonce was used twice", err)
	}
}

// Not one bit may differ.
func TestRefuses(t *testing.T) {
	key := bytes.Repeat([]byte{1}, keySize)
	data, err := seal(key, rand.Reader, sample())
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, key, data []byte, want string) {
		t.Helper()
		if c, err := open(key, data); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) || c != nil {
			t.Fatalf("%s: %v, %v", what, c, err)
		}
	}
	for n := range data {
		refused("cut", key, data[:n], "")
		bad := bytes.Clone(data)
		bad[n] ^= 1 << (n % 8)
		refused("flipped", key, bad, "")
	}
	refused("longer", key, append(bytes.Clone(data), 0), "damaged")
	refused("another key", bytes.Repeat([]byte{2}, keySize), data, "another key")
	refused("empty", key, nil, "isn't one of weft's")
	newer := bytes.Clone(data)
	newer[len(magic)+3] = 2
	refused("newer", key, newer, "version 2, and this weft knows 1")
}

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "seal.key")
	first, err := loadKey(path, rand.Reader)
	if err != nil || len(first) != keySize {
		t.Fatal(len(first), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v, want 0600", info.Mode(), err)
	}
	if again, err := loadKey(path, rand.Reader); err != nil || !bytes.Equal(again, first) {
		t.Errorf("another key: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKey(path, rand.Reader); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "0640") {
		t.Errorf("a key that others may read: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, first[:5], 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKey(path, rand.Reader); err == nil || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("a cut key: %v", err)
	}
}

// host is the part of an agent that a copy is made of.
type host struct {
	t       *testing.T
	store   *catalog.Store
	replica *replica.Replica
	leaves  *leaf.Manager
	keeper  *Keeper
	log     *bytes.Buffer
	stop    func()
}

// start starts a host on a folder, as an agent does.
func start(t *testing.T, dir, node string, servers *agenttest.Servers) *host {
	t.Helper()
	h := &host{t: t, log: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(h.log, nil))
	var err error
	fatal := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h.store, err = catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
	fatal()
	h.replica, err = replica.New(replica.Config{Node: node, Client: weftv1.NewFeedClient(servers.Conn), Store: h.store, Log: slog.New(slog.DiscardHandler)})
	fatal()
	h.leaves, err = leaf.New(leaf.Config{Node: node, Client: weftv1.NewCAClient(servers.Conn), Store: h.store, Log: slog.New(slog.DiscardHandler)})
	fatal()
	h.keeper, err = New(Config{
		Path: filepath.Join(dir, "sealed"), Key: filepath.Join(dir, "seal.key"), Node: node, Datacenter: "dc1", Store: h.store,
		Replica: h.replica, Leaves: h.leaves, Rand: rand.Reader, Now: time.Now, Log: log,
	})
	fatal()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 3)
	for _, run := range []func(context.Context) error{h.keeper.Run, h.leaves.Run, h.replica.Run} {
		go func() { ended <- run(ctx) }()
	}
	h.stop = func() {
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	h.replica.SetInterests(map[string]replica.Interest{"web": {Topics: []catalog.Topic{catalog.ServiceTopic(scope.Name("web"))}}})
	h.leaves.Keep(map[catalog.Key]string{scope.Name("web"): ""})
	synctest.Wait()
	return h
}

func (h *host) knows() bool {
	all, err := h.store.Read().Instances(scope.Name("web"))
	if err != nil && !errors.Is(err, catalog.ErrNotCovered) {
		h.t.Error(err)
	}
	_, lerr := h.leaves.Current(scope.Name("web"))
	if known := err == nil && len(all) == 1; known != (lerr == nil) {
		h.t.Errorf("half of it is there: the service %v, the leaf %v", err, lerr)
	}
	return err == nil
}

func web() catalog.Register {
	return catalog.Register{
		Node:     catalog.Node{Scope: scope, Node: "n1", Address: "10.0.0.1"},
		Services: []catalog.Service{{Scope: scope, ID: "web", Service: "web", Port: 80, Weights: catalog.Weights{Passing: 1, Warning: 1}}},
	}
}

// A host that starts while no server is there knows what it knew; with a copy that isn't whole, or another's, it knows nothing, and says
// so; and when the server is back, it is up to date.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, err := agenttest.New(server.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := servers.Write(t.Context(), web()); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		h := start(t, dir, "n1", servers)
		time.Sleep(10 * time.Second)
		if !h.knows() {
			t.Fatalf("nothing is known with a server there: %s", h.log)
		}
		first, err := h.leaves.Current(scope.Name("web"))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "sealed")
		crashed, err := os.ReadFile(path) // what a crash now would leave
		if err != nil {
			t.Fatal(err)
		}
		servers.Cut()
		heard := time.Now()
		time.Sleep(time.Minute)
		h.stop()
		ended, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(ended)
		flipped[len(flipped)/2] ^= 1
		for name, c := range map[string]struct {
			data []byte
			node string
			want string // "" says that it is taken
		}{
			"crash": {crashed, "n1", ""}, "end": {ended, "n1", ""}, "cut": {ended[:len(ended)/2], "n1", "damaged"},
			"flipped": {flipped, "n1", "damaged"}, "another node": {ended, "n2", `of node \"n1\"`}, "empty": {nil, "n1", "isn't one of weft's"},
		} {
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			h := start(t, dir, c.node, servers)
			if known := h.knows(); known != (c.want == "") || !strings.Contains(h.log.String(), c.want) {
				t.Errorf("%s: known %v; the log: %s", name, known, h.log)
			}
			if l, _ := h.leaves.Current(scope.Name("web")); c.want == "" && l.PrivateKeyPEM != first.PrivateKeyPEM {
				t.Errorf("%s: another key", name)
			}
			if got := h.replica.Heard(); c.want == "" && (got.After(heard) || got.Before(heard.Add(-10*time.Second))) {
				t.Errorf("%s: a server was heard at %v, it says %v", name, heard, got)
			}
			time.Sleep(time.Minute)
			h.stop()
			if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, c.data) {
				t.Errorf("%s: written anew without a server (%v)", name, err)
			}
		}
		if err := os.WriteFile(path, ended, 0o600); err != nil {
			t.Fatal(err)
		}
		h = start(t, dir, "n1", servers)
		changed := web()
		changed.Services[0].Port = 81
		if err := errors.Join(servers.Write(t.Context(), changed), servers.Mend()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if all, err := h.store.Read().Instances(scope.Name("web")); err != nil || len(all) != 1 || all[0].Service.Port != 81 {
			t.Errorf("with the server back: %v, %v", all, err)
		}
		h.stop()
		if err := servers.Close(); err != nil {
			t.Error(err)
		}
	})
}
