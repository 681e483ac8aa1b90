// SPDX-License-Identifier: Apache-2.0

//go:build !race

package exchange

// raceEnabled says that the race detector's own allocations count too.
const raceEnabled = false
