// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
)

// Tap lets others watch a logger's records, each from a level of its own. A watcher that is too slow loses lines, and is
// told how many; it never holds up who logs. The zero value is ready.
type Tap struct {
	least atomic.Int64 // of all watchers' levels, offset by one so that 0 means that nobody watches

	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// backlog is how many lines a watcher may be behind.
const backlog = 512

type watcher struct {
	level   slog.Level
	handler slog.Handler
	lines   chan []byte
	lost    int
}

// levelOffset keeps every level above 0.
const levelOffset = 1 << 20

// Handler is base that is watched.
func (t *Tap) Handler(base slog.Handler) slog.Handler { return &tapped{base: base, tap: t} }

// Watch gives the lines from a level on, until stop is called.
func (t *Tap) Watch(level slog.Level, json bool) (lines <-chan []byte, stop func(), err error) {
	w := &watcher{level: level, lines: make(chan []byte, backlog)}
	l, err := New(Config{Writer: w, JSON: json, Level: level})
	if err != nil {
		return nil, nil, err
	}
	w.handler = l.Handler()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watchers == nil {
		t.watchers = map[*watcher]struct{}{}
	}
	t.watchers[w] = struct{}{}
	t.levelLocked()
	return w.lines, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.watchers, w)
		t.levelLocked()
	}, nil
}

func (t *Tap) levelLocked() {
	least := int64(0)
	for w := range t.watchers {
		if l := int64(w.level) + levelOffset; least == 0 || l < least {
			least = l
		}
	}
	t.least.Store(least)
}

// Write takes one line; the Tap's lock is held.
func (w *watcher) Write(line []byte) (int, error) {
	if w.lost > 0 {
		select {
		case w.lines <- fmt.Appendf(nil, "%d lines were lost: this watcher is too slow\n", w.lost):
			w.lost = 0
		default:
		}
	}
	select {
	case w.lines <- append([]byte(nil), line...):
	default:
		w.lost++
	}
	return len(line), nil
}

// tapped is a handler with the attributes and groups that were added to it.
type tapped struct {
	base slog.Handler
	tap  *Tap
	with []func(slog.Handler) slog.Handler
}

func (h *tapped) watched(level slog.Level) bool {
	least := h.tap.least.Load()
	return least > 0 && int64(level)+levelOffset >= least
}

// Enabled says whether anybody wants records of this level.
func (h *tapped) Enabled(ctx context.Context, level slog.Level) bool {
	return h.base.Enabled(ctx, level) || h.watched(level)
}

// Handle passes a record on.
func (h *tapped) Handle(ctx context.Context, r slog.Record) error {
	var err error
	if h.base.Enabled(ctx, r.Level) {
		err = h.base.Handle(ctx, r.Clone())
	}
	if !h.watched(r.Level) {
		return err
	}
	h.tap.mu.Lock()
	defer h.tap.mu.Unlock()
	for w := range h.tap.watchers {
		if r.Level < w.level {
			continue
		}
		to := w.handler
		for _, with := range h.with {
			to = with(to)
		}
		err = errors.Join(err, to.Handle(ctx, r.Clone()))
	}
	return err
}

func (h *tapped) and(with func(slog.Handler) slog.Handler) slog.Handler {
	return &tapped{base: with(h.base), tap: h.tap, with: append(h.with[:len(h.with):len(h.with)], with)}
}

// WithAttrs adds attributes.
func (h *tapped) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

// WithGroup adds a group.
func (h *tapped) WithGroup(name string) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}
