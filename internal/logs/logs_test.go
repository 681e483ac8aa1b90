// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
)

func jsonLogger(t *testing.T, level slog.Leveler) (*slog.Logger, func() []map[string]any) {
	t.Helper()
	var buf bytes.Buffer
	l, err := New(Config{Writer: &buf, JSON: true, Level: level})
	if err != nil {
		t.Fatal(err)
	}
	return l, func() []map[string]any {
		t.Helper()
		var out []map[string]any
		for line := range strings.Lines(buf.String()) {
			m := map[string]any{}
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			delete(m, "time")
			out = append(out, m)
		}
		return out
	}
}

func TestNewNeedsAWriter(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Fatal("no error")
	}
}

func TestTextIsTheDefaultAndLevelInfo(t *testing.T) {
	var buf bytes.Buffer
	l, err := New(Config{Writer: &buf})
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("hidden")
	l.Info("shown", "a_fact", 3)
	if got := buf.String(); strings.Contains(got, "hidden") || !strings.Contains(got, "msg=shown a_fact=3") {
		t.Fatalf("got %q", got)
	}
}

func TestParseLevel(t *testing.T) {
	for in, want := range map[string]slog.Level{"TRACE": LevelTrace, "debug": slog.LevelDebug, "Info": slog.LevelInfo, "warning": slog.LevelWarn, "err": slog.LevelError} {
		if got, err := ParseLevel(in); err != nil || got != want {
			t.Errorf("ParseLevel(%q) = %v, %v", in, got, err)
		}
	}
	if _, err := ParseLevel("loud"); err == nil {
		t.Error("no error for loud")
	}
}

func TestHCWritesNamesPairsAndLevels(t *testing.T) {
	l, lines := jsonLogger(t, LevelTrace)
	h := HC(l, "raft").Named("snap").With("node", "n1")
	h.Warn("slow", "took-ms", 12, "format", hclog.Fmt("%d of %d", 1, 2), "err", errors.New("disk"))
	h.Trace("odd", "lonely")
	h.Log(hclog.Off, "never")
	want := []map[string]any{
		{"level": "WARN", "msg": "slow", "logger": "raft.snap", "node": "n1", "took_ms": 12.0, "format": "1 of 2", "err": "disk"},
		{"level": "TRACE", "msg": "odd", "logger": "raft.snap", "node": "n1", "extra": "lonely"},
	}
	if diff := cmp.Diff(want, lines()); diff != "" {
		t.Fatal(diff)
	}
}

func TestHCWithDoesNotShareItsPairs(t *testing.T) {
	l, lines := jsonLogger(t, nil)
	base := HC(l, "").With("a", 1)
	one, two := base.With("b", 2), base.With("c", 3)
	one.Info("one")
	two.Info("two")
	want := []map[string]any{{"level": "INFO", "msg": "one", "a": 1.0, "b": 2.0}, {"level": "INFO", "msg": "two", "a": 1.0, "c": 3.0}}
	if diff := cmp.Diff(want, lines()); diff != "" {
		t.Fatal(diff)
	}
}

func TestHCLevelIsTheHandlers(t *testing.T) {
	l, _ := jsonLogger(t, slog.LevelWarn)
	h := HC(l, "x")
	h.SetLevel(hclog.Trace)
	if h.IsInfo() || !h.IsWarn() || h.GetLevel() != hclog.Warn {
		t.Fatalf("level = %v", h.GetLevel())
	}
}

func TestHCStandardWriterInfersLevels(t *testing.T) {
	l, lines := jsonLogger(t, nil)
	h := HC(l, "serf")
	s := h.StandardLogger(&hclog.StandardLoggerOptions{InferLevels: true})
	s.Print("[ERR] it broke")
	s.Print("[1] is no level")
	h.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn}).Print("forced")
	want := []map[string]any{
		{"level": "ERROR", "msg": "it broke", "logger": "serf"},
		{"level": "INFO", "msg": "[1] is no level", "logger": "serf"},
		{"level": "WARN", "msg": "forced", "logger": "serf"},
	}
	if diff := cmp.Diff(want, lines()); diff != "" {
		t.Fatal(diff)
	}
}

func TestStdKeepsTheMessageConstant(t *testing.T) {
	l, lines := jsonLogger(t, nil)
	Std(l, slog.LevelWarn, "http server").Print("tls: bad record\n")
	want := []map[string]any{{"level": "WARN", "msg": "http server", "detail": "tls: bad record"}}
	if diff := cmp.Diff(want, lines()); diff != "" {
		t.Fatal(diff)
	}
}
