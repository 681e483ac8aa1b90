// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"math/bits"
	"slices"
	"strings"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// hashString is FNV-1a with a finaliser, so that every bit of the result depends on every byte. It is the same in every
// proxy: all of them send a key to the same endpoint.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// ring is a consistent-hash ring: points in order, each an endpoint's.
type ring struct {
	points []point
}

type point struct {
	hash uint64
	who  uint32
}

const (
	pointsPerWeight = 160
	maxPoints       = 1 << 18
)

func makeRing(eps []*endpoint) *ring {
	// An endpoint's points depend on its own weight alone, so that another that comes or goes moves nothing of its; only
	// a ring that would be too large is thinned out, by halves.
	shift := 0
	for total := totalWeight(eps) * pointsPerWeight; total>>shift > maxPoints; {
		shift++
	}
	r := &ring{}
	for i, e := range eps {
		n := max(1, int(uint64(weight(e.config))*pointsPerWeight>>shift))
		seed := hashString(e.config.Network + "|" + e.config.Address)
		for k := range n {
			r.points = append(r.points, point{mix(seed + uint64(k)*0x9e3779b97f4a7c15), uint32(i)})
		}
	}
	slices.SortFunc(r.points, func(a, b point) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return int(a.who) - int(b.who)
	})
	return r
}

// at is the index of the point that owns h; the endpoints that follow it take over where it can't.
func (r *ring) at(h uint64) int {
	i, _ := slices.BinarySearchFunc(r.points, h, func(p point, h uint64) int {
		switch {
		case p.hash < h:
			return -1
		case p.hash > h:
			return 1
		}
		return 0
	})
	return i % len(r.points)
}

// maglevSize is a prime well above a hundred times the endpoints of a usual cluster.
const maglevSize = 65537

// makeMaglev fills a lookup table as Eisenbud et al. (NSDI 2016, §3.4) do, each endpoint taking turns by its weight.
func makeMaglev(eps []*endpoint, size uint64) []uint32 {
	if size == 0 {
		size = maglevSize
	}
	type turn struct {
		offset, skip, next, credit uint64
		who                        uint32
	}
	most := uint64(0)
	turns := make([]turn, len(eps))
	for i, e := range eps {
		name := e.config.Network + "|" + e.config.Address
		turns[i] = turn{offset: hashString(name) % size, skip: hashString(name+"#")%(size-1) + 1, who: uint32(i)}
		most = max(most, uint64(weight(e.config)))
	}
	// Turns in the order of names: every proxy fills the same table, in whatever order it was told.
	slices.SortFunc(turns, func(a, b turn) int { return strings.Compare(eps[a.who].config.Address, eps[b.who].config.Address) })
	const free = ^uint32(0)
	table := make([]uint32, size)
	for i := range table {
		table[i] = free
	}
	for filled := uint64(0); filled < size; {
		for i := range turns {
			t := &turns[i]
			if t.credit += uint64(weight(eps[t.who].config)); t.credit < most {
				continue
			}
			t.credit -= most
			for {
				slot := (t.offset + t.next*t.skip) % size
				t.next++
				if table[slot] == free {
					table[slot] = t.who
					break
				}
			}
			if filled++; filled == size {
				break
			}
		}
	}
	return table
}

func weight(e *config.Endpoint) uint32 { return max(1, e.Weight) }

func totalWeight(eps []*endpoint) uint64 {
	var t uint64
	for _, e := range eps {
		t += uint64(weight(e.config))
	}
	return max(1, t)
}

// sequence is a round of smooth weighted turns: who comes next, so that a heavy endpoint's turns are spread out. Weights
// are reduced where a round would be longer than maxRound.
func sequence(eps []*endpoint) []uint32 {
	weights := make([]int, len(eps))
	var div, sum uint64
	for i, e := range eps {
		w := uint64(weight(e.config))
		weights[i] = int(w)
		div = gcd(div, w)
		sum += w
	}
	div = max(1, div)
	if sum/div > maxRound {
		for i := range weights {
			hi, lo := bits.Mul64(uint64(weights[i]), maxRound)
			q, _ := bits.Div64(hi, lo, sum)
			weights[i] = max(1, int(q))
		}
		div = 1
	}
	total := 0
	for i := range weights {
		weights[i] /= int(div)
		total += weights[i]
	}
	current := make([]int, len(eps))
	out := make([]uint32, 0, total)
	for range total {
		best := 0
		for i := range current {
			if current[i] += weights[i]; current[i] > current[best] {
				best = i
			}
		}
		current[best] -= total
		out = append(out, uint32(best))
	}
	return out
}

const maxRound = 4096

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
