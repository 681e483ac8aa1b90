// SPDX-License-Identifier: Apache-2.0

package heap

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// Memory is how much memory this process may have: the machine's, or less where a control group above it says so. 0: nobody says.
func Memory() uint64 { return memory(os.DirFS("/")) }

func memory(root fs.FS) (n uint64) {
	info, _ := fs.ReadFile(root, "proc/meminfo") // there is none but on Linux
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kb, _ := strconv.ParseUint(f[1], 10, 64)
			n = kb << 10
		}
	}
	groups, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		of, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		for at := path.Join("sys/fs/cgroup", of); ok && at != "sys/fs" && at != "."; at = path.Dir(at) {
			text, _ := fs.ReadFile(root, path.Join(at, "memory.max"))
			if most, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && (n == 0 || most < n) {
				n = most
			}
		}
	}
	return n
}
