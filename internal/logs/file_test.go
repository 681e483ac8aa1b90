// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file that is too long or too old is put aside, and as many old ones are kept as were asked for.
func TestFile(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1_700_000_000, 0)
	l, err := OpenFile(FileConfig{Path: dir + "/", MaxBytes: 10, MaxAge: time.Hour, Keep: 2, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		now = now.Add(time.Second)
		if _, err := l.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	content := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "weft.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write("12345")
	write("6789\n")
	if content() != "123456789\n" {
		t.Errorf("%q", content())
	}
	write("next")
	if content() != "next" {
		t.Errorf("after its length: %q", content())
	}
	now = now.Add(2 * time.Hour)
	write("old")
	if content() != "old" {
		t.Errorf("after its time: %q", content())
	}
	for range 5 {
		write("0123456789")
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "weft-*.log")); len(files) != 2 {
		t.Errorf("kept: %v", files)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenFile(FileConfig{Path: filepath.Join(dir, "weft.log")}); err != nil {
		t.Fatal(err)
	}
	write("more")
	if content() != "0123456789more" {
		t.Errorf("a file that is there is written on: %q", content())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
