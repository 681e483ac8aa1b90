// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Each watcher sees the records from its level on, in its form, with all that was added to the logger; and nothing after it has stopped.
func TestTap(t *testing.T) {
	var out bytes.Buffer
	base, err := New(Config{Writer: &out, Level: slog.LevelWarn})
	if err != nil {
		t.Fatal(err)
	}
	var tap Tap
	log := slog.New(tap.Handler(base.Handler())).With("part", "x").WithGroup("g")
	if log.Enabled(t.Context(), slog.LevelInfo) {
		t.Error("nobody watches, and info is enabled")
	}
	debug, stopDebug, err := tap.Watch(slog.LevelDebug, true)
	if err != nil {
		t.Fatal(err)
	}
	failures, stopFailures, err := tap.Watch(slog.LevelError, false)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("small", "n", 1)
	log.Error("large", "n", 2)
	var got struct {
		Msg, Part string
		G         struct{ N int }
	}
	if err := json.Unmarshal(<-debug, &got); err != nil || got.Msg != "small" || got.Part != "x" || got.G.N != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if line := string(<-failures); !strings.Contains(line, "msg=large part=x g.n=2") {
		t.Errorf("%q", line)
	}
	if len(failures) > 0 {
		t.Error("it sees what is below its level")
	}
	stopDebug()
	if log.Enabled(t.Context(), slog.LevelInfo) {
		t.Error("still enabled for one who has stopped")
	}
	stopFailures()
	if got := out.String(); strings.Contains(got, "small") || !strings.Contains(got, "msg=large part=x g.n=2") {
		t.Errorf("the logger's own output: %q", got)
	}
}

// A slow watcher loses lines, hears how many, and holds up nobody.
func TestSlowWatcher(t *testing.T) {
	base, err := New(Config{Writer: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	var tap Tap
	log := slog.New(tap.Handler(base.Handler()))
	lines, stop, err := tap.Watch(slog.LevelInfo, false)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for i := range backlog + 10 {
		log.Info(fmt.Sprint("line ", i))
	}
	for range 2 {
		<-lines
	}
	log.Info("last")
	var all []string
	for len(lines) > 0 {
		all = append(all, string(<-lines))
	}
	if n := len(all); n != backlog || !strings.HasPrefix(all[n-2], "10 lines were lost") || !strings.Contains(all[n-1], "last") {
		t.Errorf("%d lines, the last: %q", n, all[max(0, n-2):])
	}
}
