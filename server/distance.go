// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/gossip"
)

func distance(a, b gossip.Coordinate) (time.Duration, bool) {
	x, y := catalog.Coordinate(a), catalog.Coordinate(b)
	return x.Distance(&y)
}

// byDistance sorts datacenters: one's own first, then by the median of the distances to their servers, then by name.
func byDistance(own string, distances map[string][]time.Duration) []string {
	median := func(dc string) time.Duration {
		d := distances[dc]
		switch {
		case dc == own:
			return -1
		case len(d) == 0:
			return math.MaxInt64
		}
		slices.Sort(d)
		return d[len(d)/2]
	}
	out := make([]string, 0, len(distances))
	for dc := range distances {
		out = append(out, dc)
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(median(a), median(b)), cmp.Compare(a, b)) })
	return out
}
