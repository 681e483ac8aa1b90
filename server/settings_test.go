// SPDX-License-Identifier: Apache-2.0

package server

import (
	"os"
	"path/filepath"
	"testing"
)

// Without peering nothing of it is answered, and nothing is kept.
func TestNoPeering(t *testing.T) {
	r := startWith(t, Config{NoPeering: true})
	const refused = "peering must be enabled to use this endpoint"
	r.do("POST", "/v1/peering/token", `{"PeerName":"east"}`, 400, refused)
	r.do("POST", "/v1/peering/establish", `{"PeerName":"east","PeeringToken":"x"}`, 400, refused)
	r.do("GET", "/v1/peering/east", "", 400, refused)
	r.do("DELETE", "/v1/peering/east", "", 400, refused)
	r.do("GET", "/v1/peerings", "", 400, refused)
	r.do("GET", "/v1/catalog/nodes", "", 200, "")
}

// The log's files are as large as they are to be.
func TestSegmentSize(t *testing.T) {
	dir := t.TempDir()
	r := startWith(t, Config{DataDir: dir, Tuning: Tuning{SegmentSize: 1 << 20}})
	r.do("PUT", "/v1/kv/a", "b", 200, "true")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "server", "log", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || info.Size() > 2<<20 {
			t.Errorf("%s has %d bytes, %v", file, info.Size(), err)
		}
	}
	enough := func(string) (uint64, error) { return 100 << 20, nil }
	for segment, want := range map[uint64]bool{0: true, 64 << 20: true, 512 << 20: false} {
		room := &room{dir: dir, segment: segment, now: r.c.Now, free: enough}
		if got := room.check() == nil; got != want {
			t.Errorf("100 MiB for a log of files of %d bytes: %v", segment, got)
		}
	}
}
