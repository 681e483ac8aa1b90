// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/run"
)

// What servers ask each other so that reads are linearizable, on connections of plane.Reads: after the asker's ID (a byte for its length)
// there are questions, each with one answer, both of nine bytes: a kind and a number. A call over gRPC took 320 µs of processor on both
// sides together, for a batch of ten reads that took 55 µs each.
const (
	askTerm   byte = 'T' // the answer is the term that the server is in: it hasn't voted in a later one
	askIndex  byte = 'I' // with the asker's term, after its reads began: the index that they have to see
	theAnswer byte = 'A'
	noLeader  byte = 'N' // it doesn't lead, or can't confirm it now
	message        = 9
)

var errAnswer = errors.New("not an answer")

// lines are the connections on which other servers are asked.
type lines struct {
	dial func(ctx context.Context, address, protocol string) (net.Conn, error)
	id   string           // this server's
	now  func() time.Time // what deadlines go by

	mu     sync.Mutex
	open   map[string]*line // by address
	conns  map[net.Conn]bool
	closed bool
}

// line is the way to one server. Who has its turn owns the rest.
type line struct {
	turn chan struct{} // holds one while nobody has it
	conn net.Conn      // nil: there is none yet
	buf  [message]byte
}

// free gives the turn to the next.
func (l *line) free() { l.turn <- struct{}{} }

func (l *lines) to(address string) *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open, l.conns = map[string]*line{}, map[net.Conn]bool{}
	}
	if l.open[address] == nil {
		at := &line{turn: make(chan struct{}, 1)}
		at.turn <- struct{}{}
		l.open[address] = at
	}
	return l.open[address]
}

// ask asks a question and waits for its answer, after those who ask that server already. The question goes out after the call. patient
// bounds the wait for the turn, ctx all; when ctx ends during the question, the connection does.
func (l *lines) ask(ctx, patient context.Context, address string, kind byte, number uint64) (uint64, error) {
	at := l.to(address)
	select {
	case <-at.turn:
	case <-patient.Done():
		return 0, context.Cause(patient)
	}
	defer at.free()
	old := at.conn != nil
	n, err := l.exchange(ctx, at, address, kind, number)
	if err != nil && old && at.conn == nil && ctx.Err() == nil {
		return l.exchange(ctx, at, address, kind, number) // that server may have been restarted since
	}
	return n, err
}

func (l *lines) exchange(ctx context.Context, at *line, address string, kind byte, number uint64) (n uint64, err error) {
	if at.conn == nil {
		if at.conn, err = l.connect(ctx, address); err != nil {
			return 0, err
		}
	}
	q := question{l: l, at: at, address: address}
	if err := q.put(kind, number); err != nil {
		return 0, err
	}
	return q.finish(ctx)
}

// question is one that went out and has no answer yet; who asks it has the line's turn.
type question struct {
	l       *lines
	at      *line
	address string
	read    int // bytes of the answer that are in the line's buffer
}

// errLater is an answer that hasn't come yet.
var errLater = errors.New("no answer yet")

// begin asks where nobody else does, on a connection that is there; else ok is false, and nothing was asked. An answer that comes soon, as
// nearly all do, takes no context, timer or goroutine.
func (l *lines) begin(address string, kind byte, number uint64) (q question, ok bool) {
	at := l.to(address)
	select {
	case <-at.turn:
	default:
		return q, false
	}
	q = question{l: l, at: at, address: address}
	if at.conn == nil || q.put(kind, number) != nil {
		at.free()
		return q, false
	}
	return q, true
}

// soon waits a short time for the answer. With errLater the question is still open: it goes on with rest or leave.
func (q *question) soon(within time.Duration) (uint64, error) {
	err := q.receive(q.l.now().Add(within))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, errLater
	}
	defer q.at.free()
	if err != nil {
		q.drop()
		return 0, err
	}
	return q.answer()
}

// rest waits for the answer until ctx ends, and the connection with it.
func (q *question) rest(ctx context.Context) (uint64, error) {
	defer q.at.free()
	return q.finish(ctx)
}

func (q *question) finish(ctx context.Context) (uint64, error) {
	conn := q.at.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends receive below
	err := q.receive(time.Time{})
	if !stop() || err != nil {
		q.drop()
	}
	if err != nil {
		return 0, err
	}
	return q.answer()
}

func (q *question) put(kind byte, number uint64) error {
	q.at.buf[0] = kind
	binary.BigEndian.PutUint64(q.at.buf[1:], number)
	_, err := q.at.conn.Write(q.at.buf[:])
	if err != nil {
		q.drop()
	}
	return err
}

// receive reads what the answer lacks, until a deadline if that isn't zero.
func (q *question) receive(by time.Time) error {
	if err := q.at.conn.SetReadDeadline(by); err != nil {
		return err
	}
	n, err := io.ReadFull(q.at.conn, q.at.buf[q.read:])
	q.read += n
	return err
}

// answer reads an answer that is whole.
func (q *question) answer() (uint64, error) {
	switch q.at.buf[0] {
	case theAnswer:
		return binary.BigEndian.Uint64(q.at.buf[1:]), nil
	case noLeader:
		return 0, api.ErrNoLeader
	}
	q.drop()
	return 0, fmt.Errorf("%s: %w: %q", q.address, errAnswer, q.at.buf[0])
}

// drop ends the connection: nobody knows what comes on it.
func (q *question) drop() {
	if q.at.conn != nil {
		q.l.forget(q.at.conn)
		q.at.conn = nil
	}
}

func (l *lines) connect(ctx context.Context, address string) (net.Conn, error) {
	conn, err := l.dial(ctx, address, plane.Reads)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	closed := l.closed
	l.conns[conn] = !closed
	l.mu.Unlock()
	if closed {
		err = net.ErrClosed
	} else {
		_, err = conn.Write(append([]byte{byte(len(l.id))}, l.id...))
	}
	if err != nil {
		l.forget(conn)
		return nil, err
	}
	return conn, nil
}

func (l *lines) forget(conn net.Conn) {
	_ = conn.Close() // nothing can be done about it
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

// close ends the connections, and with them the questions.
func (l *lines) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for conn := range l.conns {
		_ = conn.Close() // nothing can be done about it
	}
}

// answer takes the other servers' connections until ctx ends.
func (s *Server) answer(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = s.c.Reads.Close() })() // ends Accept below
	g := run.New(ctx)
	for {
		conn, err := s.c.Reads.Accept()
		if err != nil {
			_ = g.Stop() // no child of it fails
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		g.Go("questions", func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			err := s.answerOne(ctx, conn)
			_ = conn.Close() // nothing can be done about it
			if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.c.Log.Debug("a server's questions ended", "remote", conn.RemoteAddr().String(), "error", err)
			}
			return nil
		})
	}
}

// answerOne answers what one server asks, until it goes.
func (s *Server) answerOne(ctx context.Context, conn net.Conn) error {
	var buf [256]byte
	if _, err := io.ReadFull(conn, buf[:1]); err != nil {
		return err
	}
	name := buf[1 : 1+min(int(buf[0]), len(buf)-1)]
	if _, err := io.ReadFull(conn, name); err != nil {
		return err
	}
	id, msg := string(slices.Clone(name)), buf[:message]
	for {
		if _, err := io.ReadFull(conn, msg); err != nil {
			return err
		}
		kind, number := msg[0], binary.BigEndian.Uint64(msg[1:])
		var err error
		switch kind {
		case askTerm:
			number = s.raft.Load().CurrentTerm()
		case askIndex:
			number, err = s.readIndex(ctx, id, number)
		default:
			return fmt.Errorf("%w: question %q", errAnswer, kind)
		}
		msg[0] = theAnswer
		if err != nil {
			msg[0], number = noLeader, 0
		}
		binary.BigEndian.PutUint64(msg[1:], number)
		if _, err := conn.Write(msg); err != nil {
			return err
		}
	}
}
