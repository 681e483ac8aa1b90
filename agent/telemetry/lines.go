// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"context"
	"maps"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// batch is what is sent of one reading.
type batch struct {
	k       *sink
	s       *Sender
	lines   [][]byte
	advance map[string]float64 // the counters, once the lines are sent
}

// send writes what there is to tell. Where it fails, the counters count on from what was sent before.
func (k *sink) send(ctx context.Context, s *Sender, families []*dto.MetricFamily) error {
	b := &batch{k: k, s: s, advance: map[string]float64{}}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			b.metric(f.GetName(), m)
		}
	}
	if len(b.lines) == 0 {
		return nil
	}
	if k.conn == nil {
		conn, err := s.c.Dial(ctx, k.network, k.address)
		if err != nil {
			return err
		}
		k.conn = conn
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = k.conn.SetWriteDeadline(deadline) // one that has none blocks no longer than it does
	}
	for _, p := range packets(b.lines, maxPacket) {
		if _, err := k.conn.Write(p); err != nil {
			k.close()
			return err
		}
	}
	maps.Copy(k.sent, b.advance)
	return nil
}

// packets puts lines together, each ended by a newline, as many as fit into a datagram.
func packets(lines [][]byte, room int) [][]byte {
	var out [][]byte
	var p []byte
	for _, l := range lines {
		if len(p) > 0 && len(p)+len(l) > room {
			out, p = append(out, p), nil
		}
		p = append(p, l...)
	}
	return append(out, p)
}

func (b *batch) metric(family string, m *dto.Metric) {
	name := strings.TrimPrefix(family, "weft_")
	if !b.s.wanted(b.s.c.Settings.MetricsPrefix + "." + name) {
		return
	}
	switch {
	case m.GetCounter() != nil:
		b.counter(name, m, m.GetCounter().GetValue())
	case m.GetHistogram() != nil:
		b.counter(name+".count", m, float64(m.GetHistogram().GetSampleCount()))
		b.counter(name+".sum", m, m.GetHistogram().GetSampleSum())
	case m.GetSummary() != nil:
		b.counter(name+".count", m, float64(m.GetSummary().GetSampleCount()))
		b.counter(name+".sum", m, m.GetSummary().GetSampleSum())
	case m.GetGauge() != nil:
		b.gauge(name, m, m.GetGauge().GetValue())
	default:
		b.gauge(name, m, m.GetUntyped().GetValue())
	}
}

// counter tells what was added. A counter that became less began anew.
func (b *batch) counter(name string, m *dto.Metric, now float64) {
	key := name + "\x00" + labels(m, "\x00", "\x00")
	before := b.k.sent[key]
	if now < before {
		before = 0
	}
	b.advance[key] = now
	if now > before {
		b.line(name, m, now-before, "c", false)
	}
}

func (b *batch) gauge(name string, m *dto.Metric, v float64) {
	if v < 0 && !b.k.tags {
		b.line(name, m, 0, "g", true) // statsd takes a sign for a change of what it has
	}
	b.line(name, m, v, "g", true)
}

func (b *batch) line(name string, m *dto.Metric, v float64, kind string, gauge bool) {
	s := &b.s.c.Settings
	host := ""
	if gauge && !s.DisableHostname {
		host = clean(b.s.c.Host)
	}
	var out bytes.Buffer
	out.WriteString(clean(s.MetricsPrefix) + ".")
	if host != "" && !b.k.tags {
		out.WriteString(host + ".")
	}
	out.WriteString(name)
	if !b.k.tags {
		if l := labels(m, "", "."); l != "" {
			out.WriteString("." + l)
		}
	}
	out.WriteString(":" + strconv.FormatFloat(v, 'f', -1, 64) + "|" + kind)
	if b.k.tags {
		tags := append([]string(nil), s.DogstatsdTags...)
		if host != "" {
			tags = append(tags, "host:"+host)
		}
		if l := labels(m, ":", ","); l != "" {
			tags = append(tags, l)
		}
		if len(tags) > 0 {
			out.WriteString("|#" + strings.Join(tags, ","))
		}
	}
	out.WriteByte('\n')
	b.lines = append(b.lines, out.Bytes())
}

// labels writes a metric's labels: their values, and before them their names where something is to stand between.
func labels(m *dto.Metric, between, after string) string {
	parts := make([]string, 0, len(m.GetLabel()))
	for _, l := range m.GetLabel() { // sorted by name
		v := clean(l.GetValue())
		if between != "" {
			v = clean(l.GetName()) + between + v
		}
		parts = append(parts, v)
	}
	return strings.Join(parts, after)
}

// clean replaces what means something in a line.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < '!', strings.ContainsRune(".:|@#,", r):
			return '_'
		}
		return r
	}, text)
}

// wanted says whether a name passes the filter: the longest rule that fits decides, of two that are the same the one that refuses.
func (s *Sender) wanted(name string) bool {
	longest, ok := -1, s.c.Settings.FilterDefault == nil || *s.c.Settings.FilterDefault
	for _, rule := range s.c.Settings.PrefixFilter {
		prefix := rule[1:]
		if !strings.HasPrefix(name, prefix) || len(prefix) < longest {
			continue
		}
		ok = rule[0] == '+' && (len(prefix) > longest || ok)
		longest = len(prefix)
	}
	return ok
}
