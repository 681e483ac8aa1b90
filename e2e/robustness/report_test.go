// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// report is the table of a whole run, written anew after each row, so that a run that is cut short has one too.
type report struct {
	t     *testing.T
	mu    sync.Mutex
	began time.Time
	rows  []result
}

func newReport(t *testing.T) *report {
	r := &report{t: t, began: time.Now()}
	t.Cleanup(func() { fmt.Print(r.table()) })
	return r
}

func (r *report) add(w result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, w)
	path := os.Getenv("WEFT_ROBUST_REPORT")
	if path == "" {
		return
	}
	data, err := json.MarshalIndent(r.rows, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, append(data, '\n'), 0o644)
	}
	if err == nil {
		err = os.WriteFile(strings.TrimSuffix(path, ".json")+".txt", []byte(r.text()), 0o644)
	}
	if err != nil {
		r.t.Error(err)
	}
}

func (r *report) table() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text()
}

func (r *report) text() string {
	var b strings.Builder
	all := result{Row: "all"}
	fmt.Fprintf(&b, "%-24s %-10s %9s %9s %6s %8s %6s %6s %8s %5s %9s %9s  %s\n",
		"row", "faults", "histories", "ops", "cas %", "leaders", "kills", "fsyncs", "acked", "lost", "p50", "p99", "result")
	line := func(w *result) {
		verdict := "OK"
		if w.OK < w.Histories || len(w.Wrong) > 0 {
			verdict = fmt.Sprintf("%d OK, %d wrong", w.OK, len(w.Wrong))
		}
		failed := 0.0
		if w.CAS > 0 {
			failed = 100 * float64(w.CASFailed) / float64(w.CAS)
		}
		fmt.Fprintf(&b, "%-24s %-10s %9d %9d %6.1f %8d %6d %6d %8d %5d %9s %9s  %s\n",
			w.Row, w.Faults, w.Histories, w.Ops, failed, w.Leaders, w.Kills, w.Fsyncs, w.Acked, w.Lost, w.P50, w.P99, verdict)
	}
	for i := range r.rows {
		w := &r.rows[i]
		line(w)
		all.Histories += w.Histories
		all.OK += w.OK
		all.Ops += w.Ops
		all.CAS += w.CAS
		all.CASFailed += w.CASFailed
		all.Leaders += w.Leaders
		all.Kills += w.Kills
		all.Fsyncs += w.Fsyncs
		all.Acked += w.Acked
		all.Lost += w.Lost
		all.Wrong = append(all.Wrong, w.Wrong...)
	}
	line(&all)
	return b.String()
}
