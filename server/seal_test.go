// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/seal"
)

// inClear says where under a folder a private key is in clear.
func inClear(t *testing.T, dir string) (files []string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		seen++
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("PRIVATE KEY")) {
			files = append(files, path)
		}
		return err
	})
	if err != nil || seen < 3 {
		t.Fatalf("%d files, %v", seen, err)
	}
	return files
}

// authorityOf makes the CA of the nodes for a founding server.
func authorityOf(t *testing.T) *JoinConfig {
	t.Helper()
	a, err := plane.NewAuthority("dc1", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	none := func() []string { return nil }
	return &JoinConfig{Domain: "consul", Authority: a, Servers: none, RetryJoin: none, GossipKeys: none}
}

// TestC123_SecretsAreSealed: neither log nor snapshots have the authorities' keys in clear, the archive that is saved neither; a restart opens
// them, and nobody without the key does.
func TestC123_SecretsAreSealed(t *testing.T) {
	synctest.Test(t, secretsAreSealed)
}

func secretsAreSealed(t *testing.T) {
	dir := t.TempDir()
	conf := Config{DataDir: dir, Join: authorityOf(t)}
	r := startWith(t, conf)
	if err := r.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, _ := r.store.Read().CA()
	archive, err := io.ReadAll(r.request("GET", "/v1/snapshot", http.NoBody).Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if files := inClear(t, filepath.Join(dir, "server")); len(files) > 0 {
		t.Errorf("keys in clear: %v", files)
	}
	for _, data := range catalog.Sealed(r.store.Read()) { // the control: it is the keys that are sealed
		if encoded, ok := strings.CutPrefix(string(data), sealedText); ok {
			text, err := r.unsealText(t.Context(), sealedPlane, sealedText+encoded)
			if err != nil || !strings.Contains(text, "PRIVATE KEY") {
				t.Errorf("the nodes' authority: %v", err)
			}
		} else if secret, err := r.unseal(t.Context(), sealedCA, data); err != nil || !bytes.Contains(secret, []byte("PRIVATE KEY")) || bytes.Equal(secret, data) {
			t.Errorf("the authority: %v", err)
		}
	}
	again := startWith(t, Config{DataDir: dir, Join: &JoinConfig{}})
	if after, _ := again.store.Read().CA(); after.ModifyIndex != before.ModifyIndex {
		t.Error("the authority was written anew")
	}
	if err := again.ca.Rotate(t.Context()); err != nil {
		t.Error(err)
	}
	if a, err := again.planeAuthority(t.Context()); a == nil || err != nil {
		t.Error(err)
	}
	restoreElsewhere(t, string(archive), again, before.ActiveRootID)
}

// restoreElsewhere restores an archive in a cluster that hasn't the key: refused, then without the sealed, then with the key.
func restoreElsewhere(t *testing.T, archive string, from *running, root string) {
	t.Helper()
	key, _ := from.ring.Active()
	other := startWith(t, Config{DataDir: t.TempDir(), Join: authorityOf(t)})
	was, _ := other.store.Read().CA()
	status, text, _ := other.ask("PUT", "/v1/snapshot", "", archive)
	if status != 400 || !strings.Contains(text, key.ID()) || !strings.Contains(text, "weft operator seal import") || !strings.Contains(text, "nothing was restored") {
		t.Fatalf("without the key: %d %s", status, text)
	}
	if now, _ := other.store.Read().CA(); now.ModifyIndex != was.ModifyIndex {
		t.Error("something was restored")
	}
	if status, text, _ := other.ask("PUT", "/v1/snapshot?discard-sealed", "", archive); status != 200 {
		t.Fatalf("without what is sealed: %d %s", status, text)
	}
	time.Sleep(time.Second) // the leader takes office anew
	source, _ := from.store.Read().CA()
	now, _ := other.store.Read().CA()
	if now.ClusterID != source.ClusterID || len(now.Roots) != 1 || now.Roots[0].ID == source.Roots[0].ID {
		t.Errorf("it isn't a new root: %+v", now.Roots)
	}
	if a, err := other.planeAuthority(t.Context()); err != nil || a.Pin() != other.c.Join.Authority.Pin() {
		t.Errorf("the nodes' authority isn't this cluster's: %v", err)
	}
	// The key in the file, as `weft operator seal import` puts it there.
	ring, err := seal.OpenRing(seal.RingFile(other.c.DataDir), nil, rand.Reader)
	if err == nil {
		err = ring.Add(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	if status, text, _ := other.ask("PUT", "/v1/snapshot", "", archive); status != 200 {
		t.Fatalf("with the key: %d %s", status, text)
	}
	time.Sleep(time.Second)
	if now, _ := other.store.Read().CA(); now.ActiveRootID != root {
		t.Error("it isn't the archive's root")
	}
	if err := other.ca.Rotate(t.Context()); err != nil {
		t.Errorf("the restored authority doesn't work: %v", err)
	}
}

// What an older weft wrote in clear is sealed by the next leader.
func TestClearKeysAreSealed(t *testing.T) {
	r := startWith(t, Config{Join: authorityOf(t)})
	stored, _ := r.store.Read().CA()
	private, err := r.unseal(t.Context(), sealedCA, stored.PrivateState)
	if err != nil {
		t.Fatal(err)
	}
	var state ca.State
	if err := json.Unmarshal(private, &state); err != nil {
		t.Fatal(err)
	}
	old := *stored
	old.PrivateState = private
	have, err := r.store.Read().ACL(catalog.PlaneCAs, catalog.PlaneCAID)
	if err != nil {
		t.Fatal(err)
	}
	bare := *have.PlaneCA
	if bare.Key, err = r.unsealText(t.Context(), sealedPlane, bare.Key); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Propose(t.Context(), catalog.SetCA{State: old, CAS: stored.ModifyIndex}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Propose(t.Context(), catalog.SetACL{Objects: []catalog.ACLObject{{PlaneCA: &bare}}}); err != nil {
		t.Fatal(err)
	}
	if len(sealIDs(r.store.Read())) != 0 {
		t.Fatal("the control: they are sealed")
	}
	if err := r.officeAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually("both are sealed", func(txn *catalog.Txn) bool { return len(sealIDs(txn)) == 2 })
	if err := r.ca.Rotate(t.Context()); err != nil {
		t.Error(err)
	}
}

// A cluster has one key, which outlives its leader; a server that comes later gets it.
func TestServersShareTheSealKey(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		first := w.leader()
		key, ok := first.ring.Active()
		if !ok {
			t.Fatal("no key")
		}
		time.Sleep(2 * sealLook)
		for _, s := range w.all {
			if k, _ := s.ring.Find(key.ID()); k != key {
				t.Errorf("%s hasn't the key", s.c.NodeName)
			}
		}
		late := w.server(4, 3, nil)
		time.Sleep(time.Minute)
		if k, _ := late.ring.Find(key.ID()); k != key {
			t.Error("a server that came later hasn't the key")
		}
		w.isolate("10.0.0."+first.c.NodeName[1:], true)
		time.Sleep(10 * time.Second)
		for _, s := range w.all {
			if s != first && s.leads() {
				if err := s.ca.Rotate(t.Context()); err != nil {
					t.Errorf("%s can't go on with the authority: %v", s.c.NodeName, err)
				}
				return
			}
		}
		t.Error("nobody leads")
	})
}

// Servers that are dead hold up what needs the key by a second, whichever they are, and by five where they are the majority.
func TestDeadServersAndTheSealKey(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader := w.leader()
		time.Sleep(2 * sealLook)
		share := func() (time.Duration, error) {
			key, err := seal.NewKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			err = leader.shareKey(t.Context(), key)
			return time.Since(begin), err
		}
		if took, err := share(); err != nil || took > sealBeyond/2 {
			t.Errorf("with all of them: %v, %v", took, err)
		}
		mute := func(host string, on bool) {
			w.mu.Lock()
			w.mute[host] = on
			w.mu.Unlock()
		}
		var others []string
		for _, s := range w.all {
			if s != leader {
				others = append(others, "10.0.0."+s.c.NodeName[1:])
			}
		}
		for _, dead := range others {
			mute(dead, true)
			if took, err := share(); err != nil || took > sealBeyond+sealBeyond/2 {
				t.Errorf("without %s: %v, %v", dead, took, err)
			}
			mute(dead, false)
			time.Sleep(10 * time.Second)
		}
		for _, dead := range others {
			mute(dead, true)
		}
		if took, err := share(); err == nil || took > sealWithin+sealBeyond {
			t.Errorf("without both: %v, %v", took, err)
		}
	})
}
