// SPDX-License-Identifier: Apache-2.0

package heap

import (
	"testing"
)

// What a process comes to that begins, is idle, busy and idle again.
func TestDecide(t *testing.T) {
	var k Keeper
	for i, c := range []struct {
		collections, live uint64
		want              action
	}{
		{2, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{1, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{giveBack: true}},
		{0, 8 << 20, action{}}, // once
		{4, 8 << 20, action{percent: 400}},
		{2, 24 << 20, action{percent: 200}}, // between both: as it was
		{9, 1 << 30, action{percent: 100}},
		{9, 0, action{percent: 400}},
		{1, 8 << 20, action{percent: 100}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{giveBack: true}},
	} {
		if got := k.decide(c.collections, c.live); got != c.want {
			t.Errorf("look %d: %+v, want %+v", i, got, c.want)
		}
	}
}
