// SPDX-License-Identifier: Apache-2.0

package check

import "strings"

// tail keeps the last bytes of what is written to it.
type tail struct {
	limit int
	total int
	last  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.total += len(p)
	if len(p) >= t.limit {
		t.last = append(t.last[:0], p[len(p)-t.limit:]...)
		return len(p), nil
	}
	if over := len(t.last) + len(p) - t.limit; over > 0 {
		t.last = t.last[:copy(t.last, t.last[over:])]
	}
	t.last = append(t.last, p...)
	return len(p), nil
}

func (t *tail) text() string { return strings.ToValidUTF8(string(t.last), "\uFFFD") }
