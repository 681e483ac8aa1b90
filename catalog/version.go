// SPDX-License-Identifier: Apache-2.0

//go:build !weftnext

package catalog

// SchemaVersion is the newest schema version that this code knows.
const SchemaVersion uint64 = 1

// NextNode is the fields of a node that only the next version has. There are none yet: see version_next.go, which is the next
// version for tests of upgrades.
type NextNode struct{}

// nextBody is an empty command of the next version, nil for a name that it doesn't know.
func nextBody(string) Body { return nil }

// nextCommands are the names of the next version's commands.
var nextCommands []string

// runNext runs a command of the next version.
func (u *unit) runNext(Body) (value any, err error, known bool) { return nil, nil, false } //nolint:staticcheck // known comes last
