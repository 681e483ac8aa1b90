// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"os"
	"runtime"
	"sync"
	"time"
)

// Glance puts something behind all that has arrived from the network so far. Go asks the system what has arrived only where a processor has
// nothing else to do; and a timer, which would give it a moment with nothing to do, takes a millisecond at the least there, since that is
// the shortest that it waits for the network. So what is to come behind arrives itself, by a pipe: the processor does what it has to do,
// finds nothing more, asks, is told of all that has arrived and of the pipe, and waits for nothing. The zero value is ready; the pipe is made
// when it is needed for the first time.
type Glance struct {
	once    sync.Once
	in, out *os.File // nil: there was no file left
}

// afterMoment is what Before waits where there is no pipe.
const afterMoment = 100 * time.Microsecond

// Before runs then in a goroutine of its own, once what has arrived was looked at.
func (g *Glance) Before(then func()) {
	g.once.Do(func() {
		if out, in, err := os.Pipe(); err == nil {
			g.in, g.out = in, out
		}
	})
	if g.in == nil {
		time.AfterFunc(afterMoment, then)
		return
	}
	go func() { _, _ = g.in.Write([]byte{0}) }() // never full: there is a reader for each
	go func() {                                  // it waits by the time the one above begins, as a rule
		_, _ = g.out.Read(make([]byte, 1))
		runtime.Gosched() // behind what arrived with it
		then()
	}()
}

// Wait gives the processor to all that is ready and all that has arrived, and returns then.
func (g *Glance) Wait() {
	done := make(chan struct{})
	g.Before(func() { close(done) })
	<-done
}
