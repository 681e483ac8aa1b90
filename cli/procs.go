// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"

	"github.com/weftmesh/weft/internal/nowait"
	"github.com/weftmesh/weft/internal/procs"
	"github.com/weftmesh/weft/internal/run"
)

// gcPercent is how much a proxy's memory grows between two collections, as a rule: it makes little garbage, so that a collection is rare.
const gcPercent = 50

// governProcessors has a proxy run on as many processors as it has work for, and give memory back when it has none.
// GOMAXPROCS in the environment, which Go reads itself, says it otherwise.
func governProcessors(g *run.Group, env Env) error {
	if env.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	c := procs.Config{
		Rest: func() {
			runtime.GC() // each collection makes stacks that were deep half as large
			debug.FreeOSMemory()
		},
		Most: runtime.GOMAXPROCS(0), Set: func(n int) { runtime.GOMAXPROCS(n) }, Bulk: nowait.Moved,
		Used: func() time.Duration {
			var u syscall.Rusage
			if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
				return 0
			}
			return time.Duration(u.Utime.Nano() + u.Stime.Nano())
		},
	}
	if env.Getenv("GOGC") == "" {
		heap := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
		c.Percent, c.Grow = gcPercent, func(percent int) { debug.SetGCPercent(percent) }
		c.Heap = func() (allocated, live uint64) {
			metrics.Read(heap)
			return heap[0].Value.Uint64(), heap[1].Value.Uint64()
		}
	}
	p, err := procs.New(c)
	if err != nil {
		return err
	}
	g.Go("processors", p.Run)
	return nil
}
