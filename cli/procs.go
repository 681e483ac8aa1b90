// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"runtime"
	"syscall"
	"time"

	"github.com/weftmesh/weft/internal/procs"
	"github.com/weftmesh/weft/internal/run"
)

// governProcessors has a proxy run on as many processors as it has work for. GOMAXPROCS in the environment, which Go reads
// itself, says it otherwise.
func governProcessors(g *run.Group, env Env) error {
	if env.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	p, err := procs.New(procs.Config{
		Most: runtime.GOMAXPROCS(0), Set: func(n int) { runtime.GOMAXPROCS(n) },
		Used: func() time.Duration {
			var u syscall.Rusage
			if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
				return 0
			}
			return time.Duration(u.Utime.Nano() + u.Stime.Nano())
		},
	})
	if err != nil {
		return err
	}
	g.Go("processors", p.Run)
	return nil
}
