// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// coreDumps is the environment variable that lets a process that holds keys leave a core file, and be traced by its user, where it is 1.
const coreDumps = "WEFT_CORE_DUMPS"

// keepMemory has this process leave no core file, and no other process of its user read its memory: keys and tokens are in it. What it
// begins, an Envoy above all, leaves no core file either.
func keepMemory(env Env) error {
	if env.Getenv(coreDumps) == "1" {
		return nil
	}
	// A limit of one byte is none that a file fits in, and the one by which the kernel starts no program for it either (core_pattern with a pipe).
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}); err != nil {
		return fmt.Errorf("core files can't be turned off: %w; with %s=1 they are left", err, coreDumps)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("this process's memory can't be kept from others of its user: %w; with %s=1 it isn't", err, coreDumps)
	}
	return nil
}
