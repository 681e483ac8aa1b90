// SPDX-License-Identifier: Apache-2.0

package heap

import "testing"

func TestReadOnly(t *testing.T) {
	for line, want := range map[string][2]uintptr{
		"00400000-0132f000 r-xp 00000000 fe:00 1234    /usr/bin/we ft": {0x400000, 0x132f000},
		"01330000-02000000 r--p 00f2f000 fe:00 1234    /usr/bin/we ft": {0x1330000, 0x2000000},
		"02000000-02100000 rw-p 01bff000 fe:00 1234    /usr/bin/we ft": {},
		"7f0000000000-7f0000100000 r--p 00000000 fe:00 77 /usr/lib/x":  {},
		"7f0000000000-7f0000100000 rw-p 00000000 00:00 0":              {},
		"7f0000000000-x r--p 00000000 00:00 0 /usr/bin/we ft":          {},
		"": {},
	} {
		from, to, ok := readOnly(line, "/usr/bin/we ft")
		if [2]uintptr{from, to} != want || ok != (want[1] != 0) {
			t.Errorf("%q: %x %x %v", line, from, to, ok)
		}
	}
}

// The program goes on after its code was dropped.
func TestDropCode(t *testing.T) {
	if err := dropCode(); err != nil {
		t.Fatal(err)
	}
}
