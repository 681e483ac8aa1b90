// SPDX-License-Identifier: Apache-2.0

//go:build !weftbug

package catalog

// seeded says whether a bug is there on purpose: never, but in programs that are built to see that tests find it.
func seeded(string) bool { return false }
