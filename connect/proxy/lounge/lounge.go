// SPDX-License-Identifier: Apache-2.0

// Package lounge is where connections wait on which nothing has moved for a while: in a table, and known to the system by one call,
// without a goroutine, a stack or a buffer for each. Of 9,000 idle HTTP connections 75 MB of 137 were the stacks of goroutines that
// waited 8 KB deep, and 36 MB what these held; a connection in here has its socket and some hundred bytes.
//
// It is for Linux. Elsewhere, and for connections that aren't sockets, Rest says no, and their owners wait as they did before.
// Lounge.Run owns its one goroutine.
package lounge

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

// Guest is one or two connections that wait together: the two ends of a tunnel. Its owner keeps it, and has nobody read from the
// connections while it rests.
type Guest struct {
	// Conns are sockets, or TLS over sockets of which all that was received has been read; the second may be nil.
	Conns [2]net.Conn
	// Until is when the rest ends even though nothing has come; zero for never. It may be a second late.
	Until time.Time
	// Resume is called once for each rest, when something has come, or the peer is gone, or at Until, or by Wake, or at the end of
	// the lounge. It must not block.
	Resume func()

	token uint64 // 0 while it doesn't rest; guarded by Lounge.mu
}

// Lounge holds guests. Make it with New; it takes nobody in unless Run runs.
type Lounge struct {
	first chan struct{} // somebody wants in; capacity 1

	mu     sync.Mutex // guards what follows
	guests map[uint64]*Guest
	last   uint64 // token
	poll   *poller
	next   time.Time // when Until of a guest may have come; zero: never
	closed bool
}

// New makes a lounge. It opens nothing.
func New() *Lounge {
	return &Lounge{first: make(chan struct{}, 1), guests: map[uint64]*Guest{}}
}

// Can says whether a connection could rest.
func Can(conn net.Conn) bool { return able && socketOf(conn) != nil }

// socketOf is the socket beneath a connection, nil if there is none.
func socketOf(conn net.Conn) syscall.Conn {
	for range 4 { // TLS over an accepted connection over what gathers its records over a socket
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case *net.UnixConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// Rest takes a guest in; false if it can't. From then on its connections are the lounge's until Resume is called.
func (l *Lounge) Rest(g *Guest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !able {
		return false
	}
	if l.poll == nil {
		select {
		case l.first <- struct{}{}:
		default:
		}
		return false // the next one finds it open
	}
	l.last++
	for _, conn := range g.Conns {
		if conn != nil && !l.poll.add(conn, l.last) {
			l.forget(g)
			return false
		}
	}
	g.token = l.last
	l.guests[g.token] = g
	if !g.Until.IsZero() && (l.next.IsZero() || g.Until.Before(l.next)) {
		l.next = g.Until
		l.poll.wakeAt(l.next)
	}
	return true
}

// Wake has a guest resumed, if it rests.
func (l *Lounge) Wake(g *Guest) {
	l.mu.Lock()
	ok := l.takeLocked(g)
	l.mu.Unlock()
	if ok {
		g.Resume()
	}
}

// Sweep resumes the guests of whose connections one was closed on this side: the system tells nobody of that. Who closes one calls it.
func (l *Lounge) Sweep() {
	var over []*Guest
	l.mu.Lock()
	for _, g := range l.guests {
		if g.Conns[1] != nil && (closed(g.Conns[0]) || closed(g.Conns[1])) { // who closes the only one is its owner
			over = append(over, g)
		}
	}
	for _, g := range over {
		l.takeLocked(g)
	}
	l.mu.Unlock()
	for _, g := range over {
		g.Resume()
	}
}

func closed(conn net.Conn) bool {
	raw, err := socketOf(conn).SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}

// takeLocked lets a guest go; false if it doesn't rest.
func (l *Lounge) takeLocked(g *Guest) bool {
	if g.token == 0 {
		return false
	}
	delete(l.guests, g.token)
	g.token = 0
	l.forget(g)
	return true
}

func (l *Lounge) forget(g *Guest) {
	for _, conn := range g.Conns {
		if conn != nil {
			l.poll.remove(conn)
		}
	}
}

// Run serves until ctx ends, and resumes all guests then.
func (l *Lounge) Run(ctx context.Context) error {
	defer l.close()
	p := l.open(ctx)
	if p == nil {
		return nil
	}
	defer p.close()
	defer l.close() // before the poller is
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.closed = true // so that nobody sets another time
		p.wakeAt(time.Unix(1, 0))
	})()
	for ctx.Err() == nil {
		tokens, err := p.wait()
		if err != nil {
			return err
		}
		l.resume(tokens)
		l.expire()
	}
	return nil
}

// open waits until somebody wants in: most proxies never have a connection that is idle for long. Where nothing can be opened, as there
// are no file descriptors left, it tries again with the next who comes. It gives nil at the end of ctx.
func (l *Lounge) open(ctx context.Context) *poller {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.first:
		}
		if p, err := newPoller(); err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.poll = p
			return p
		}
	}
}

func (l *Lounge) resume(tokens []uint64) {
	for _, token := range tokens {
		l.mu.Lock()
		g := l.guests[token]
		ok := g != nil && l.takeLocked(g)
		l.mu.Unlock()
		if ok {
			g.Resume()
		}
	}
}

// expiryLook is how soon guests are looked through again: all at once, since most never get old.
const expiryLook = time.Second

// expire resumes those whose time has come.
func (l *Lounge) expire() {
	for _, g := range l.expired(time.Now()) {
		g.Resume()
	}
}

func (l *Lounge) expired(now time.Time) (over []*Guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.next.IsZero() || now.Before(l.next) {
		return nil
	}
	l.next = time.Time{}
	for _, g := range l.guests {
		switch {
		case g.Until.IsZero():
		case !g.Until.After(now):
			over = append(over, g)
		case l.next.IsZero() || g.Until.Before(l.next):
			l.next = g.Until
		}
	}
	if earliest := now.Add(expiryLook); !l.next.IsZero() && l.next.Before(earliest) {
		l.next = earliest
	}
	l.poll.wakeAt(l.next)
	for _, g := range over {
		l.takeLocked(g)
	}
	return over
}

// close resumes all, and takes nobody any more.
func (l *Lounge) close() {
	l.mu.Lock()
	l.closed = true
	all := make([]*Guest, 0, len(l.guests))
	for _, g := range l.guests {
		all = append(all, g)
	}
	for _, g := range all {
		l.takeLocked(g)
	}
	l.mu.Unlock()
	for _, g := range all {
		g.Resume()
	}
}
