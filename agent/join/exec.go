// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// command is a line for the shell that prints addresses, one a word.
type command string

// maxFound bounds how much a command or a cloud may say.
const maxFound = 1 << 20

func (c command) addresses(ctx context.Context) ([]string, error) {
	var out, errs bounded
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", string(c))
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("exec=%s: %w: %.200s", string(c), err, strings.TrimSpace(errs.String()))
	}
	found := strings.Fields(out.String())
	if len(found) == 0 {
		return nil, fmt.Errorf("exec=%s: it printed no address", string(c))
	}
	return found, nil
}

// bounded keeps the beginning of what is written.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxFound - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
