// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// read takes frames until the connection ends or is to rest; the first must be SETTINGS.
func (c *conn) read() error {
	for first := c.frames.Load() == 0; ; first = false {
		if c.br.late != nil && c.br.Buffered() == 0 && !c.heading {
			if err := c.await(); err != nil {
				return err
			}
		}
		fh, err := c.fr.ReadFrameHeader()
		if err != nil {
			return c.readError(fh, err)
		}
		c.frames.Add(1)
		if first {
			if fh.Type != http2.FrameSettings || fh.Flags.Has(http2.FlagSettingsAck) {
				return broken(stream.CodeProtocol, "the first frame is not SETTINGS")
			}
			c.readBy(time.Time{})
		}
		if err := c.frame(fh); err != nil {
			var se *streamError
			if !errors.As(err, &se) {
				return c.readError(fh, err)
			}
			if err := c.refuse(se); err != nil {
				return err
			}
		}
		if fh.Type != http2.FrameData || fh.Length < bulk {
			c.step(1)
		}
		if c.owes { // thousands of frames may be in one read
			c.rest()
		}
	}
}

// readError puts what the framer says into this package's words.
func (c *conn) readError(fh http2.FrameHeader, err error) error {
	var ce http2.ConnectionError
	switch {
	case errors.As(err, &ce):
		reason := "malformed " + fh.Type.String() + " frame"
		if d := c.fr.ErrorDetail(); d != nil {
			reason = d.Error()
		}
		return broken(stream.Code(ce), reason)
	case errors.Is(err, http2.ErrFrameTooLarge):
		return broken(codeFrameSize, "a frame is longer than SETTINGS_MAX_FRAME_SIZE")
	}
	return err
}

// frame reads and handles the frame that fh begins.
func (c *conn) frame(fh http2.FrameHeader) error {
	if fh.Type == http2.FrameData {
		return c.onData(fh)
	}
	f, err := c.fr.ReadFrameForHeader(fh)
	if err != nil {
		var se http2.StreamError
		if errors.As(err, &se) {
			if fh.Type == http2.FrameHeaders || fh.Type == http2.FrameContinuation { // HPACK's state would be lost
				return broken(stream.Code(se.Code), "malformed "+fh.Type.String()+" frame")
			}
			if err := c.spend(1); err != nil {
				return err
			}
			if c.idle(fh.StreamID) {
				return broken(stream.CodeProtocol, fh.Type.String()+" on a stream that isn't open yet")
			}
			return badStream(se.StreamID, stream.Code(se.Code), "malformed "+fh.Type.String()+" frame")
		}
		return err
	}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return c.onHeaders(f)
	case *http2.ContinuationFrame:
		return c.onContinuation(f)
	case *http2.WindowUpdateFrame:
		return c.onWindowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.onReset(f)
	case *http2.SettingsFrame:
		return c.onSettings(f)
	case *http2.PingFrame:
		return c.onPing(f)
	case *http2.GoAwayFrame:
		if err := c.spend(10); err != nil {
			return err
		}
		return c.role.goAway(f)
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return badStream(f.StreamID, stream.CodeProtocol, "a stream depends on itself")
		}
		return c.spend(1)
	case *http2.PushPromiseFrame:
		return broken(stream.CodeProtocol, "PUSH_PROMISE is not allowed here")
	}
	return c.spend(1)
}

// spend charges the control budget.
func (c *conn) spend(n float64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spendLocked(n)
}

func (c *conn) spendLocked(n float64) error {
	if !c.control.spend(n) && !guard.Off("C64") {
		return broken(stream.CodeEnhanceCalm, "too many control frames")
	}
	if c.control.low() {
		c.oweLocked(time.Duration(n) * controlCost)
	}
	return nil
}

// oweLocked notes work for nothing.
func (c *conn) oweLocked(d time.Duration) {
	c.debt += d
	c.owes = c.debt >= restAt
}

func (c *conn) wasteLocked() error {
	if !c.resets.spend(1) && !guard.Off("C61") && !guard.Off("C62") {
		return broken(stream.CodeEnhanceCalm, "too many streams were reset")
	}
	if c.resets.low() {
		c.oweLocked(wasteCost)
	}
	return nil
}

// abandonedLocked charges for a request that was begun and then taken back, where that happens often.
func (c *conn) abandonedLocked(e *exch) error {
	if e.srv == nil || !e.srv.begun || !c.resets.low() {
		return nil
	}
	c.oweLocked(abandonedCost)
	if !c.resets.spend(abandonedWaste) && !guard.Off("C61") && !guard.Off("C62") {
		return broken(stream.CodeEnhanceCalm, "too many requests were begun and taken back")
	}
	return nil
}

// wasteBlock charges for a head over its limit, or of a stream that is gone, which has to be decoded for HPACK's sake: each of its bytes may stand for a field.
func (c *conn) wasteBlock(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oweLocked(time.Duration(n) * blockCost)
	if !c.resets.spend(float64(n)/bytesPerWaste) && !guard.Off("C65") {
		return broken(stream.CodeEnhanceCalm, "too many heads are over their limit")
	}
	return nil
}

func (c *conn) idle(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.role.idleLocked(id)
}

// reply sends a frame that the peer provoked.
func (c *conn) reply(t http2.FrameType, flags http2.Flags, id uint32, payload []byte) error {
	c.answered = true
	if !c.w.answer(t, flags, id, payload) && !guard.Off("C62") {
		return broken(stream.CodeEnhanceCalm, "the peer provokes answers and doesn't read them")
	}
	return nil
}

// refuse resets a stream for a breach by the peer.
func (c *conn) refuse(se *streamError) error {
	c.mu.Lock()
	e := c.streams[se.id]
	if err := c.wasteLocked(); err != nil {
		c.mu.Unlock()
		return err
	}
	if e != nil {
		if err := c.abandonedLocked(e); err != nil {
			c.mu.Unlock()
			return err
		}
		e.shared = true
		c.failLocked(e, se)
	}
	c.mu.Unlock()
	c.answered = true
	if e != nil {
		c.w.reset(e, se.code)
		return nil
	}
	var p [4]byte
	binary.BigEndian.PutUint32(p[:], uint32(se.code))
	return c.reply(http2.FrameRSTStream, 0, se.id, p[:])
}

func (c *conn) onHeaders(f *http2.HeadersFrame) error {
	if f.HasPriority() && f.Priority.StreamDep == f.StreamID {
		return broken(stream.CodeProtocol, "a stream depends on itself")
	}
	kind, err := c.role.expect(f.StreamID)
	if err != nil {
		return err
	}
	c.head = headFrames{id: f.StreamID, kind: kind, end: f.StreamEnded()}
	c.in.begin(kind)
	if err := c.decode(f.HeaderBlockFragment(), f.HeadersEnded()); err != nil {
		return err
	}
	if f.HeadersEnded() {
		return c.role.head(c.head.id, c.head.kind, c.head.end)
	}
	c.heading = true
	if !guard.Off("C69") {
		c.readBy(time.Now().Add(headTimeout))
	}
	return nil
}

// headFrames is a head of which not all frames have come yet, in conn.in.
type headFrames struct {
	id    uint32
	kind  headKind
	end   bool // the stream has none but this
	bytes int
	more  int // CONTINUATION frames
}

func (c *conn) onContinuation(f *http2.ContinuationFrame) error {
	if c.head.more++; (c.head.bytes+len(f.HeaderBlockFragment()) > 2*c.lim.HeadBytes || c.head.more > maxContinuation) && !guard.Off("C63") {
		return broken(stream.CodeEnhanceCalm, "a head is far over its limit")
	}
	if c.head.more > continueFree {
		c.mu.Lock()
		c.oweLocked(continueCost)
		c.mu.Unlock()
	}
	if err := c.decode(f.HeaderBlockFragment(), f.HeadersEnded()); err != nil || !f.HeadersEnded() {
		return err
	}
	c.heading = false
	c.readBy(time.Time{})
	return c.role.head(c.head.id, c.head.kind, c.head.end)
}

// decode decodes a piece of a head, so that the reader may rest between pieces: one byte of them may stand for a field. The decoder gets whole fields
// alone: a part of one it would keep for the next piece, in a room that it never gives back.
func (c *conn) decode(piece []byte, last bool) error {
	c.head.bytes += len(piece)
	b := piece
	if len(c.block) > 0 {
		c.block = append(c.block, piece...)
		b = c.block
	}
	n := len(b)
	if !last {
		n = wholeFields(b)
	}
	_, err := c.dec.Write(b[:n])
	switch {
	case err == nil && last:
		c.block = nil
		err = c.dec.Close()
	case !last:
		c.block = append(c.block[:0], b[n:]...)
	}
	if errors.Is(err, hpack.ErrStringLength) {
		return broken(stream.CodeEnhanceCalm, "a field is far over the limit of a head")
	}
	if err != nil {
		return broken(codeCompression, err.Error())
	}
	if c.in.tooLarge || c.head.kind == ignored { // which is decoded too, for HPACK's sake
		return c.wasteBlock(n) // what was decoded now: bytes that were kept for it too
	}
	return nil
}

// onTrailers ends the peer's message on e.
func (c *conn) onTrailers(e *exch, end bool) error {
	switch {
	case !end:
		return badStream(e.id, stream.CodeProtocol, "trailers don't end the stream")
	case c.in.tooLarge:
		return badStream(e.id, stream.CodeEnhanceCalm, "trailers are over the limit of a head")
	case c.in.bad != "":
		return badStream(e.id, stream.CodeProtocol, c.in.bad)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !e.open || e.recvEnd {
		return nil
	}
	e.trailers, c.in.fields = c.in.fields, e.trailers
	e.trailed = e.trailers.Len() > 0
	return c.endLocked(e)
}

// endLocked notes that the peer's message on e is complete.
func (c *conn) endLocked(e *exch) error {
	if e.remain > 0 {
		return badStream(e.id, stream.CodeProtocol, "the body is shorter than content-length")
	}
	e.recvEnd = true
	c.wakeLocked(e)
	c.settleLocked(e)
	return nil
}

func (c *conn) onData(fh http2.FrameHeader) error {
	if fh.StreamID == 0 {
		return broken(stream.CodeProtocol, "DATA on stream 0")
	}
	n, pad := int(fh.Length), 0
	if fh.Flags.Has(http2.FlagDataPadded) {
		if n == 0 {
			return broken(codeFrameSize, "padded DATA without its length of padding")
		}
		b, err := c.br.ReadByte()
		if err != nil {
			return err
		}
		if n--; int(b) > n {
			return broken(stream.CodeProtocol, "DATA with more padding than payload")
		}
		pad = int(b)
		n -= pad
	}
	end := fh.Flags.Has(http2.FlagDataEndStream)
	e, err := c.admitData(fh, n, end)
	if e == nil {
		if err2 := c.discard(n + pad); err2 != nil {
			return err2
		}
		return err
	}
	return c.takeData(e, n, pad, int(fh.Length), end)
}

// admitData charges the windows for a DATA frame and gives the stream that takes it; without one its bytes are discarded.
func (c *conn) admitData(fh http2.FrameHeader, n int, end bool) (*exch, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := int(fh.Length)
	if c.role.idleLocked(fh.StreamID) {
		return nil, broken(stream.CodeProtocol, "DATA on a stream that isn't open yet")
	}
	if size > c.recvWin {
		return nil, broken(stream.CodeFlowControl, "DATA over the connection's window")
	}
	c.recvWin -= size
	if n == 0 && !end {
		if err := c.spendLocked(1); err != nil {
			return nil, err
		}
	}
	c.control.earn(float64(n) / bytesPerControl)
	e := c.streams[fh.StreamID]
	var err error
	switch {
	case e == nil:
		err = c.lateLocked(fh.StreamID)
	case e.recvEnd:
		err = badStream(e.id, stream.CodeStreamClosed, "DATA after the end of the stream")
	case size > e.recvWin:
		err = badStream(e.id, stream.CodeFlowControl, "DATA over the stream's window")
	case e.remain >= 0 && (int64(n) > e.remain || (end && int64(n) != e.remain)):
		err = badStream(e.id, stream.CodeProtocol, "the body and content-length differ")
	case e.cli != nil && !e.cli.gotFinal:
		err = badStream(e.id, stream.CodeProtocol, "DATA before the head")
	default:
		e.recvWin -= size
		if e.remain >= 0 {
			e.remain -= int64(n)
		}
		return e, nil
	}
	c.giveUnreadLocked(size)
	return nil, err
}

// lateLocked judges a frame of a message on a stream that has ended.
func (c *conn) lateLocked(id uint32) error {
	switch c.endedHowLocked(id) {
	case endedByUs:
		return nil // sent before our RST_STREAM arrived
	case endedByPeer, endedBoth:
		return badStream(id, stream.CodeStreamClosed, "a frame on a stream that has ended")
	}
	return c.spendLocked(1)
}

// giveUnreadLocked gives bytes of the connection's window back that nobody will read.
func (c *conn) giveUnreadLocked(n int) {
	if _, whole := c.giveBackLocked(nil, n); whole > 0 {
		c.mu.Unlock()
		c.w.windowUpdate(0, whole)
		c.answered = true
		c.mu.Lock()
	}
}

func (c *conn) discard(n int) error {
	return c.br.Discard(n)
}

// takeData reads n bytes straight into e's buffer.
func (c *conn) takeData(e *exch, n, pad, size int, end bool) error {
	unread := size - n // of the frame: padding, and what nobody takes any more
	c.mu.Lock()
	for n > 0 && !e.dead && e.open {
		room := e.in.reserve(n)
		c.mu.Unlock()
		_, err := io.ReadFull(&c.br, room)
		c.mu.Lock()
		if err != nil {
			e.in.commit(0)
			c.mu.Unlock()
			return fmt.Errorf("in the middle of a frame: %w", noEOF(err))
		}
		e.in.commit(len(room))
		n -= len(room)
		c.wakeLocked(e)
	}
	unread += n
	if e.dead {
		unread += e.in.drop()
	}
	ofStream, ofConn := c.giveBackLocked(e, unread)
	var err error
	if end && e.open {
		err = c.endLocked(e)
	}
	id := e.id
	c.mu.Unlock()
	if ofStream > 0 {
		c.w.windowUpdate(id, ofStream)
	}
	if ofConn > 0 {
		c.w.windowUpdate(0, ofConn)
	}
	c.answered = c.answered || ofStream+ofConn > 0
	if n+pad > 0 {
		if err := c.discard(n + pad); err != nil {
			return err
		}
	}
	return err
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *conn) onWindowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.spendLocked(1); err != nil {
		return err
	}
	inc := int(f.Increment)
	if f.StreamID == 0 {
		if c.sendWin+inc > maxWindow {
			return broken(stream.CodeFlowControl, "the connection's window is over its maximum")
		}
		c.sendWin += inc
		c.feedLocked()
		c.roomsLocked(nil)
		return nil
	}
	e := c.streams[f.StreamID]
	if e == nil {
		if c.role.idleLocked(f.StreamID) {
			return broken(stream.CodeProtocol, "WINDOW_UPDATE on a stream that isn't open yet")
		}
		return nil
	}
	if e.sendWin+inc > maxWindow {
		return badStream(e.id, stream.CodeFlowControl, "the stream's window is over its maximum")
	}
	e.sendWin += inc
	e.writable.Signal()
	c.roomsLocked(e)
	return nil
}

func (c *conn) onReset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.spendLocked(1); err != nil {
		return err
	}
	e := c.streams[f.StreamID]
	if e == nil {
		if c.role.idleLocked(f.StreamID) {
			return broken(stream.CodeProtocol, "RST_STREAM on a stream that isn't open yet")
		}
		return nil
	}
	if c.server && !e.sendEnd && time.Since(e.opened) < wasteAge {
		if err := c.wasteLocked(); err != nil {
			return err
		}
		if err := c.abandonedLocked(e); err != nil {
			return err
		}
	}
	err := error(&stream.ResetError{Code: stream.Code(f.ErrCode)})
	if e.cli != nil && stream.Code(f.ErrCode) == stream.CodeRefused {
		err = fmt.Errorf("%w: %w", stream.ErrNotSent, err)
	}
	c.failLocked(e, err)
	c.roomsLocked(e)
	return nil
}

// roomsLocked is for the reader when the window of e, or of all streams (nil), has grown, or e has ended: requests may wait for that.
func (c *conn) roomsLocked(e *exch) {
	if s, ok := c.role.(*Server); ok && s.untaken > 0 {
		s.roomsLocked(e)
		c.roomier = len(s.held) > 0
	}
}

func (c *conn) onPing(f *http2.PingFrame) error {
	if f.IsAck() {
		c.role.pong(f.Data)
		return c.spend(1)
	}
	if err := c.spend(1); err != nil {
		return err
	}
	return c.reply(http2.FramePing, http2.FlagPingAck, 0, f.Data[:])
}

func (c *conn) onSettings(f *http2.SettingsFrame) error {
	if err := c.spend(10); err != nil {
		return err
	}
	if f.IsAck() {
		c.mu.Lock()
		c.acked = true
		c.mu.Unlock()
		return nil
	}
	if err := f.ForeachSetting(c.setting); err != nil {
		return err
	}
	c.role.settings()
	return c.reply(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
}

func (c *conn) setting(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		var ce http2.ConnectionError
		if errors.As(err, &ce) {
			return broken(stream.Code(ce), "a setting is out of its range: "+s.String())
		}
		return broken(stream.CodeProtocol, "a setting is out of its range: "+s.String())
	}
	switch s.ID {
	case http2.SettingHeaderTableSize:
		c.w.mu.Lock()
		c.w.table = min(s.Val, headerTable)
		c.w.enc.SetMaxDynamicTableSize(c.w.table)
		c.w.mu.Unlock()
	case http2.SettingMaxFrameSize:
		c.w.mu.Lock()
		c.w.maxFrame = int(s.Val)
		c.w.mu.Unlock()
	case http2.SettingInitialWindowSize:
		return c.resizeWindows(int(s.Val))
	case http2.SettingEnablePush:
		if !c.server && s.Val != 0 {
			return broken(stream.CodeProtocol, "a server enables push")
		}
	case http2.SettingMaxConcurrentStreams, http2.SettingEnableConnectProtocol:
		if cl, ok := c.role.(*Client); ok {
			return cl.setting(s)
		}
	}
	return nil
}

func (c *conn) resizeWindows(to int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := to - c.peerInit
	c.peerInit = to
	for _, e := range c.streams {
		if e.sendWin+by > maxWindow {
			return broken(stream.CodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE takes a window over its maximum")
		}
		e.sendWin += by
		e.writable.Signal()
	}
	c.roomsLocked(nil)
	return nil
}
