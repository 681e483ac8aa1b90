// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// scriptProbe runs a program in a process group of its own: exit code 0 is passing, 1 warning, any other critical.
type scriptProbe struct {
	base
	broke bool // it didn't start, or didn't end in time
}

// afterKill is how long the program's descendants may hold its output open once it was killed.
const afterKill = time.Second

func (p *scriptProbe) ask(ctx context.Context) (status, output string) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	out := &tail{limit: p.d.OutputMaxSize}
	cmd := exec.CommandContext(ctx, p.d.ScriptArgs[0], p.d.ScriptArgs[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = afterKill
	err := cmd.Run()
	p.broke = false
	if ctx.Err() != nil {
		p.broke = true
		return catalog.HealthCritical, fmt.Sprintf("Timed out (%s) running check: its process group was killed", p.timeout)
	}
	output = out.text()
	if out.total > len(out.last) {
		output = fmt.Sprintf("Captured %d of %d bytes\n...\n%s", len(out.last), out.total, output)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return catalog.HealthPassing, output
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return catalog.HealthWarning, output
	case errors.As(err, &exit):
		return catalog.HealthCritical, output
	}
	p.broke = true
	return catalog.HealthCritical, err.Error()
}

// abrupt says that the last answer counts at once, whatever the thresholds are.
func (p *scriptProbe) abrupt() bool { return p.broke }
