// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

const (
	preface         = http2.ClientPreface
	defaultWindow   = 65535
	maxWindow       = 1<<31 - 1
	maxStreamID     = 1<<31 - 1
	headerTable     = 4 << 10
	maxContinuation = 128
	headTimeout     = 10 * time.Second // for the CONTINUATION frames of one head
	lingerTime      = 500 * time.Millisecond
	lingerBytes     = 256 << 10
	closeTime       = time.Second
)

// role is what a server and a client do differently.
type role interface {
	// expect says what a header block on stream id is; an error is the end of the connection.
	expect(id uint32) (headKind, error)
	// head takes the decoded block in conn.in.
	head(id uint32, kind headKind, end bool) error
	// idleLocked says whether stream id wasn't opened yet.
	idleLocked(id uint32) bool
	// removedLocked is told of a stream that has left conn.streams.
	removedLocked(e *exch)
	settings()
	goAway(f *http2.GoAwayFrame) error
	pong(data [8]byte)
	// lostLocked says which error e gets when the connection is lost; writing of bytes from started on never began.
	lostLocked(e *exch, started uint64, cause error) error
}

// conn is one connection, of either role.
type conn struct {
	nc           net.Conn
	role         role
	server       bool
	lim          stream.Limits
	streamWindow int
	w            writer
	wg           sync.WaitGroup
	open         atomic.Int32  // streams that are open, for the writer
	frames       atomic.Uint64 // ever read; keepalive looks at it
	refusals     *calm.Queue   // a server's

	// Of the reader.
	br       input
	fr       *http2.Framer
	dec      *hpack.Decoder
	in       headIn
	head     headFrames
	heading  bool   // a head goes on in CONTINUATION frames
	block    []byte // of it, what isn't a whole field yet
	owes     bool   // so much that it has to rest
	answered bool   // something waits in the writer that nobody has flushed
	turn     int    // frames, and requests begun, since the reader yielded
	roomier  bool   // windows have grown, or streams ended, for which requests may wait
	yield    func()
	fresh    []*serverExch // requests whose handlers weren't started yet
	woken    []*exch       // something came for their readers, who weren't told yet

	mu       sync.Mutex
	ctx      context.Context
	stopErr  error // why the connection is to end, first reason
	lost     bool  // streams have been failed, none may be added
	streams  map[uint32]*exch
	starved  []*exch
	closed   []ended // the last streams that ended, maxClosed at the most
	closedAt int
	until    time.Time // the reader's deadline
	recvWin  int
	given    int
	sendWin  int
	peerInit int // the peer's SETTINGS_INITIAL_WINDOW_SIZE
	acked    bool
	resets   bucket
	control  bucket
	debt     time.Duration // of work for nothing; the reader rests for it before it goes on

	pingEvery, pingWait time.Duration
	pinger              *time.Timer
}

// maxClosed is of how many streams it is known how they ended.
const maxClosed = 128

// how a stream ended, for frames that come late.
type how uint8

const (
	endedNot how = iota
	endedBoth
	endedByPeer
	endedByUs
)

type ended struct {
	id  uint32
	how how
}

func (c *conn) setup(nc net.Conn, prefix []byte, lim stream.Limits, f Floods, writeTimeout time.Duration) {
	c.nc, c.lim = nc, lim
	c.streamWindow = lim.StreamWindow
	c.ctx = context.Background()
	c.yield = runtime.Gosched
	var r io.Reader = nc
	if len(prefix) > 0 {
		r = io.MultiReader(&prefixReader{b: prefix}, nc)
	}
	c.br.init(r, func() {
		c.pause()
		c.rest()
	})
	c.startFramer()
	c.in.lim = lim
	c.dec = hpack.NewDecoder(headerTable, c.in.add)
	c.dec.SetMaxStringLength(2 * lim.HeadBytes)
	c.in.dec = c.dec
	c.w.init(nc, writeTimeout, &c.open, c.stop, c.spawn)
	c.streams = map[uint32]*exch{}
	c.recvWin = max(lim.ConnWindow, defaultWindow)
	c.sendWin, c.peerInit = defaultWindow, defaultWindow
	c.resets = newBucket(f.Resets, resetsPerSecond, freeWaste)
	c.control = newBucket(f.Control, controlPerSecond, freeControl)
}

func (c *conn) startFramer() {
	c.fr = http2.NewFramer(nil, &c.br)
	c.fr.SetMaxReadFrameSize(minFrameSize)
	c.fr.SetReuseFrames()
}

// prefixReader gives bytes that were read before, and lets go of them.
type prefixReader struct{ b []byte }

func (p *prefixReader) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b)
	p.b = p.b[n:]
	return n, nil
}

func (c *conn) spawn(f func()) {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		f()
	}()
}

// longAgo is a deadline that makes a waiting Read return.
var longAgo = time.Unix(1, 0)

// stop makes Run end with err; the first reason counts.
func (c *conn) stop(err error) {
	c.mu.Lock()
	c.stopLocked(err)
	c.mu.Unlock()
}

func (c *conn) stopLocked(err error) {
	if c.stopErr == nil {
		c.stopErr = err
		_ = c.nc.SetReadDeadline(longAgo)
	}
}

// readBy sets the reader's deadline (zero: none), unless the connection is being ended.
func (c *conn) readBy(t time.Time) {
	c.mu.Lock()
	c.until = t
	if c.stopErr == nil {
		_ = c.nc.SetReadDeadline(t)
	}
	c.mu.Unlock()
}

// run reads until the connection ends, and ends it, or is to rest, which gives errRests.
func (c *conn) run(ctx context.Context, hello func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	unhook := context.AfterFunc(ctx, func() { c.stop(context.Cause(ctx)) })
	c.startPinger()
	err := hello()
	if err == nil {
		err = c.read()
	}
	c.pause()
	if bad := new(ConnError); errors.As(err, &bad) && !bad.Remote {
		c.stop(err) // what ends it meanwhile isn't why it ends
		c.refusals.Wait(ctx, refusalCost)
	}
	if err == errRests && unhook() {
		cancel(err)
		return err
	}
	unhook()
	c.mu.Lock()
	switch {
	case err == errRests:
		err = context.Cause(ctx)
	case c.stopErr != nil:
		err = c.stopErr
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("%w: no first SETTINGS, or a head that doesn't end", ErrTimeout)
	}
	c.stopErr = err
	if c.pinger != nil {
		c.pinger.Stop()
	}
	c.mu.Unlock()
	c.finish(err)
	if s, ok := c.role.(*Server); ok {
		s.letSome() // all that wait have been failed
	}
	cancel(err)
	c.wg.Wait()
	if err == errDone || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// errDone ends a connection that has nothing more to do.
var errDone = fmt.Errorf("%w: nothing is left to do", ErrClosed)

// finish says good-bye where the peer still listens, fails what is open and closes the connection.
func (c *conn) finish(err error) {
	var bad *ConnError
	polite := true
	switch {
	case errors.As(err, &bad) && !bad.Remote:
		c.w.goAway(c.lastID(), bad.Code, bad.Reason)
	case errors.Is(err, ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		c.w.goAway(c.lastID(), stream.CodeNone, "")
	default:
		polite = false
	}
	if polite {
		c.w.drain(closeTime)
	}
	c.lose(err)
	if polite && c.server {
		c.linger()
	}
	_ = c.nc.Close()
	c.br.drop()
}

func (c *conn) lastID() uint32 {
	if s, ok := c.role.(*Server); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		return s.lastLocked()
	}
	return 0
}

// lose fails all that is open.
func (c *conn) lose(err error) {
	started := c.w.close(fmt.Errorf("%w: %w", ErrClosed, err))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
	for _, e := range c.streams {
		c.failLocked(e, c.role.lostLocked(e, started, err))
	}
	if cl, ok := c.role.(*Client); ok {
		cl.changed.Broadcast()
	}
}

// linger waits for the peer to take what was sent: closing with unread bytes would make its TCP drop our last frames.
func (c *conn) linger() {
	if h, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
	if c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_ = calm.Discard(&c.br, 0, lingerBytes) // whatever ends it, the connection is closed next
}

// pause is called before the reader waits for the peer: everybody for whom something came is told now, so that a message that
// came as a whole is found as a whole, is passed on in one piece, and costs one change of goroutines.
func (c *conn) pause() {
	if c.answered {
		c.answered = false
		c.w.kick()
	}
	if c.roomier {
		c.roomier = false
		c.role.(*Server).letSome()
	}
	if len(c.fresh)+len(c.woken) == 0 {
		return
	}
	for i, e := range c.fresh {
		c.fresh[i] = nil
		if e.c.role.(*Server).start(e, false) {
			e.recycle()
		} else if i > 0 { // one that came alone is counted by its frame
			c.step(turnPerHead)
		}
	}
	c.fresh = c.fresh[:0]
	c.mu.Lock()
	for i, e := range c.woken {
		c.woken[i] = nil
		e.told = true
		e.readable.Broadcast()
	}
	c.woken = c.woken[:0]
	c.mu.Unlock()
}

// A reader's turn: as much as it does before it lets others, whose requests may have arrived meanwhile, have theirs. It would find the next bytes
// there each time, and not stop before Go makes it, after ten milliseconds; and all requests of one client that come together would begin in
// front of what others have sent before the last of them.
const (
	turnLength  = 64  // frames
	turnPerHead = 4   // frames that beginning a request counts for, beside others that came with it
	bulk        = 512 // bytes; a DATA frame with as many isn't counted: it is work for what it carries
)

// step counts n frames of the reader's turn, and ends the turn where it is over.
func (c *conn) step(n int) {
	if c.turn += n; c.turn >= turnLength {
		c.turn = 0
		c.yield()
	}
}

// rest has the reader wait for as long as the peer owes.
func (c *conn) rest() {
	c.mu.Lock()
	owed := c.debt
	if owed < restAt || c.stopErr != nil {
		c.mu.Unlock()
		return
	}
	c.debt, c.owes = 0, false
	c.mu.Unlock()
	time.Sleep(min(restTimes*owed, restMost))
}

// wakeLocked has e's reader told of what came.
func (c *conn) wakeLocked(e *exch) {
	if e.told {
		e.told = false
		c.woken = append(c.woken, e)
	}
}

// removeLocked takes e out of the open streams.
func (c *conn) removeLocked(e *exch, h how) {
	e.open = false
	c.open.Add(-1)
	delete(c.streams, e.id)
	c.noteEndedLocked(e.id, h)
	c.role.removedLocked(e)
}

func (c *conn) noteEndedLocked(id uint32, h how) {
	if len(c.closed) < maxClosed {
		c.closed = append(c.closed, ended{id, h})
		return
	}
	c.closed[c.closedAt%maxClosed] = ended{id, h}
	c.closedAt++
}

func (c *conn) endedHowLocked(id uint32) how {
	for _, x := range c.closed {
		if x.id == id {
			return x.how
		}
	}
	return endedNot
}

// startPinger begins keepalive: when nothing was read for pingEvery, a PING is sent, and when nothing came for pingWait
// after that, the connection is given up.
func (c *conn) startPinger() {
	if c.pingEvery <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, asked := c.frames.Load(), false
	var tick func()
	tick = func() {
		now := c.frames.Load()
		quiet := now == seen
		seen = now
		wait := c.pingEvery
		switch {
		case quiet && asked:
			c.stop(fmt.Errorf("%w: no answer to PING", ErrTimeout))
			return
		case quiet:
			asked, wait = true, c.pingWait
			c.w.simple(http2.FramePing, 0, 0, []byte("weft-up?"))
			c.w.kick()
		default:
			asked = false
		}
		c.mu.Lock()
		if c.stopErr == nil {
			c.pinger.Reset(wait)
		}
		c.mu.Unlock()
	}
	c.pinger = time.AfterFunc(c.pingEvery, tick)
}
