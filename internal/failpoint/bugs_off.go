// SPDX-License-Identifier: Apache-2.0

//go:build !weftbug

package failpoint

// Bug says that there is none.
func Bug(Seeded) bool { return false }
