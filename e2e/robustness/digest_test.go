// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// digest is what a server has: the index, the tables' digest as it computes it, and a hash of the rows of its snapshot.
func (s *server) digest() (string, error) {
	code, text, _, err := s.do(context.Background(), "GET", "/v1/snapshot?stale", "")
	if err != nil {
		return "", err
	}
	if code != 200 {
		return "", fmt.Errorf("%d %.200s", code, text)
	}
	zip, err := gzip.NewReader(strings.NewReader(text))
	if err != nil {
		return "", err
	}
	for in := tar.NewReader(zip); ; {
		head, err := in.Next()
		if err != nil {
			return "", err
		}
		if head.Name != "state.bin" {
			continue
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return "", err
		}
		return digestOf(data)
	}
}

// digestOf reads the form that catalog/snapshot.go describes. The header has an epoch of each server's own, so it isn't hashed.
func digestOf(data []byte) (string, error) {
	const magic = "weft-catalog\n\x01\x00\x00"
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok || len(rest) < 4+sha256.Size {
		return "", errors.New("this isn't a snapshot of a catalog")
	}
	size := int(binary.BigEndian.Uint32(rest))
	if size > len(rest)-4-sha256.Size {
		return "", errors.New("the snapshot's header is cut")
	}
	var header struct {
		Index  uint64
		Digest []byte
	}
	if err := cbor.Unmarshal(rest[4:4+size], &header); err != nil {
		return "", err
	}
	rows := rest[4+size : len(rest)-sha256.Size]
	return fmt.Sprintf("index %d digest %x rows %x", header.Index, header.Digest, sha256.Sum256(rows)), nil
}
