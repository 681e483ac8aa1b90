// SPDX-License-Identifier: Apache-2.0

// Package stormtest runs fuzz targets in a second way. Go's fuzzing is led by coverage, for which an execution costs 10 µs and more, whatever is
// tested; a storm calls the same body, in a loop in one process, on inputs that it has changed blindly, a million times a second where
// the body is that fast. It starts from the target's own inputs and from those that Go's fuzzing has found. What it does follows from a
// seed. It owns one goroutine, which ends with the storm: it finds a body that doesn't end.
//
//	WEFT_STORM=30s  (or 1000000x)    for so long, or so often
//	WEFT_STORM=@17                   the 17th input alone, which is printed first
//	WEFT_STORM_SEED=5                else 1
//	WEFT_STORM_CORPUS=…              the folder of what Go's fuzzing has found for this package: $(go env GOCACHE)/fuzz/IMPORTPATH
//	WEFT_STORM_AT=…                  a file that says, in 8 bytes, which input is on its way, if the process doesn't live to print it
package stormtest

import (
	"encoding/binary"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// F is *testing.F.
type F interface {
	Helper()
	Name() string
	Add(args ...any)
	Fatal(args ...any)
	Fuzz(body any)
}

// T is *testing.T.
type T interface {
	Parallel()
	Failed() bool
	Fatal(args ...any)
}

// Fuzz is f.Fuzz(body), or a storm where one is asked for. An input with which body fails is printed as a file of testdata/fuzz.
func Fuzz(f F, body any) {
	f.Helper()
	wanted := os.Getenv("WEFT_STORM")
	if wanted == "" {
		f.Fuzz(body)
		return
	}
	s := &storm{body: reflect.ValueOf(body), seed: 1}
	if err := s.asked(wanted); err != nil {
		f.Fatal(err)
	}
	found, err := corpus(os.Getenv("WEFT_STORM_CORPUS"), f.Name(), s.body.Type())
	if err != nil {
		f.Fatal(err)
	}
	for _, in := range found {
		f.Add(in...)
	}
	var inputs []input
	f.Fuzz(reflect.MakeFunc(s.body.Type(), func(args []reflect.Value) []reflect.Value {
		inputs = append(inputs, inputOf(args[1:]))
		if len(inputs) == 1 {
			t := args[0].Interface().(T)
			t.Parallel() // goes on when all inputs have been here
			if err := s.run(t, args[0], inputs); err != nil {
				t.Fatal(err)
			}
		}
		return nil
	}).Interface())
}

// storm is one run.
type storm struct {
	body  reflect.Value
	seed  uint64
	times uint64        // how often, if it isn't 0
	time  time.Duration // how long, if it isn't 0
	only  uint64        // the input that is asked for, if neither is given
}

// asked reads what the environment asks for.
func (s *storm) asked(wanted string) (err error) {
	if text := os.Getenv("WEFT_STORM_SEED"); text != "" {
		if s.seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			return fmt.Errorf("WEFT_STORM_SEED: %w", err)
		}
	}
	if at, ok := strings.CutPrefix(wanted, "@"); ok {
		s.only, err = strconv.ParseUint(at, 10, 64)
	} else if times, ok := strings.CutSuffix(wanted, "x"); ok {
		s.times, err = strconv.ParseUint(times, 10, 64)
	} else {
		s.time, err = time.ParseDuration(wanted)
	}
	if err != nil {
		return fmt.Errorf("WEFT_STORM: %w", err)
	}
	return nil
}

// stuck is how much processor time one execution may take.
const stuck = 30 * time.Second

// run is the storm on these inputs.
func (s *storm) run(t T, arg reflect.Value, inputs []input) error {
	slices.SortFunc(inputs, func(a, b input) int { return strings.Compare(a.String(), b.String()) }) // some targets add theirs in the order of a map
	inputs = slices.CompactFunc(inputs, func(a, b input) bool { return a.String() == b.String() })
	var n atomic.Uint64
	note, err := noted(os.Getenv("WEFT_STORM_AT"))
	if err != nil {
		return err
	}
	began, m := time.Now(), newMutator(s.seed, inputs)
	ended := make(chan struct{})
	defer close(ended)
	go watch(&n, ended, func(at uint64) { s.report(inputs, at, "doesn't end with") })
	fine := false
	defer func() { // for a panic and for Fatal, which both leave through here
		if !fine || t.Failed() {
			s.report(inputs, n.Load(), "fails with")
		}
		fmt.Printf("storm: execs: %d in %.1fs, from %d inputs, seed %d\n", n.Load()+1, time.Since(began).Seconds(), len(inputs), s.seed)
	}()
	args, in := []reflect.Value{arg}, inputs[0].clone()
	for i := range in {
		args = append(args, reflect.New(s.body.Type().In(i+1)).Elem())
	}
	if s.times == 0 && s.time == 0 {
		n.Store(s.only)
		fmt.Println(m.nth(s.only, in))
	}
	for at := n.Load(); ; at++ {
		n.Store(at)
		binary.NativeEndian.PutUint64(note, at)
		m.nth(at, in).into(args[1:])
		if s.body.Call(args); t.Failed() || at+1 == s.times || s.times == 0 && s.time == 0 {
			break
		}
		if s.time > 0 && at%64 == 0 && time.Since(began) > s.time {
			break
		}
	}
	fine = true
	return nil
}

func (s *storm) report(inputs []input, at uint64, what string) {
	in := inputs[0].clone()
	fmt.Printf("storm: %s input %d of seed %d:\n%s\n", what, at, s.seed, newMutator(s.seed, inputs).nth(at, in))
}

// noted is memory that a file has when the process is gone.
func noted(file string) ([]byte, error) {
	if file == "" {
		return make([]byte, 8), nil
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(8); err != nil {
		return nil, err
	}
	return syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
}

// watch ends the process if one execution takes more processor time than it may. The clock says nothing where others come first.
func watch(n *atomic.Uint64, ended chan struct{}, report func(at uint64)) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for last, since := n.Load(), used(); ; {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		switch at := n.Load(); {
		case at != last:
			last, since = at, used()
		case used()-since > stuck:
			report(at)
			panic("stuck")
		}
	}
}

// used is the processor time that this process has taken.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it has no error for this one
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
