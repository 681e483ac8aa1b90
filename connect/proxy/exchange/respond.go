// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// respond passes a response on.
func (ex *exchange) respond(l lease) {
	h := &ex.resp
	ex.rec.status = h.Status
	// The end is on the head where nothing follows: gRPC's trailers-only must leave so too.
	end := h.Length == 0 && (!h.HasLength || h.Proto != stream.HTTP2) || ex.req.Method == "HEAD" || h.Status == 204 || h.Status == 304
	ex.mutateResponse()
	if !ex.watch.answering() {
		ex.cut(l, errCut)
		return
	}
	ex.answered = true
	if end && !l.isMulti() {
		ex.giveBack(l)
	}
	err := ex.x.WriteHead(h, end)
	if err != nil {
		ex.watch.kill(reason.DownstreamReset)
		ex.cut(l, err)
		return
	}
	if end {
		if err = ex.x.Flush(); err == nil && l.isMulti() {
			_, _ = l.ReadBody(ex.room.small[:]) // the end of the stream may come by itself; the response was passed on
		}
	} else {
		err = ex.copyBack(l)
	}
	if err != nil {
		ex.cut(l, err)
		return
	}
	ex.watch.end()    // nothing that comes now may touch what was answered
	if !ex.gaveBack { // else the request had been sent as a whole
		ex.source.stop(l.ClientExchange, true)
		if ex.closesBehind(l) {
			l.Reset(stream.CodeNone)
		}
	}
}

// closesBehind says whether the server may be about to close the connection, though its answer doesn't say so: it refuses a request that is longer
// than what is read away, and may have done so before it came to its end. Whoever used the connection next could lose a request that isn't repeated.
func (ex *exchange) closesBehind(l lease) bool {
	return !l.isMulti() && ex.resp.Status >= 400 && ex.source.read > mostRefused && ex.source.read != ex.source.size
}

// mostRefused is how much of a request's body servers read away, rather than close the connection, as a rule (Go's, ours). Where the length was
// stated, they knew it when they answered, and have said what becomes of the connection.
const mostRefused = 256 << 10

func (l lease) isMulti() bool { return l.single == nil }

var errCut = errors.New("the exchange was ended")

// cut ends both sides of an exchange whose response can't be finished.
func (ex *exchange) cut(l lease, err error) {
	cause, _ := ex.watch.state()
	if cause == reason.None {
		cause = reason.UpstreamReset
	}
	ex.rec.reason = cause
	code := stream.CodeInternal
	var re *stream.ResetError
	switch {
	case errors.As(err, &re):
		code = re.Code
	case cause != reason.UpstreamReset:
		code = stream.CodeCancel
	}
	if ex.answered {
		ex.x.Reset(code)
	}
	if !ex.gaveBack && !(cause == reason.DownstreamReset && ex.readAway(l)) {
		l.Reset(stream.CodeCancel)
	}
	if !ex.answered {
		ex.source.stop(nil, false)
		ex.fail(cause)
		return
	}
	ex.source.stop(nil, false)
	ex.e.config.Log.Debug("response cut", "cluster", ex.rec.cluster, "upstream", ex.rec.upstream, "reason", string(cause), "error", err)
}

// giveBack is called when the whole response has been read, before its last part is written: a client that goes away as soon as it has it
// doesn't cost the upstream's connection, and however slowly it takes it, the next request has the connection.
func (ex *exchange) giveBack(l lease) {
	if !ex.source.idle() || ex.closesBehind(l) {
		return
	}
	ex.watch.hold(nil)
	if ex.lent && !l.isMulti() && !guard.Off("C66") {
		ex.lent, ex.gaveBack = false, true
		ex.cluster.release(l)
	}
}

// readAway reads an answer to its end that nobody wants any more, if that is short: the connection can be used again then, and the next
// request needs no handshake. The watchdog cuts what takes too long.
func (ex *exchange) readAway(l lease) bool {
	if l.isMulti() || !ex.source.idle() || ex.closesBehind(l) || !ex.resp.HasLength || ex.resp.Length > mostReadAway {
		return false
	}
	for n := 0; n <= mostReadAway; {
		m, err := l.ReadBody(ex.room.small[:])
		if err != nil {
			return err == io.EOF
		}
		n += m
	}
	return false
}

// mostReadAway is as much as costs less than another connection.
const mostReadAway = 64 << 10

// copyBack copies the response's body. What has come is flushed before a wait for more.
func (ex *exchange) copyBack(l lease) error {
	left := ex.resp.Length
	if !ex.resp.HasLength {
		left = -1
	}
	began, sent := time.Time{}, int64(0)
	if ex.rate > 0 {
		began = time.Now()
	}
	for {
		if ex.rate > 0 && !ex.throttle(began, sent) {
			return errCut
		}
		buffered := l.Buffered()
		if buffered == 0 && left != 0 {
			if err := ex.x.Flush(); err != nil {
				ex.watch.kill(reason.DownstreamReset)
				return err
			}
		}
		p := ex.room.get(buffered)
		if ex.rate > 0 {
			p = p[:min(len(p), int(max(1, ex.rate/16)))]
			if err := ex.x.Flush(); err != nil {
				return err
			}
		}
		n, err := l.ReadBody(p)
		if n > 0 {
			if buffered == 0 || sent > 0 {
				ex.watch.touch() // what came with the head has been noted: the clock is the dearest of what a piece needs
			}
			sent += int64(n)
			ex.rec.toDown += int64(n)
			if left > 0 {
				left -= int64(n)
			}
			if left == 0 && err == nil {
				ex.giveBack(l)
			}
			if err := ex.x.WriteBody(p[:n]); err != nil {
				ex.watch.kill(reason.DownstreamReset)
				return err
			}
			if ex.gaveBack {
				return ex.finishTo(nil)
			}
		}
		if err == io.EOF {
			t := l.Trailers()
			ex.noteGRPC(t)
			if t != nil && ex.lv.log != nil {
				ex.trailers.CopyFrom(t)
			}
			if t == nil {
				ex.giveBack(l)
			} else if ex.source.idle() {
				ex.watch.hold(nil) // the trailers are the connection's
			}
			return ex.finishTo(t)
		}
		if err != nil {
			return err
		}
		ex.room.settle(n, l.ClientExchange)
	}
}

func (ex *exchange) finishTo(trailers *header.List) error {
	err := ex.x.Finish(trailers)
	if err != nil {
		ex.watch.kill(reason.DownstreamReset)
	}
	return err
}

// tunnel carries raw bytes both ways after an upgrade, until both sides have ended or one breaks.
func (ex *exchange) tunnel(l lease) {
	ex.rec.status = 101
	ex.mutateResponse()
	if !ex.watch.answering() {
		ex.cut(l, errCut)
		return
	}
	ex.watch.limit(0, -1, -1)
	ex.answered = true
	err := ex.x.WriteHead(&ex.resp, false)
	if err == nil {
		err = ex.x.Flush()
	}
	if err != nil {
		ex.cut(l, err)
		return
	}
	var wg sync.WaitGroup
	var up error
	wg.Go(func() {
		if up = ex.oneWay(&ex.source.room, &ex.rec.toUp, l.ClientExchange, ex.x); up != nil {
			l.Reset(stream.CodeCancel)
			ex.x.Reset(stream.CodeCancel)
		}
	})
	down := ex.oneWay(&ex.room, &ex.rec.toDown, ex.x, l.ClientExchange)
	if down != nil {
		l.Reset(stream.CodeCancel)
		ex.x.Reset(stream.CodeCancel)
	}
	wg.Wait()
	if cause, _ := ex.watch.state(); cause != reason.None {
		ex.rec.reason = cause
	}
	if up != nil || down != nil {
		ex.e.config.Log.Debug("tunnel cut", "cluster", ex.rec.cluster, "error", errors.Join(up, down))
	}
}

// writing is the writing side of both kinds of exchange.
type writing interface {
	WriteBody([]byte) error
	Flush() error
}

// oneWay copies until the half close, and hands that on.
func (ex *exchange) oneWay(room *scratch, count *int64, to writing, from stream.Body) error {
	defer room.drop()
	for {
		p := room.get(from.Buffered())
		n, err := from.ReadBody(p)
		if n > 0 {
			ex.watch.touch()
			*count += int64(n)
			if err := to.WriteBody(p[:n]); err != nil {
				return err
			}
			if from.Buffered() == 0 {
				if err := to.Flush(); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			switch t := to.(type) {
			case stream.ServerExchange:
				return t.Finish(nil)
			case stream.ClientExchange:
				return t.Finish(nil)
			}
		}
		if err != nil {
			return err
		}
		room.settle(n, from)
	}
}
