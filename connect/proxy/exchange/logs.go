// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Logs writes access logs. A line is put into memory and written by Run soon after; what comes faster than it can be
// written is dropped and counted. Until Run runs, lines wait (up to the same bound).
type Logs struct {
	dropped atomic.Uint64
	failed  atomic.Uint64
	more    chan struct{} // a line waits
	much    chan struct{} // many do

	mu    sync.Mutex // guards sinks
	sinks map[string]*sink
	std   map[string]io.Writer
}

// NewLogs makes logs; stdout and stderr are where "/dev/stdout" and "/dev/stderr" go, nil for nowhere. Other paths are
// files, opened at their first line, appended to, and opened anew after they were moved away.
func NewLogs(stdout, stderr io.Writer) *Logs {
	l := &Logs{more: make(chan struct{}, 1), much: make(chan struct{}, 1), sinks: map[string]*sink{}, std: map[string]io.Writer{}}
	for path, w := range map[string]io.Writer{"/dev/stdout": stdout, "/dev/stderr": stderr} {
		if w == nil {
			w = io.Discard
		}
		l.std[path] = w
	}
	return l
}

const (
	maxWaiting  = 1 << 20   // bytes that wait for one file at most
	muchWaiting = 128 << 10 // as many are written without waiting for more
	gatherTime  = 20 * time.Millisecond
)

type sink struct {
	path string
	out  io.Writer // nil for a file

	mu      sync.Mutex // guards waiting; held for a copy of one line
	waiting []byte

	// of the goroutine that writes
	writing []byte
	file    *os.File
	looked  time.Time
}

func (l *Logs) sink(path string) *sink {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sinks[path]
	if s == nil {
		s = &sink{path: path, out: l.std[path]}
		l.sinks[path] = s
	}
	return s
}

// write takes a line.
func (l *Logs) write(s *sink, line []byte) {
	s.mu.Lock()
	if len(s.waiting)+len(line) > maxWaiting {
		s.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	first := len(s.waiting) == 0
	s.waiting = append(s.waiting, line...)
	much := len(s.waiting) > muchWaiting && len(s.waiting)-len(line) <= muchWaiting
	s.mu.Unlock()
	if first {
		wake(l.more)
	}
	if much {
		wake(l.much)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Dropped is how many lines were lost because they came faster than they could be written, or couldn't be written at all.
func (l *Logs) Dropped() uint64 { return l.dropped.Load() + l.failed.Load() }

// Run writes until ctx ends, then what is left, and closes the files.
func (l *Logs) Run(ctx context.Context) error {
	for {
		select {
		case <-l.more:
			l.gather(ctx)
			l.flush()
		case <-ctx.Done():
			l.flush()
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, s := range l.sinks {
				s.close()
			}
			return nil
		}
	}
}

// gather waits a moment for more lines, so that many are written at once.
func (l *Logs) gather(ctx context.Context) {
	wait := time.NewTimer(gatherTime)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-l.much:
	case <-ctx.Done():
	}
}

func (l *Logs) flush() {
	l.mu.Lock()
	all := make([]*sink, 0, len(l.sinks))
	for _, s := range l.sinks {
		all = append(all, s)
	}
	l.mu.Unlock()
	for _, s := range all {
		s.mu.Lock()
		s.writing, s.waiting = s.waiting, s.writing[:0]
		s.mu.Unlock()
		if len(s.writing) > 0 && s.flush() != nil {
			l.failed.Add(1)
		}
	}
}

func (s *sink) flush() error {
	if s.out != nil {
		_, err := s.out.Write(s.writing)
		return err
	}
	if now := time.Now(); s.file != nil && now.Sub(s.looked) > time.Second {
		s.looked = now
		here, err1 := s.file.Stat()
		there, err2 := os.Stat(s.path)
		if err1 != nil || err2 != nil || !os.SameFile(here, there) {
			s.close()
		}
	}
	if s.file == nil {
		f, err := os.OpenFile(s.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return err
		}
		s.file, s.looked = f, time.Now()
	}
	_, err := s.file.Write(s.writing)
	return err
}

func (s *sink) close() {
	if s.file != nil {
		_ = s.file.Close() // every line was written; nothing can be done here
		s.file = nil
	}
}
