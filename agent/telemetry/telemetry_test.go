// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// wire is a connection that keeps what is written; while broken, writing fails.
type wire struct {
	net.Conn
	mu      sync.Mutex
	packets []string
	broken  bool
}

func (w *wire) Write(p []byte) (int, error) {
	if w.broken {
		return 0, errors.New("broken")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.packets = append(w.packets, string(p))
	return len(p), nil
}

func (w *wire) Close() error { return nil }

func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// lines are what was written since the last call, sorted.
func (w *wire) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.packets, "")
	w.packets = nil
	out := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	slices.Sort(out)
	return out
}

func sender(t *testing.T, s Settings, reg prometheus.Gatherer) (*Sender, *wire) {
	t.Helper()
	w := &wire{}
	out, err := New(Config{Settings: s, Host: "node.1", Metrics: reg, Log: slog.New(slog.DiscardHandler), Dial: func(_ context.Context, network, address string) (net.Conn, error) {
		return w, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return out, w
}

func metrics(t *testing.T) (*prometheus.Registry, *prometheus.CounterVec, prometheus.Gauge) {
	t.Helper()
	reg := prometheus.NewRegistry()
	asked := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_asked_total"}, []string{"type", "code"})
	level := prometheus.NewGauge(prometheus.GaugeOpts{Name: "level"})
	took := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weft_took_seconds"})
	reg.MustRegister(asked, level, took)
	took.Observe(0.5)
	took.Observe(1)
	asked.WithLabelValues("A", "x:y|z.").Add(3)
	level.Set(-2.5)
	return reg, asked, level
}

func TestStatsd(t *testing.T) {
	reg, asked, level := metrics(t)
	s, w := sender(t, Settings{StatsdAddress: "h:1"}, reg)
	s.send(t.Context())
	want := []string{
		"consul.asked_total.x_y_z_.A:3|c", "consul.node_1.level:-2.5|g", "consul.node_1.level:0|g",
		"consul.took_seconds.count:2|c", "consul.took_seconds.sum:1.5|c",
	}
	if got := w.lines(); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	asked.WithLabelValues("A", "x:y|z.").Add(2)
	level.Set(7)
	w.broken = true
	s.send(t.Context()) // lost, but what was counted isn't
	w.broken = false
	asked.WithLabelValues("A", "x:y|z.").Add(1)
	s.send(t.Context())
	if got, want := w.lines(), []string{"consul.asked_total.x_y_z_.A:3|c", "consul.node_1.level:7|g"}; !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

func TestDogstatsd(t *testing.T) {
	reg, _, _ := metrics(t)
	s, w := sender(t, Settings{
		DogstatsdAddr: "h:1", DogstatsdTags: []string{"team:blue"}, MetricsPrefix: "w", PrefixFilter: []string{"-w.took", "+w.took_seconds.c"},
	}, reg)
	s.send(t.Context())
	want := []string{"w.asked_total:3|c|#team:blue,code:x_y_z_,type:A", "w.level:-2.5|g|#team:blue,host:node_1"}
	if got := w.lines(); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

func TestFilter(t *testing.T) {
	no := false
	for _, c := range []struct {
		rules []string
		other *bool
		name  string
		want  bool
	}{
		{nil, nil, "a.b", true},
		{nil, &no, "a.b", false},
		{[]string{"-a"}, nil, "a.b", false},
		{[]string{"-a", "+a.b"}, nil, "a.b", true},
		{[]string{"+a.b", "-a"}, nil, "a.b", true},
		{[]string{"+a.b", "-a.b"}, nil, "a.b", false},
		{[]string{"-a.b", "+a.b"}, nil, "a.b", false},
		{[]string{"+a"}, &no, "a.b", true},
		{[]string{"+a"}, &no, "b", false},
	} {
		s, _ := sender(t, Settings{PrefixFilter: c.rules, FilterDefault: c.other}, prometheus.NewRegistry())
		if got := s.wanted(c.name); got != c.want {
			t.Errorf("%v, default %v: %s: %v", c.rules, c.other, c.name, got)
		}
	}
}

func TestPackets(t *testing.T) {
	lines := [][]byte{[]byte("aaaa\n"), []byte("bb\n"), []byte("cccccccccccc\n"), []byte("d\n")}
	var got []string
	for _, p := range packets(lines, 8) {
		got = append(got, string(p))
	}
	if want := []string{"aaaa\nbb\n", "cccccccccccc\n", "d\n"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestBadSettings(t *testing.T) {
	_, err := New(Config{Settings: Settings{StatsdAddress: "here", DogstatsdAddr: "unix:///x", PrefixFilter: []string{"a", "+"}}})
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{`telemetry.statsd_address: "here"`, `telemetry.prefix_filter: "a"`, `telemetry.prefix_filter: "+"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

// Run sends every ten seconds, and once more at its end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, asked, _ := metrics(t)
		s, w := sender(t, Settings{StatsiteAddress: "h:1"}, reg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if got := strings.Join(w.lines(), ""); got != "" {
			t.Errorf("sent at once: %q", got)
		}
		<-time.After(sendEvery)
		synctest.Wait()
		if len(w.lines()) != 5 {
			t.Error("not sent in time")
		}
		asked.WithLabelValues("B", "").Inc()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := w.lines(); !slices.Contains(got, "consul.asked_total..B:1|c") {
			t.Errorf("at the end: %q", got)
		}
	})
}
