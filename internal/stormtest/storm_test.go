// SPDX-License-Identifier: Apache-2.0

package stormtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var errFound = errors.New("found")

// target is a fuzz target with these inputs, which runs a body on them as the testing package does.
type target struct {
	inputs [][]any
	failed bool
}

type subtest struct {
	*target
	parallel chan func()
}

func (f *target) Helper()         {}
func (f *target) Name() string    { return "FuzzThis" }
func (f *target) Add(args ...any) { f.inputs = append(f.inputs, args) }
func (f *target) Fatal(a ...any)  { f.failed = true; panic(fmt.Sprint(a...)) }
func (f *target) Failed() bool    { return f.failed }

// Parallel waits until all inputs have been given.
func (s *subtest) Parallel() {
	done := make(chan struct{})
	s.parallel <- func() { close(done) }
	<-done
}

func (f *target) Fuzz(body any) {
	var later []func()
	var ended []chan struct{}
	for _, in := range f.inputs {
		s := &subtest{f, make(chan func(), 1)}
		args := []reflect.Value{reflect.ValueOf(s)}
		for _, a := range in {
			args = append(args, reflect.ValueOf(a))
		}
		done := make(chan struct{})
		go func() { // ends with the body
			defer close(done)
			defer func() {
				if r := recover(); r != nil && r != errFound {
					panic(r)
				}
			}()
			reflect.ValueOf(body).Call(args)
		}()
		select {
		case <-done:
		case resume := <-s.parallel:
			later, ended = append(later, resume), append(ended, done)
		}
	}
	for i := range later {
		later[i]()
		<-ended[i]
	}
}

// storming runs a storm on a body, and gives what it printed.
func storming(t *testing.T, wanted string, f *target, body any) string {
	t.Helper()
	t.Setenv("WEFT_STORM", wanted)
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stdout := os.Stdout
	os.Stdout = file
	defer func() { os.Stdout = stdout }()
	Fuzz(f, body)
	out, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A body that fails with a certain input is called with it soon, and what is printed is a file with which it fails again.
func TestFinds(t *testing.T) {
	for name, fails := range map[string]func(s *subtest){
		"by a panic": func(*subtest) { panic(errFound) },
		"by failing": func(s *subtest) { s.failed = true },
	} {
		t.Run(name, func(t *testing.T) {
			body := func(s *subtest, text string, b []byte, n uint8, on bool) {
				if strings.Contains(text, "xx") && len(b) > 5 && n > 3 && on {
					fails(s)
				}
			}
			f := &target{inputs: [][]any{{"a x b", []byte("1"), uint8(0), false}, {"", []byte{}, uint8(9), true}}}
			out := storming(t, "1000000x", f, body)
			_, file, ok := strings.Cut(out, ":\n")
			if !ok {
				t.Fatalf("it found nothing: %s", out)
			}
			file, _, _ = strings.Cut(file, "\nstorm: execs: ")
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "FuzzThis"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "FuzzThis", "found"), []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("WEFT_STORM_CORPUS", dir)
			out = storming(t, "2x", &target{}, body)
			if !strings.Contains(out, "fails with input 0 of seed 1:\n"+file+"\n") {
				t.Errorf("the file\n%s\ngave\n%s", file, out)
			}
		})
	}
}

// The same seed gives the same inputs, one after the other or each for itself; another seed gives others.
func TestSeed(t *testing.T) {
	run := func(wanted, seed string) (all []string) {
		t.Setenv("WEFT_STORM_SEED", seed)
		f := &target{inputs: [][]any{{[]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 3}, {[]byte("b"), -3}}}
		storming(t, wanted, f, func(_ *subtest, b []byte, n int) { all = append(all, fmt.Sprintf("%q %d", b, n)) })
		return all
	}
	one, again, other := run("1000x", "1"), run("1000x", "1"), run("1000x", "2")
	if len(one) != 1000 || !reflect.DeepEqual(one, again) || reflect.DeepEqual(one, other) {
		t.Errorf("%d and %d inputs: the same %v; of another seed the same: %v", len(one), len(again), reflect.DeepEqual(one, again), reflect.DeepEqual(one, other))
	}
	if alone := run("@700", "1"); len(alone) != 1 || alone[0] != one[700] {
		t.Errorf("input 700 is %q alone, and %q in its turn", alone, one[700])
	}
	different := map[string]bool{}
	for _, in := range one {
		different[in] = true
	}
	if len(different) < 900 {
		t.Errorf("of 1000 inputs %d differ", len(different))
	}
}

// What Go's fuzzing writes is read, and what a target no longer takes is passed over.
func TestCorpus(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "FuzzThis"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"1": "go test fuzz v1\n[]byte(\"a\\x00(\\\")\")\nbyte('\\'')\nbool(true)\nuint16(7)\nstring(\"ü\")\n",
		"2": "go test fuzz v1\nstring(\"other\")\nbyte('a')\nbool(true)\nuint16(7)\nstring(\"\")\n",
		"3": "go test fuzz v1\n[]byte(\"fewer\")\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "FuzzThis", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("WEFT_STORM_CORPUS", dir)
	var got []string
	out := storming(t, "@0", &target{}, func(_ *subtest, b []byte, c uint8, on bool, n uint16, s string) {
		got = append(got, fmt.Sprintf("%q %d %v %d %q", b, c, on, n, s))
	})
	if want := "\"a\\x00(\\\")\" 39 true 7 \"ü\""; len(got) != 1 || got[0] != want || !strings.Contains(out, "from 1 inputs") {
		t.Errorf("%q, want %q once\n%s", got, want, out)
	}
}

// Cut into pieces and put together, bytes are what they were; and a body that changes brings its length.
func TestPieces(t *testing.T) {
	for i, b := range []string{
		"a\r\nbc\nd", "\x00\x00\x02\x00\x01\x00\x00\x00\x05hi\x00\x00\x00\x04\x01\x00\x00\x00\x00", "\x08\x96\x01\x12\x02hi\x1d1234\x2112345678", "\x16\x03\x01\x00\x02hi\x17\x03\x03\x00\x00",
	} {
		f := forms[i]
		at, ok := f.begins(nil, []byte(b))
		if !ok {
			t.Fatalf("%q isn't of form %d", b, i)
		}
		var again []byte
		for n := range at[:len(at)-1] {
			piece := []byte(b[at[n]:at[n+1]])
			head, size := f.cut(piece)
			again = f.join(again, piece[:head], piece[head:size])
		}
		if string(again) != b {
			t.Errorf("%q became %q", b, again)
		}
		if _, ok := f.begins(nil, []byte(b+"\x00")); ok && i > 0 {
			t.Errorf("%q with a byte more is of form %d", b, i)
		}
		if i > 0 {
			head, _ := f.cut([]byte(b))
			longer := f.join(nil, []byte(b[:head]), bytes.Repeat([]byte("x"), 300))
			if _, size := f.cut(longer); size != len(longer) && i != 2 {
				t.Errorf("form %d: a piece of %d bytes says %d", i, len(longer), size)
			}
		}
	}
}
