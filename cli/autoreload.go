// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weftmesh/weft/agent/config"
)

// lookEvery is how often files are looked at with auto_reload_config; what has changed is read when it has stood still so long.
const lookEvery = time.Second

// reloadOnChange reads the configuration anew when one of its files, or a certificate's, has changed.
func (n *node) reloadOnChange(ctx context.Context) error {
	if !n.s.AutoReloadConfig {
		return nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	known := fingerprint(n.files, &n.s.TLS)
	last := known
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := fingerprint(n.files, &n.s.TLS)
		if now != known && now == last {
			known = now
			n.log.Info("files of the configuration have changed")
			if err := n.readAgain(); err != nil {
				n.log.Error("reload", "error", err)
			}
		}
		last = now
	}
}

// fingerprint differs when a file has other contents, as far as size, time and number of the file tell.
func fingerprint(paths []string, t *config.TLS) string {
	var files []string
	for _, p := range paths {
		files = append(files, p)
		if entries, err := os.ReadDir(p); err == nil {
			for _, e := range entries {
				files = append(files, filepath.Join(p, e.Name()))
			}
		}
	}
	for _, part := range []config.TLSPart{t.HTTPSFiles(), t.GRPCFiles(), t.RPCFiles()} {
		files = append(files, part.CAFile, part.CertFile, part.KeyFile)
	}
	var b strings.Builder
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && !info.IsDir() { // links are followed, as Kubernetes changes files
			fmt.Fprintf(&b, "%s %d %d\n", f, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}
