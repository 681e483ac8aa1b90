// SPDX-License-Identifier: Apache-2.0

// Package uuid makes random UUIDs. It reads and compares none: to weft they are opaque. It owns no goroutine.
package uuid

import (
	"fmt"
	"io"
)

// New makes a random UUID (RFC 9562, version 4) from 16 bytes of r, in its usual form.
func New(r io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return "", fmt.Errorf("uuid: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}
