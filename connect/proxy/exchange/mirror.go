// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"io"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// mirrorTimeout bounds a copy from beginning to end.
const mirrorTimeout = 15 * time.Second

// mirrored draws who gets a copy of this request. A request with a body of unknown end or one that is too large to be kept has
// none: that is known only when the request has been sent.
func (ex *exchange) mirrored(f *config.Forward) {
	ex.mirrors = ex.mirrors[:0]
	for _, m := range f.Mirrors {
		if v := ex.view.clusters[m.Cluster]; v != nil && falls(m.Share) {
			ex.mirrors = append(ex.mirrors, v)
		}
	}
	ex.source.copying = len(ex.mirrors) > 0
}

// startMirrors sends the copies: the request has been sent as a whole. The source's lock is held.
func (ex *exchange) startMirrors() {
	s := &ex.source
	if len(ex.mirrors) == 0 || !s.copying || s.read != int64(len(s.replay)) {
		return
	}
	body := append([]byte(nil), s.replay...)
	for _, v := range ex.mirrors {
		head := *ex.req
		head.Fields = header.List{}
		head.Fields.CopyFrom(&ex.req.Fields)
		host := stripPort(head.Authority)
		head.Authority = host + "-shadow" + head.Authority[len(host):]
		head.Length = int64(len(body))
		ex.e.spawn(func(ctx context.Context) { v.mirror(ctx, &head, body) }, func() {})
	}
}

// mirror sends a request and drops the answer.
func (v *clusterView) mirror(ctx context.Context, head *stream.RequestHead, body []byte) {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	if !enter(&v.state.requests, v.config.Limits.Requests) {
		return
	}
	defer v.state.requests.Add(-1)
	ep := v.pick(&choice{nowNano: v.state.engine.now()})
	if ep == nil {
		return
	}
	ep.active.Add(1)
	defer ep.active.Add(-1)
	l, _, err := v.acquire(slow{context: func() context.Context { return ctx }}, ep, v.upstreamWire(head.Proto))
	if err != nil {
		return
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		l.Reset(stream.CodeCancel)
		close(cut)
	})
	if err := l.whole(head, body); err != nil {
		l.Reset(stream.CodeCancel)
	}
	if !stop() {
		<-cut // nothing of the exchange is touched once it was given back
	}
	v.release(l)
}

// whole sends a request and reads the answer to its end.
func (l lease) whole(head *stream.RequestHead, body []byte) error {
	err := l.WriteHead(head, len(body) == 0)
	if err == nil && len(body) > 0 {
		if err = l.WriteBody(body); err == nil {
			err = l.Finish(nil)
		}
	} else if err == nil {
		err = l.Flush()
	}
	if err != nil {
		return err
	}
	var resp stream.ResponseHead
	for resp.Status < 200 {
		resp.Reset()
		if err := l.ReadHead(&resp); err != nil {
			return err
		}
	}
	room := bigBuffers.Get().(*[bigBuffer]byte)
	defer bigBuffers.Put(room)
	for {
		if _, err := l.ReadBody(room[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
