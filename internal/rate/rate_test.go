// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(1000, 0)
	passed := func(l *Limiter, tries int) (n int) {
		for range tries {
			if l.Allow(now) {
				n++
			}
		}
		return n
	}
	l := New(10, 5)
	for _, step := range []struct {
		later time.Duration
		want  int
	}{{0, 5}, {0, 0}, {100 * time.Millisecond, 1}, {250 * time.Millisecond, 2}, {50 * time.Millisecond, 1}, {time.Hour, 5}} {
		now = now.Add(step.later)
		if got := passed(l, 20); got != step.want {
			t.Errorf("%s later: %d of 20 passed, want %d", step.later, got, step.want)
		}
	}
	l.Set(10, 5)
	if got := passed(l, 20); got != 0 {
		t.Errorf("the same bounds again let %d pass", got)
	}
	l.Set(1, 2)
	if got := passed(l, 20); got != 2 {
		t.Errorf("other bounds let %d pass", got)
	}
	if l.Set(-1, 0); passed(l, 20) != 20 || passed(nil, 20) != 20 {
		t.Error("without a bound")
	}
	if now = now.Add(time.Hour); passed(New(0, 3), 20) != 3 {
		t.Error("none in a second")
	}
}
