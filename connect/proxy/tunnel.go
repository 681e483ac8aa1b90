// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/exchange"
	"github.com/weftmesh/weft/connect/proxy/lounge"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/internal/nowait"
	"github.com/weftmesh/weft/internal/records"
)

// way is a connection to the service.
type way struct {
	*exchange.Upstream
	cluster string
	began   time.Time
}

// tunnel carries bytes between a client and a service.
type tunnel struct {
	*way
	l       *config.Listener
	idle    time.Duration // how long nothing may move; 0: for ever
	rests   bool          // both ends can
	age     *time.Timer   // cuts it when it is too old; nil: it may become as old as it likes
	in, out int64         // bytes carried so far
}

// carryTo carries bytes to and from a cluster. The prefix has been read from the client already.
func (c *connection) carryTo(ctx context.Context, l *config.Listener, t *config.TCP, prefix []byte) (rests bool) {
	up := c.way(ctx, l, t)
	return up != nil && c.carry(ctx, l, t, up, prefix, nil)
}

// way connects to the service. Where that fails, the client's connection is reset, and nil is given.
func (c *connection) way(ctx context.Context, l *config.Listener, t *config.TCP) *way {
	cluster := t.Cluster
	if len(t.Weighted) > 0 {
		cluster = pick(t.Weighted, rand.Uint64())
	}
	began := time.Now()
	up, why, err := c.p.engine.Connect(ctx, cluster, c.peer)
	if err != nil {
		if denied := c.denied.Load(); denied != nil { // meanwhile, which has been told
			why = *denied
		} else if ctx.Err() == nil {
			c.p.c.Log.Warn("no upstream connection", "listener", l.Name, "cluster", cluster, "reason", string(why), "error", err)
		}
		c.p.engine.LogTunnel(l, c.peer, cluster, "", began, 0, 0, why)
		reset(c.conn)
		return nil
	}
	return &way{up, cluster, began}
}

// carry makes the connection a tunnel, and carries what has been read already first.
func (c *connection) carry(ctx context.Context, l *config.Listener, t *config.TCP, up *way, toUp, toDown []byte) (rests bool) {
	c.guest.Conns[1] = up.Conn
	c.tunnel = &tunnel{way: up, l: l, idle: t.IdleTimeout, rests: lounge.Can(c.conn) && lounge.Can(up.Conn)}
	if t.MaxAge > 0 {
		tooOld := c.tunnel
		c.tunnel.age = time.AfterFunc(t.MaxAge-time.Since(up.began), func() { tooOld.cut(c); c.cut() })
	}
	return c.tunnel.carry(ctx, c, toUp, toDown)
}

// carry carries bytes both ways to the end, or until the tunnel is to rest.
func (t *tunnel) carry(ctx context.Context, c *connection, toUp, toDown []byte) (rests bool) {
	if until := c.guest.Until; !until.IsZero() && !time.Now().Before(until) { // nothing has moved for too long
		t.cut(c)
		return false
	}
	s := &splicing{down: c.conn, up: t.Conn}
	if t.rests {
		s.lull.period = c.p.restAfter
	}
	in, out, clean := s.run(ctx, t.idle, toUp, toDown)
	t.in, t.out = t.in+in, t.out+out
	if s.lull.finish() && ctx.Err() == nil {
		c.guest.Until = time.Time{}
		if t.idle > 0 {
			c.guest.Until = time.Now().Add(t.idle)
		}
		return true
	}
	if !clean {
		t.cut(c)
	}
	return false
}

func (t *tunnel) cut(c *connection) {
	reset(t.Conn)
	reset(c.conn)
}

// over gives the way back, and tells of it.
func (t *tunnel) over(c *connection) {
	if t.age != nil {
		t.age.Stop()
	}
	t.Done()
	why := reason.None
	if denied := c.denied.Load(); denied != nil {
		why = *denied
	}
	t.Count(t.in, t.out)
	c.p.engine.LogTunnel(t.l, c.peer, t.cluster, t.Endpoint.Address, t.began, t.in, t.out, why)
}

// pick chooses by weight, with a random number.
func pick(all []config.WeightedCluster, random uint64) string {
	var sum uint64
	for _, w := range all {
		sum += uint64(w.Weight)
	}
	if sum == 0 {
		return ""
	}
	n := random % sum
	for _, w := range all {
		if n < uint64(w.Weight) {
			return w.Cluster
		}
		n -= uint64(w.Weight)
	}
	return all[len(all)-1].Cluster
}

// splicing copies between two connections, both ways.
type splicing struct {
	down, up net.Conn
	idle     idleWatch
	lull     lull
}

var past = time.Unix(1, 0)

// run copies until both ways have ended, one fails, ctx ends, nothing moves for idle (0: no bound), or there is a lull, if it is to rest
// then. Clean says that both sides had ended in order. What has been read already goes first.
func (s *splicing) run(ctx context.Context, idle time.Duration, toUp, toDown []byte) (in, out int64, clean bool) {
	s.lull.conns = [2]net.Conn{s.down, s.up}
	s.lull.changed.L = &s.lull.mu
	_ = s.down.SetReadDeadline(time.Time{}) // a lull may have ended the turn before
	_ = s.up.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, s.lull.end)()
	s.idle.start(idle, s.lull.end)
	defer s.idle.stop()
	s.lull.start()
	var wg sync.WaitGroup
	var inErr, outErr error
	wg.Go(func() { in, inErr = s.after(0, toUp, s.up, s.down) })
	out, outErr = s.after(1, toDown, s.down, s.up)
	wg.Wait()
	return in, out, inErr == nil && outErr == nil
}

// after is oneWay after some bytes that have been read already.
func (s *splicing) after(which int, first []byte, dst, src net.Conn) (int64, error) {
	if len(first) > 0 {
		if _, err := dst.Write(first); err != nil {
			s.lull.end()
			return 0, err
		}
	}
	n, err := s.oneWay(which, dst, src)
	return n + int64(len(first)), err
}

const (
	// bufferSize is how much is moved at once while much comes.
	bufferSize = records.Batch
	// waitSize is the room in which a connection waits for something to come.
	waitSize = 2 << 10
	// calmReads are so many reads of little in a row that the larger room isn't needed any more.
	calmReads = 16
)

var (
	buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	smalls  = sync.Pool{New: func() any { return new([waitSize]byte) }}
)

// moving is the room of one direction: little while little comes.
type moving struct {
	small *[waitSize]byte
	big   *[bufferSize]byte
	calm  int
}

func (m *moving) get() []byte {
	switch {
	case m.big != nil:
		return m.big[:]
	case m.small == nil:
		m.small = smalls.Get().(*[waitSize]byte)
	}
	return m.small[:]
}

// settle goes by how much the last read gave.
func (m *moving) settle(n int) {
	switch {
	case m.big == nil && n == waitSize:
		m.big, m.calm = buffers.Get().(*[bufferSize]byte), 0
	case m.big != nil && n > waitSize:
		m.calm = 0
	case m.big != nil:
		if m.calm++; m.calm >= calmReads {
			m.drop()
		}
	}
}

// end gives all of it back.
func (m *moving) end() {
	m.drop()
	if m.small != nil {
		smalls.Put(m.small)
		m.small = nil
	}
}

func (m *moving) drop() {
	if m.big != nil {
		buffers.Put(m.big)
		m.big = nil
	}
}

// ends are how a way reads and writes: by calls of which Go's scheduler isn't told where an end is a plain socket, and several records at once
// where it is TLS.
func ends(dst, src net.Conn) (read, write func([]byte) (int, error)) {
	from, to := records.Of(src), records.Of(dst)
	read = func(p []byte) (int, error) { return records.Read(src, from, p) }
	if s := nowait.Of(src); s != nil {
		read = s.Read
	}
	write = func(p []byte) (int, error) { return records.Write(dst, to, p) }
	if s := nowait.Of(dst); s != nil {
		write = s.Write
	}
	return read, write
}

// oneWay copies until the source's end and hands that on as a half close; after a failure the other way is ended too.
func (s *splicing) oneWay(which int, dst, src net.Conn) (n int64, err error) {
	defer func() {
		switch {
		case errors.Is(err, errLull):
		case err != nil:
			s.lull.end()
		default:
			if w, ok := dst.(interface{ CloseWrite() error }); ok {
				_ = w.CloseWrite() // the other side may be gone already
			}
		}
	}()
	var room moving
	defer room.end()
	reading := &s.lull.reads[which]
	read, write := ends(dst, src)
	for {
		p := room.get()
		reading.Add(1) // odd: it reads
		r, rerr := read(p)
		reading.Add(1)
		quiet := rerr != nil && r == 0 && errors.Is(rerr, os.ErrDeadlineExceeded)
		if quiet || s.lull.asked.Load() {
			switch v := s.lull.answer(quiet); {
			case v == lullBoth:
				return n, errLull
			case v == lullNone && quiet:
				continue
			}
		}
		if r > 0 {
			s.idle.touch()
			w, werr := write(p[:r])
			n += int64(w)
			if werr != nil {
				return n, werr
			}
		}
		room.settle(r)
		if errors.Is(rerr, io.EOF) {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// idleWatch calls a function when nothing moved for a time.
type idleWatch struct {
	d     time.Duration
	moved atomic.Bool
	mu    sync.Mutex // guards timer
	timer *time.Timer
}

// start begins, if d isn't 0.
func (w *idleWatch) start(d time.Duration, over func()) {
	if w.d = d; d == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.moved.Swap(false) {
			w.timer.Reset(d)
			return
		}
		over()
	})
}

func (w *idleWatch) touch() {
	if w.d != 0 {
		w.moved.Store(true)
	}
}

func (w *idleWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}
