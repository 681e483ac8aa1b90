// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"testing"

	"github.com/weftmesh/weft/agent/rest"
)

// A life that passes 50, 20 and 5 % is told once each, loudly where somebody has to do something, and so is its renewal.
func TestLives(t *testing.T) {
	var l lives
	for i, step := range []struct {
		left   float64
		status string
		serial string
		want   []slog.Level
	}{
		{0.9, "passing", "1", nil},
		{0.6, "passing", "1", nil},
		{0.49, "passing", "1", []slog.Level{slog.LevelDebug}},
		{0.48, "passing", "1", nil},
		{0.47, "warning", "1", []slog.Level{slog.LevelWarn}}, // its renewal fails
		{0.3, "warning", "1", nil},
		{0.19, "warning", "1", []slog.Level{slog.LevelWarn}},
		{0.04, "critical", "1", []slog.Level{slog.LevelError}},
		{0.03, "critical", "1", nil},
		{0.99, "passing", "2", nil},                         // another one
		{0.1, "warning", "3", []slog.Level{slog.LevelWarn}}, // one that is old when it is seen first
		{0.1, "passing", "3", []slog.Level{slog.LevelInfo}}, // its renewal does well again
	} {
		got := l.next([]rest.CertificateView{{Kind: "leaf", Name: "web", Serial: step.serial, Left: step.left, Status: step.status}})
		if len(got) != len(step.want) || len(got) == 1 && got[0].level != step.want[0] {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}
