// SPDX-License-Identifier: Apache-2.0

//go:build !weftfail

package failpoint

// Hit does nothing.
func Hit(Point) error { return nil }
