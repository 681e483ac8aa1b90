// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"sync"
	"testing"
)

// Row is one behaviour. It runs on every kind of sidecar; what may differ between kinds it says in Differs, with the reason.
type Row struct {
	Name    string
	Run     func(t *testing.T, w *World)
	Differs map[Kind]string
}

var rows = slices.Concat(callRows, intentionRows, endpointRows, certificateRows, upstreamRows, bodyRows, sniRows, undeclaredRows, interopRows, controlRows, outsideRows, namespaceRows, carriedRows, trafficRows)

// TestTable runs every row on every kind: TestTable/<row>/<kind>.
func TestTable(t *testing.T) {
	enabled(t)
	worlds := map[Kind]func() (*World, error){}
	for _, k := range kinds {
		worlds[k] = sync.OnceValues(func() (*World, error) {
			w, err := newWorld(k, "deny")
			if err == nil {
				w.table = t
				t.Cleanup(func() { w.endAll(t) })
			}
			return w, err
		})
	}
	for _, row := range rows {
		t.Run(row.Name, func(t *testing.T) {
			for _, k := range kinds {
				t.Run(string(k), func(t *testing.T) {
					t.Parallel()
					w, err := worlds[k]()
					if err != nil {
						t.Fatal(err)
					}
					row.Run(t, w)
				})
			}
		})
	}
}

// TestMixed: Envoy calls weft's own proxy, and the other way round, in every protocol; denied calls too.
func TestMixed(t *testing.T) {
	enabled(t)
	w := mustWorld(t, Builtin, "deny")
	for _, way := range [][2]Kind{{Envoy, Builtin}, {Builtin, Envoy}} {
		for _, protocol := range []string{"tcp", "http", "http2", "grpc"} {
			t.Run(string(way[0])+" to "+string(way[1])+" over "+protocol, func(t *testing.T) {
				p := newMixed(t, w, protocol, way[0], way[1])
				p.intend("deny", "web", "api")
				until(t, effect+slack, func() error { return isDenied(protocol, p.addr) })
			})
		}
	}
}

// TestRowsAreWhole checks the table itself: each behaviour of the list has a row, each row a name of its own and something to
// run, and a difference stands only where it has a reason. TestTable runs each row on each kind; there is no way to leave one
// out.
func TestRowsAreWhole(t *testing.T) {
	want := []string{
		"allowed http", "allowed http2", "allowed grpc unary", "allowed grpc bidirectional", "grpc-web", "allowed tcp", "denied http", "denied http2",
		"denied grpc", "denied tcp", "default deny", "default allow", "precedence",
		"intention changed on an open http connection", "intention changed on an open tcp connection",
		"endpoint added drained and removed", "endpoint removed under load", "sidecar stopped under load", "endpoint killed", "leaf rotation under load",
		"peer with a wrong identity", "peer of another root", "peer with an expired certificate", "plaintext to the mtls port",
		"upstream down", "upstream hangs", "big bodies", "streaming both ways", "trailers", "websocket", "http 1.0", "half-closed tcp", "tls by server name", "undeclared protocol", "grpc interoperability",
		"agent killed and restarted", "another service's configuration", "port that is taken", "outside the mesh by a port",
		"one name in two namespaces http", "one name in two namespaces tcp", "http connections carried by one",
	}
	want = append(want, trafficNames...)
	seen := map[string]bool{}
	for _, row := range rows {
		if row.Name == "" || row.Run == nil || seen[row.Name] {
			t.Errorf("row %q: want a name that no other has, and something to run", row.Name)
		}
		seen[row.Name] = true
		for kind, reason := range row.Differs {
			if !slices.Contains(kinds, kind) || reason == "" {
				t.Errorf("row %q: a difference of %q needs a kind that there is, and a reason", row.Name, kind)
			}
		}
	}
	for _, name := range want {
		if !seen[name] {
			t.Errorf("row %q is missing", name)
		}
	}
}
