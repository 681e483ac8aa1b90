// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package listen

import "fmt"

// Holder finds the process that listens on an address; it can on Linux only,
// and here its error wraps ErrNoHolder.
func Holder(network, addr string) (Process, error) {
	return Process{}, fmt.Errorf("%s %s: %w", network, addr, ErrNoHolder)
}
