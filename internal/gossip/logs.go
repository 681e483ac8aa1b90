// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// How many lines at warn and above a pool's libraries may log at once, and per second: each forged packet is a line to them.
const (
	logBurst  = 50
	logPerSec = 2
)

// newLogger gives memberlist and serf a logger. What they call info is debug here: the pool tells of members itself.
func newLogger(l *slog.Logger, pool string) *log.Logger {
	return log.New(&lineWriter{log: l.With("pool", pool), tokens: logBurst}, "", 0)
}

type lineWriter struct {
	log *slog.Logger

	mu         sync.Mutex
	tokens     float64
	last       time.Time
	suppressed int
}

// Write logs one line, "[LEVEL] library: text". It never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	line := string(bytes.TrimSpace(p))
	level := slog.LevelDebug
	if tag, rest, ok := strings.Cut(strings.TrimPrefix(line, "["), "] "); ok && strings.HasPrefix(line, "[") {
		line = rest
		switch tag {
		case "WARN", "ERR", "ERROR": // none of them is an error of this node's that somebody has to act on
			level = slog.LevelWarn
		}
	}
	ctx := context.Background()
	if !w.log.Enabled(ctx, level) {
		return len(p), nil
	}
	attrs := []slog.Attr{slog.String("detail", line)}
	if level >= slog.LevelWarn {
		ok, suppressed := w.allow(time.Now())
		if !ok {
			return len(p), nil
		}
		if suppressed > 0 {
			attrs = append(attrs, slog.Int("lines_left_out", suppressed))
		}
	}
	w.log.LogAttrs(ctx, level, "gossip", attrs...)
	return len(p), nil
}

func (w *lineWriter) allow(now time.Time) (ok bool, suppressed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.last.IsZero() {
		w.tokens = min(logBurst, w.tokens+logPerSec*now.Sub(w.last).Seconds())
	}
	w.last = now
	if w.tokens < 1 {
		w.suppressed++
		return false, 0
	}
	w.tokens--
	suppressed, w.suppressed = w.suppressed, 0
	return true, suppressed
}

// Reasons of the metric weft_gossip_refused_total.
const (
	reasonPacket  = "packet"
	reasonStream  = "stream"
	reasonStreams = "stream_limit"
	reasonMember  = "member"
)

type metrics struct {
	refused *prometheus.CounterVec // by reason
	events  *prometheus.CounterVec // by kind
	members prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, pool string) (*metrics, error) {
	labels := prometheus.Labels{"pool": pool}
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_gossip_refused_total", ConstLabels: labels,
			Help: "Packets, streams and members that were refused.",
		}, []string{"reason"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_gossip_member_events_total", ConstLabels: labels,
			Help: "Members that joined, left, failed, changed or were forgotten.",
		}, []string{"event"}),
		members: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_gossip_members", ConstLabels: labels,
			Help: "Members that are there.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.refused, m.events, m.members} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
