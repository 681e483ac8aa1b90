// SPDX-License-Identifier: Apache-2.0

package config

// Gate says of one of many rules, without looking at it, that a path can't match it. The rules of an intention's permissions lie all over the memory,
// and were waited for one after the other; their gates lie side by side. The zero Gate lets every path through.
type Gate struct {
	length uint32 // that a path has at the least
	text   uint64 // what its bytes up to length end with
}

// Gates are those of the members of an Or, in their order; nil where none would keep anything out.
func Gates(members []Rule) []Gate {
	gates, some := make([]Gate, len(members)), false
	for i := range members {
		if m := needed(&members[i]); m != nil {
			gates[i], some = Gate{length: uint32(len(m.Text)), text: tail(m.Text)}, true
		}
	}
	if !some {
		return nil
	}
	return gates
}

// needed is what a path has to be, or to begin with, for a rule to match: where it isn't so the rule's verdict about a request is no, not unknown.
func needed(r *Rule) *StringMatch {
	switch r.Kind {
	case PathIs:
		if (r.String.Kind == MatchExact || r.String.Kind == MatchPrefix) && !r.String.CaseFold {
			return &r.String
		}
	case And:
		for i := range r.Rules {
			if m := needed(&r.Rules[i]); m != nil {
				return m
			}
		}
	}
	return nil
}

// tail is the last eight bytes of a string, or all of a shorter one.
func tail(s string) (v uint64) {
	if n := len(s); n >= 8 {
		s = s[n-8:]
		return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | // one load
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	}
	for i := range len(s) {
		v |= uint64(s[i]) << (8 * i)
	}
	return v
}

// Shut says that a path without its query can't match.
func (g *Gate) Shut(path string) bool {
	return len(path) < int(g.length) || tail(path[:g.length]) != g.text
}
