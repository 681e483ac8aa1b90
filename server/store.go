// SPDX-License-Identifier: Apache-2.0

//go:build !weftfail

package server

import (
	wal "github.com/hashicorp/raft-wal"
)

func openWAL(dir string, segment int) (*wal.WAL, error) {
	return wal.Open(dir, wal.WithSegmentSize(segment))
}

// failing is the place where tests make storage fail: see store_fail.go.
func failing(s raftStores) raftStores { return s }
