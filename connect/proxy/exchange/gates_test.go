// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"math/rand/v2"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// randomPath is one of few, many of which begin or end alike.
func randomPath(r *rand.Rand) string {
	var p string
	for range r.IntN(5) {
		p += []string{"/", "/a", "/ab", "b", "/orders/", "\x00"}[r.IntN(6)]
	}
	return p
}

// randomRule is a tree of conditions.
func randomRule(r *rand.Rand, depth int) config.Rule {
	several := func(kind config.RuleKind, n int) config.Rule {
		out := config.Rule{Kind: kind}
		for range n {
			out.Rules = append(out.Rules, randomRule(r, depth-1))
		}
		return out
	}
	kind := r.IntN(8)
	if depth == 0 {
		kind %= 5
	}
	switch kind {
	case 0:
		return config.Rule{Kind: config.HeaderIs, Header: &config.HeaderMatch{Name: "x", Present: true, Invert: r.IntN(2) == 0}}
	case 1:
		return config.Rule{Kind: config.Undecidable}
	case 2, 3, 4:
		kinds := []config.StringKind{config.MatchExact, config.MatchPrefix, config.MatchPrefix, config.MatchSuffix, config.MatchContains}
		return config.Rule{Kind: config.PathIs, String: config.StringMatch{Kind: kinds[r.IntN(len(kinds))], Text: randomPath(r), CaseFold: r.IntN(4) == 0}}
	case 5:
		return several(config.Not, 1)
	case 6:
		return several(config.And, 1+r.IntN(3))
	}
	return several(config.Or, 1+r.IntN(4))
}

// gate sets the gates of a tree, and says how many keep path out.
func gate(r *config.Rule, path string) (shut int) {
	if r.Kind == config.Or {
		r.Gates = config.Gates(r.Rules)
		for i := range r.Gates {
			if r.Gates[i].Shut(path) {
				shut++
			}
		}
	}
	for i := range r.Rules {
		shut += gate(&r.Rules[i], path)
	}
	return shut
}

// What a rule says of a request, or of a connection, is the same with gates and without.
func TestGatesChangeNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	shut, matched := 0, 0
	for i := range 60_000 {
		rule := config.Rule{Kind: config.Or, Rules: []config.Rule{randomRule(r, 3), randomRule(r, 3)}}
		path := randomPath(r)
		req := &stream.RequestHead{Path: path + []string{"", "?", "?/a"}[r.IntN(3)]}
		without := matchRule(&rule, &call{peer: &noPeer, req: req})
		connection := matchRule(&rule, &call{peer: &noPeer})
		shut += gate(&rule, path)
		if without == yes {
			matched++
		}
		if got := matchRule(&rule, &call{peer: &noPeer, req: req}); got != without {
			t.Fatalf("rule %d, path %q: %d, without gates %d: %+v", i, req.Path, got, without, rule)
		}
		if got := matchRule(&rule, &call{peer: &noPeer}); got != connection {
			t.Fatalf("rule %d, of a connection: %d, without gates %d: %+v", i, got, connection, rule)
		}
	}
	if shut < 5_000 || matched < 5_000 {
		t.Errorf("%d gates were shut, %d rules matched: these paths show too little", shut, matched)
	}
}
