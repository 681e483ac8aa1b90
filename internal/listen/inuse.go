// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrNoHolder is returned by Holder where nobody holds the address, or who does
// can't be seen: another user's process, or a system other than Linux.
var ErrNoHolder = errors.New("no process found that holds the address")

// Process is a running program.
type Process struct {
	PID     int
	Command string // its arguments, joined by spaces; its name where those can't be read
}

// InUseError says that an address is taken. It wraps syscall.EADDRINUSE.
type InUseError struct {
	Network, Address string
	Holder           *Process // nil where it can't be found
}

// Error names the address, who holds it, and what to do.
func (e *InUseError) Error() string {
	if e.Holder == nil {
		return fmt.Sprintf("%s %s is taken by another program: stop that, or use another address", e.Network, e.Address)
	}
	return fmt.Sprintf("%s %s is taken by %q (pid %d): stop that, or use another address",
		e.Network, e.Address, e.Holder.Command, e.Holder.PID)
}

// Unwrap returns syscall.EADDRINUSE.
func (e *InUseError) Unwrap() error { return syscall.EADDRINUSE }

func newInUse(network, address string) *InUseError {
	e := &InUseError{Network: network, Address: address}
	if p, err := Holder(network, address); err == nil {
		e.Holder = &p
	}
	return e
}

// explainInUse turns "address already in use" into an *InUseError, and leaves
// any other error as it is.
func explainInUse(err error, spec Spec) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return newInUse(spec.Network, spec.Address)
	}
	return err
}
