// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestHost(t *testing.T) {
	proc := t.TempDir()
	for name, text := range map[string]string{
		"meminfo": "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\nBuffers:  1 kB\n",
		"stat":    "cpu  100 0 250 1000 5 0 0 0 0 0\ncpu0 1 1 1 1\n", "uptime": "12.50 20.00\n", "loadavg": "0.75 0.5 0.25 1/2 3\n",
	} {
		if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	figures := func(h *Host) map[string]float64 {
		reg := prometheus.NewRegistry()
		if err := reg.Register(h); err != nil {
			t.Fatal(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		return out
	}
	got := figures(NewHost(proc, proc))
	for name, want := range map[string]float64{
		"weft_host_memory_bytes total": 1024000, "weft_host_memory_bytes available": 409600, "weft_host_memory_bytes free": 102400,
		"weft_host_cpu_seconds_total user": 1, "weft_host_cpu_seconds_total system": 2.5, "weft_host_cpu_seconds_total idle": 10,
		"weft_host_uptime_seconds": 12.5, "weft_host_load1": 0.75,
	} {
		if got[name] != want {
			t.Errorf("%s: %g, want %g", name, got[name], want)
		}
	}
	if total, left := got["weft_host_disk_bytes total"], got["weft_host_disk_bytes available"]; total <= 0 || left > total {
		t.Errorf("disk %g of %g", left, total)
	}
	if got := figures(NewHost(filepath.Join(proc, "none"), "")); len(got) != 0 {
		t.Errorf("without /proc: %v", got)
	}
}
