// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Host collects figures of the machine (telemetry.enable_host_metrics), from Linux's /proc; what isn't there is left out.
type Host struct {
	proc, dir                         string
	memory, cpu, uptime, disk, loaded *prometheus.Desc
}

// NewHost makes a collector of what proc ("/proc") says, and of the file system that dir is on ("" is none).
func NewHost(proc, dir string) *Host {
	return &Host{
		proc: proc, dir: dir,
		memory: prometheus.NewDesc("weft_host_memory_bytes", "The machine's memory.", []string{"state"}, nil),
		cpu:    prometheus.NewDesc("weft_host_cpu_seconds_total", "What the machine's processors did since it started.", []string{"mode"}, nil),
		uptime: prometheus.NewDesc("weft_host_uptime_seconds", "How long the machine has been running.", nil, nil),
		disk:   prometheus.NewDesc("weft_host_disk_bytes", "The file system that data_dir is on.", []string{"state"}, nil),
		loaded: prometheus.NewDesc("weft_host_load1", "How many processes ran or waited for a processor, over a minute.", nil, nil),
	}
}

// Describe tells the names.
func (h *Host) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{h.memory, h.cpu, h.uptime, h.disk, h.loaded} {
		ch <- d
	}
}

// ticks is how many of /proc/stat's units are a second; Linux shows it so on every machine.
const ticks = 100

// Collect reads the figures.
func (h *Host) Collect(ch chan<- prometheus.Metric) {
	for line := range strings.Lines(h.read("meminfo")) {
		name, rest, _ := strings.Cut(line, ":")
		state := map[string]string{"MemTotal": "total", "MemAvailable": "available", "MemFree": "free"}[name]
		if kib, ok := number(rest); ok && state != "" {
			ch <- prometheus.MustNewConstMetric(h.memory, prometheus.GaugeValue, kib*1024, state)
		}
	}
	first, _, _ := strings.Cut(h.read("stat"), "\n")
	if all, ok := strings.CutPrefix(first, "cpu "); ok {
		modes := []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"}
		for i, text := range strings.Fields(all) {
			if n, ok := number(text); ok && i < len(modes) {
				ch <- prometheus.MustNewConstMetric(h.cpu, prometheus.CounterValue, n/ticks, modes[i])
			}
		}
	}
	if n, ok := number(h.read("uptime")); ok {
		ch <- prometheus.MustNewConstMetric(h.uptime, prometheus.GaugeValue, n)
	}
	if n, ok := number(h.read("loadavg")); ok {
		ch <- prometheus.MustNewConstMetric(h.loaded, prometheus.GaugeValue, n)
	}
	var st unix.Statfs_t
	if h.dir != "" && unix.Statfs(h.dir, &st) == nil {
		size := float64(st.Bsize)
		ch <- prometheus.MustNewConstMetric(h.disk, prometheus.GaugeValue, float64(st.Blocks)*size, "total")
		ch <- prometheus.MustNewConstMetric(h.disk, prometheus.GaugeValue, float64(st.Bavail)*size, "available")
	}
}

func (h *Host) read(name string) string {
	data, err := os.ReadFile(filepath.Join(h.proc, name))
	if err != nil {
		return "" // another system
	}
	return string(data)
}

// number is the first of a text.
func number(text string) (float64, bool) {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return 0, false
	}
	n, err := strconv.ParseFloat(fields[0], 64)
	return n, err == nil
}
