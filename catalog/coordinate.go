// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"math"
	"strings"
	"time"
)

// Coordinate is where a node is in the network, as Vivaldi reckons it: a point, a height above it for the node's own link, and a
// correction. Lengths are seconds. Error is how sure it is, without a unit.
type Coordinate struct {
	Vec        []float64
	Error      float64
	Adjustment float64
	Height     float64
}

// dimensions are how many a coordinate's point has.
const dimensions = 8

// Distance estimates the round trip between two nodes; false if their coordinates don't fit together.
func (c *Coordinate) Distance(o *Coordinate) (time.Duration, bool) {
	if c == nil || o == nil || len(c.Vec) != len(o.Vec) || len(c.Vec) == 0 {
		return 0, false
	}
	sum := 0.0
	for i := range c.Vec {
		d := c.Vec[i] - o.Vec[i]
		sum += d * d
	}
	rtt := math.Sqrt(sum) + c.Height + o.Height
	if adjusted := rtt + c.Adjustment + o.Adjustment; adjusted > 0 {
		rtt = adjusted
	}
	const longest = float64(math.MaxInt64) / float64(2*time.Second)
	if math.IsNaN(rtt) || rtt > longest {
		return 0, false
	}
	return time.Duration(rtt * float64(time.Second)), true
}

// Validate refuses what no node can have.
func (c *Coordinate) Validate() error {
	if len(c.Vec) != dimensions {
		return invalidf("Coordinate has %d dimensions, want %d", len(c.Vec), dimensions)
	}
	for _, v := range append([]float64{c.Error, c.Adjustment, c.Height}, c.Vec...) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return invalidf("Coordinate isn't made of finite numbers")
		}
	}
	return nil
}

// NodeCoordinate is a node's coordinate in a network segment.
type NodeCoordinate struct {
	Scope
	Node    string
	Segment string `json:",omitempty"`
	Coord   Coordinate
}

// SetCoordinates writes coordinates, which were validated before. Those of nodes that aren't there are left out. The result has
// no value.
type SetCoordinates struct {
	Updates []NodeCoordinate
}

func (SetCoordinates) commandType() string { return "set-coordinates" }

const tableCoordinates = "coordinates" // *NodeCoordinate

// TopicCoordinates is the coordinates of a partition's nodes; in no feed.
const TopicCoordinates TopicKind = "coordinates"

func coordinatesTopic(s Scope) Topic {
	s.Namespace = DefaultNamespace
	return Topic{Kind: TopicCoordinates, Key: Key{Scope: s}}
}

// coordinateString is a coordinate's row key; the node's key begins it.
func coordinateString(c *NodeCoordinate) string {
	return nodeString(c.Scope, c.Node) + join(strings.ToLower(c.Segment))
}

func (u *unit) setCoordinates(c *SetCoordinates) {
	for i := range c.Updates {
		row := c.Updates[i]
		row.Scope = row.Scope.Default(u.w.dc)
		row.Namespace = DefaultNamespace
		if node := u.nodes.at(u.w, nodeString(row.Scope, row.Node)).new; node != nil {
			row.Node = node.Node
			u.coordinates.at(u.w, coordinateString(&row)).new = &row
		}
	}
}

// forgetCoordinates removes those of nodes that go.
func (u *unit) forgetCoordinates() {
	for _, n := range u.nodes.list {
		if n.old == nil || n.new != nil {
			continue
		}
		each(u.w.txn, tableCoordinates, "id_prefix", n.key, func(c *NodeCoordinate) { u.coordinates.put(coordinateString(c), c) })
		for _, c := range onNode(&u.coordinates, n.key) {
			c.new = nil
		}
	}
}

func (u *unit) flushCoordinate(s *slot[*NodeCoordinate]) {
	if s.new != nil {
		insert(u.w.txn, tableCoordinates, s.new)
	} else {
		remove(u.w.txn, tableCoordinates, s.old)
	}
	u.w.touch(coordinatesTopic(cmpOr(s.new, s.old).Scope))
}

// Coordinates lists the coordinates of a scope's nodes by node; with a node's name, those of that node.
func (t *Txn) Coordinates(s Scope, node string) ([]*NodeCoordinate, error) {
	s = s.Default(t.dc)
	if err := t.use(coordinatesTopic(s)); err != nil {
		return nil, err
	}
	prefix := scopeString(s)
	if node != "" {
		prefix = nodeString(s, node)
	}
	var out []*NodeCoordinate
	each(t.db, tableCoordinates, "id_prefix", prefix, func(c *NodeCoordinate) { out = append(out, c) })
	return out, nil
}

// DistanceFrom gives a function that estimates the round trip from a node to another; false where either has no coordinate. It
// isn't recorded: who sorts by distance doesn't want to be woken when one changes.
func (t *Txn) DistanceFrom(s Scope, node string) func(other string) (time.Duration, bool) {
	s = s.Default(t.dc)
	of := func(name string) map[string]*Coordinate {
		found := map[string]*Coordinate{}
		each(t.db, tableCoordinates, "id_prefix", nodeString(s, name), func(c *NodeCoordinate) { found[c.Segment] = &c.Coord })
		return found
	}
	from := of(node)
	return func(other string) (time.Duration, bool) {
		if len(from) == 0 {
			return 0, false
		}
		for segment, c := range of(other) { // two nodes share at most the one segment that a client is in
			if d, ok := from[segment].Distance(c); ok {
				return d, true
			}
		}
		return 0, false
	}
}
