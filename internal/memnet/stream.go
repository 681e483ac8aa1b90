// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"io"
	"net"
	"os"
	"syscall"
)

const (
	// window is how many unread bytes one direction holds.
	window = 64 << 10
	// keep is the largest buffer that an empty stream keeps.
	keep = 4 << 10
)

// stream is one direction of a connection: a bounded queue of bytes.
type stream struct {
	guard

	buf  []byte // unread bytes are buf[off:]
	off  int
	busy bool // a Write is under way; others wait for their turn

	finished     bool  // the writer will write no more: EOF after buf
	writerClosed bool  // the writer's end was closed; implies finished
	readerClosed bool  // nobody will read
	fail         error // what the reader gets instead of buf and EOF

	readBy, writeBy deadline
}

func newStream() *stream {
	s := &stream{}
	s.cond.L = &s.mu
	return s
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.readerClosed:
			return 0, net.ErrClosed
		case s.readBy.passed:
			return 0, os.ErrDeadlineExceeded
		case s.fail != nil:
			return 0, s.fail
		case len(p) == 0:
			return 0, nil
		case s.off < len(s.buf):
			n := copy(p, s.buf[s.off:])
			s.off += n
			if s.off == len(s.buf) {
				s.empty()
			}
			s.cond.Broadcast()
			return n, nil
		case s.finished:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.busy {
		if err := s.writeErr(); err != nil {
			return 0, err
		}
		s.cond.Wait()
	}
	s.busy = true
	defer func() {
		s.busy = false
		s.cond.Broadcast()
	}()
	for {
		if err := s.writeErr(); err != nil {
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		if free := window - (len(s.buf) - s.off); free > 0 {
			n += s.push(p[n:min(len(p), n+free)])
			s.cond.Broadcast()
			continue
		}
		s.cond.Wait()
	}
}

// writeErr says why a write can't go on, if so.
func (s *stream) writeErr() error {
	switch {
	case s.writerClosed:
		return net.ErrClosed
	case s.writeBy.passed:
		return os.ErrDeadlineExceeded
	case s.finished, s.readerClosed:
		return syscall.EPIPE
	}
	return nil
}

// push appends p, moving what is unread to the front before the buffer grows.
func (s *stream) push(p []byte) int {
	if s.off > 0 && len(s.buf)+len(p) > cap(s.buf) {
		s.buf = s.buf[:copy(s.buf, s.buf[s.off:])]
		s.off = 0
	}
	s.buf = append(s.buf, p...)
	return len(p)
}

func (s *stream) empty() {
	s.buf, s.off = s.buf[:0], 0
	if cap(s.buf) > keep {
		s.buf = nil
	}
}

// finish ends writing; what was written stays readable.
func (s *stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.cond.Broadcast()
}

// closeWriter closes the writing end. With an error, the reader gets that
// instead of what it hasn't read.
func (s *stream) closeWriter(fail error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writerClosed {
		return
	}
	s.writerClosed, s.finished = true, true
	if fail != nil {
		s.fail = fail
		s.empty()
	}
	s.writeBy.stop()
	s.cond.Broadcast()
}

// closeReader closes the reading end; the writer gets EPIPE from then on.
func (s *stream) closeReader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readerClosed = true
	s.empty()
	s.readBy.stop()
	s.cond.Broadcast()
}
