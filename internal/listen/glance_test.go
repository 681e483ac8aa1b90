// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// What has arrived before it is looked at before it, though the one processor was busy all the time.
func TestGlanceComesBehindWhatHasArrived(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	var order []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, what)
	}
	var g Glance
	for range 100 {
		out, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := in.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
			note("arrived")
		})
		runtime.Gosched() // it waits
		both.Add(1)
		if _, err := out.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		g.Before(func() {
			note("then")
			both.Done()
		})
		both.Wait()
		_, _ = out.Close(), in.Close() // they have served
	}
	behind := 0
	for two := range slices.Chunk(order, 2) {
		if slices.Equal(two, []string{"arrived", "then"}) {
			behind++
		}
	}
	if behind < 20 { // with the race detector Go runs goroutines in any order: then it is half of them; without the pipe it is none
		t.Errorf("it came behind %d times of 100", behind)
	}
}

// Without a file left it comes all the same.
func TestGlanceWithoutAPipe(t *testing.T) {
	var g Glance
	g.once.Do(func() {})
	came := make(chan struct{})
	g.Before(func() { close(came) })
	<-came
}
