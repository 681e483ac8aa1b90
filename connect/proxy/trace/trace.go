// SPDX-License-Identifier: Apache-2.0

// Package trace carries trace contexts (W3C Trace Context) and sends spans to a collector (OTLP over HTTP, protobuf). It
// decides nothing: who samples, and what a span says, is its caller's. It starts no goroutine; Run sends, in its caller's.
package trace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kind is which side of a call a span is about; its values are OTLP's.
type Kind int

// The kinds.
const (
	Server Kind = 2
	Client Kind = 3
)

// Attribute is something that a span says.
type Attribute struct {
	Key  string
	Text string
	Int  int64 // where Text is ""
}

// Span is a request at one proxy.
type Span struct {
	Context
	Parent     [8]byte // zero: it begins the trace
	State      string  // tracestate
	Name       string
	Kind       Kind
	Begin, End time.Time
	Attributes []Attribute
	Error      string // why it counts as failed; "" for no failure
}

// Target is where spans go, and whose they are.
type Target struct {
	URL     string // of the collector, with its path
	Service string
}

const (
	maxSpans  = 2048 // that wait for one target
	sendAfter = 512  // that are sent before the time is over
	sendEvery = time.Second
	sendTime  = 5 * time.Second
)

// Config is what an Exporter is made of.
type Config struct {
	Client *http.Client // nil for one of its own
	Log    *slog.Logger // nil for none
}

// Exporter sends spans soon after they were added. Those that come faster than the collector takes them are dropped and counted.
type Exporter struct {
	client  *http.Client
	log     *slog.Logger
	dropped atomic.Uint64
	more    chan struct{}

	mu      sync.Mutex // guards targets
	targets map[Target]*batch

	failing map[Target]bool // of Run
}

// batch is the encoded spans that wait for one target.
type batch struct {
	spans []byte
	n     int
}

// New makes an exporter.
func New(c Config) *Exporter {
	if c.Client == nil {
		c.Client = &http.Client{Timeout: sendTime, Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Exporter{client: c.Client, log: c.Log, more: make(chan struct{}, 1), targets: map[Target]*batch{}, failing: map[Target]bool{}}
}

// Dropped is how many spans were lost.
func (e *Exporter) Dropped() uint64 { return e.dropped.Load() }

// Add takes a span; it keeps nothing of s.
func (e *Exporter) Add(t Target, s *Span) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.targets[t]
	if b == nil {
		b = &batch{}
		e.targets[t] = b
	}
	if b.n >= maxSpans {
		e.dropped.Add(1)
		return
	}
	b.n++
	b.spans = appendSpan(b.spans, s)
	if b.n == sendAfter {
		select {
		case e.more <- struct{}{}:
		default:
		}
	}
}

// Run sends until ctx ends, and then what is left, for a moment.
func (e *Exporter) Run(ctx context.Context) error {
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-e.more:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendEvery)
			defer cancel()
			e.send(last)
			e.client.CloseIdleConnections()
			return nil
		}
		e.send(ctx)
	}
}

func (e *Exporter) send(ctx context.Context) {
	e.mu.Lock()
	all := e.targets
	e.targets = map[Target]*batch{}
	e.mu.Unlock()
	for t, b := range all {
		err := e.post(ctx, t, b)
		if err != nil && ctx.Err() == nil && e.keep(t, b, err) {
			continue
		}
		if err != nil {
			e.dropped.Add(uint64(b.n))
		}
		if failed := err != nil; failed != e.failing[t] {
			e.failing[t] = failed
			if failed {
				e.log.Warn("spans aren't taken", "collector", t.URL, "error", err)
			} else {
				e.log.Info("spans are taken again", "collector", t.URL)
			}
		}
	}
}

var errBusy = errors.New("the collector is busy")

// keep has spans wait for the next time where the collector may take them then.
func (e *Exporter) keep(t Target, b *batch, err error) bool {
	if !errors.Is(err, errBusy) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := e.targets[t]; now != nil {
		if now.n+b.n > maxSpans {
			return false
		}
		b.n += now.n
		b.spans = append(b.spans, now.spans...)
	}
	e.targets[t] = b
	return true
}

func (e *Exporter) post(ctx context.Context, t Target, b *batch) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(appendRequest(nil, t.Service, b.spans)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := e.client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errBusy, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // what it says more is of no use
	switch resp.StatusCode / 100 {
	case 2:
		return nil
	case 5:
		return fmt.Errorf("%w: it answered %s", errBusy, resp.Status)
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		return fmt.Errorf("%w: it answered %s", errBusy, resp.Status)
	}
	return fmt.Errorf("it answered %s", resp.Status)
}

// The numbers of opentelemetry/proto/trace/v1/trace.proto, and what is below it.

// appendRequest is an ExportTraceServiceRequest with the spans of one service.
func appendRequest(b []byte, service string, spans []byte) []byte {
	scope := message(nil, 1, text(nil, 1, "weft"))
	scope = append(scope, spans...)
	resource := message(nil, 1, message(nil, 1, attribute(nil, Attribute{Key: "service.name", Text: service})))
	return message(b, 1, message(resource, 2, scope))
}

// appendSpan adds a span as the field "spans" of ScopeSpans.
func appendSpan(b []byte, s *Span) []byte {
	m := make([]byte, 0, 512)
	m = bytesField(m, 1, s.Trace[:])
	m = bytesField(m, 2, s.Span[:])
	m = text(m, 3, s.State)
	if s.Parent != [8]byte{} {
		m = bytesField(m, 4, s.Parent[:])
	}
	m = text(m, 5, s.Name)
	m = protowire.AppendTag(m, 6, protowire.VarintType)
	m = protowire.AppendVarint(m, uint64(s.Kind))
	for i, at := range [...]time.Time{s.Begin, s.End} {
		m = protowire.AppendTag(m, protowire.Number(7+i), protowire.Fixed64Type)
		m = protowire.AppendFixed64(m, uint64(at.UnixNano()))
	}
	for _, a := range s.Attributes {
		m = message(m, 9, attribute(nil, a))
	}
	if s.Error != "" {
		status := text(nil, 2, s.Error)
		status = protowire.AppendTag(status, 3, protowire.VarintType)
		m = message(m, 15, protowire.AppendVarint(status, 2))
	}
	m = protowire.AppendTag(m, 16, protowire.Fixed32Type)
	m = protowire.AppendFixed32(m, sampledFlag)
	return message(b, 2, m)
}

func attribute(b []byte, a Attribute) []byte {
	b = text(b, 1, a.Key)
	if a.Text != "" {
		return message(b, 2, text(nil, 1, a.Text))
	}
	v := protowire.AppendTag(nil, 3, protowire.VarintType)
	return message(b, 2, protowire.AppendVarint(v, uint64(a.Int)))
}

func message(b []byte, n protowire.Number, m []byte) []byte { return bytesField(b, n, m) }

func bytesField(b []byte, n protowire.Number, v []byte) []byte {
	b = protowire.AppendTag(b, n, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

// text adds a text that isn't empty.
func text(b []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, n, protowire.BytesType)
	return protowire.AppendString(b, s)
}
