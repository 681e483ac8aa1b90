// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/logs"
)

// monitor streams the agent's log, from a level on, until the client goes away.
func (h *handlers) monitor(w http.ResponseWriter, r *api.Request) error {
	q := r.URL.Query()
	name := q.Get("loglevel")
	if name == "" {
		name = "info"
	}
	level, err := logs.ParseLevel(name)
	if err != nil {
		return &api.StatusError{Code: http.StatusBadRequest, Text: "Unknown log level: " + name, Err: err}
	}
	json, err := flag(r, "logjson")
	if err != nil {
		return err
	}
	lines, stop, err := h.c.Logs.Watch(level, json)
	if err != nil {
		return err
	}
	defer stop()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	again := time.NewTicker(api.AgainEach)
	defer again.Stop()
	for {
		if err := out.Flush(); err != nil {
			return err
		}
		select {
		case line := <-lines:
			if _, err := w.Write(line); err != nil {
				return nil //nolint:nilerr // the client is gone
			}
		case <-again.C:
			if err := r.Lost(); err != nil {
				return err
			}
		case <-r.Context().Done():
			return nil
		}
	}
}

// hostInfo is the machine, for a person who looks for a fault.
func (h *handlers) hostInfo(w http.ResponseWriter, _ *api.Request) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	v := map[string]any{
		"Host":   map[string]any{"hostname": name, "os": runtime.GOOS, "kernelArch": runtime.GOARCH},
		"CPU":    map[string]any{"cores": runtime.NumCPU()},
		"Memory": h.procFile("/proc/meminfo"), "Pressure": h.procFile("/proc/loadavg"), "CollectionTime": h.c.Now().UnixNano(),
	}
	return api.WriteJSON(w, v)
}

// procFile is the text of a file of the kernel's, "" where there is none.
func (h *handlers) procFile(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}

// stats are figures about the agent, by part, as `weft info` shows them.
func (h *handlers) stats() map[string]map[string]string {
	wanted, _ := h.c.State.Wanted()
	kinds := map[string]int{}
	for _, c := range wanted.Checks {
		kinds[c.Record.Type]++
	}
	n := strconv.Itoa
	members := map[string]int{}
	for _, m := range h.c.LAN.Members() {
		members[m.Status.String()]++
	}
	leaves, troubled := h.c.Leaves.All(), h.c.Leaves.Troubled()
	position := h.c.Store.Position()
	out := map[string]map[string]string{
		"agent": {
			"services": n(len(wanted.Services)), "checks": n(len(wanted.Checks)), "check_ttls": n(kinds["ttl"]),
			"check_monitors": n(len(wanted.Checks) - kinds["ttl"] - kinds["alias"] - kinds["maintenance"]), "leaves": n(len(leaves)),
			"leaves_overdue": n(len(troubled)),
		},
		"build":   {"version": h.c.Version},
		"consul":  {"server": strconv.FormatBool(h.c.Server)},
		"replica": {"epoch": strconv.FormatUint(position.Epoch, 10), "index": strconv.FormatUint(position.Index, 10)},
		"runtime": {
			"arch": runtime.GOARCH, "os": runtime.GOOS, "version": runtime.Version(), "cpu_count": n(runtime.NumCPU()),
			"max_procs": n(runtime.GOMAXPROCS(0)), "goroutines": n(runtime.NumGoroutine()),
		},
		"serf_lan": {
			"members": n(members["alive"] + members["failed"] + members["left"] + members["leaving"]), "failed": n(members["failed"]),
			"left": n(members["left"]),
		},
	}
	if h.c.Seal != nil {
		out["seal"] = h.c.Seal()
	}
	return out
}

// profile serves what the runtime knows of itself, to who set enable_debug.
func (h *handlers) profile(w http.ResponseWriter, r *api.Request) error {
	if !h.c.Debug {
		return &api.StatusError{Code: http.StatusNotFound, Text: "profiles aren't served: set enable_debug in the agent's configuration"}
	}
	switch name := r.PathValue("name"); name {
	case "profile":
		pprof.Profile(w, r.Request)
	case "trace":
		pprof.Trace(w, r.Request)
	default:
		pprof.Handler(name).ServeHTTP(w, r.Request)
	}
	return nil
}
