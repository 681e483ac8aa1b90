// SPDX-License-Identifier: Apache-2.0

//go:build weftnext

package catalog

// The next version, for tests of upgrades until there is a release: a field and a command more.

// SchemaVersion is the newest schema version that this code knows.
const SchemaVersion uint64 = 2

// NextNode is the fields of a node that only this version has.
type NextNode struct {
	Next string `json:",omitempty" schema:"2"`
}

// NextFault is a command that panics where it is applied, as a fault in weft would make it.
type NextFault struct{ Text string }

func (NextFault) commandType() string   { return "fault" }
func (NextFault) schemaVersion() uint64 { return 2 }

func nextBody(kind string) Body {
	if kind == "fault" {
		return &NextFault{}
	}
	return nil
}

var nextCommands = []string{"fault"}

func (u *unit) runNext(body Body) (value any, err error, known bool) { //nolint:staticcheck // known comes last
	if f, ok := body.(*NextFault); ok {
		panic(f.Text)
	}
	return nil, nil, false
}
