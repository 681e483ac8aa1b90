// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/plane"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// hop marks a request that a server has passed on: it isn't passed on again.
const hop = "X-Weft-Server-Hop"

// entrance is the REST API as it is reached: what only the leader can do goes to it.
type entrance struct {
	s                 *Server
	interactive, bulk *httputil.ReverseProxy
}

func newEntrance(s *Server) *entrance {
	return &entrance{s, passOn(s, s.peers.interactive), passOn(s, s.peers.bulk)}
}

func passOn(s *Server, t http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     t,
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: r.In.Context().Value(leaderKey{}).(string)})
			r.Out.Host = r.In.Host
			r.Out.Header.Set(hop, s.c.NodeName)
			if who, proved := plane.PeerFrom(r.In.Context()); !proved || !who.Server { // the leader believes this server what it says of that
				r.Out.Header.Del(wanHop)
			}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if a, ok := w.(*attempt); ok && errors.Is(err, errUndialled) {
				a.again = true // nothing was sent
				return
			}
			if cause := context.Cause(r.Context()); errors.Is(cause, errDeposed) {
				err = cause
			}
			if r.Context().Err() == nil {
				s.c.Log.Warn("the leader's answer was lost", "path", r.URL.Path, "error", err)
			}
			http.Error(w, "the leader's answer was lost, what was asked may have been done: "+err.Error(), http.StatusInternalServerError)
		},
		ErrorLog: logs.Std(s.c.Log, slog.LevelDebug, "forward"),
	}
}

type (
	leaderKey struct{}
	takenKey  struct{}
)

// ServeHTTP answers, or passes the request on: to another datacenter, or to the leader. It is tried again only while it is certain that nothing was done.
func (e *entrance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if dc := e.s.elsewhere(r); dc != "" {
		e.s.wan.serve(w, r, dc)
		return
	}
	r = e.s.own(r)
	if !api.AtLeader(r) {
		e.s.mux.ServeHTTP(w, r)
		return
	}
	if r.Header.Get(hop) != "" {
		if !e.s.leads() {
			w.Header().Set(api.NotTaken, "1")
			http.Error(w, api.ErrNoLeader.Error(), http.StatusInternalServerError)
			return
		}
		e.s.mux.ServeHTTP(w, r) // a write that Raft refuses is marked by the mux
		return
	}
	body, err := replayable(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	err = e.s.atLeader(r.Context(), func(id, address string) (bool, error) {
		a := newAttempt(w)
		ctx := context.WithValue(r.Context(), takenKey{}, &a.taken)
		if address != "" && !api.Bulk(r) {
			during, stop := e.s.reigns.during(ctx, id, true)
			defer stop()
			ctx = during
		}
		req := r.WithContext(ctx)
		if body != nil {
			req.Body = io.NopCloser(bytes.NewReader(body))
			if address != "" {
				req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
			}
		}
		e.try(a, req, address)
		if a.again {
			a.forget()
			return body != nil || r.Body == http.NoBody, api.ErrNoLeader
		}
		return false, nil
	})
	if err != nil { // also where the request was given up: without an answer it would pass for done
		http.Error(w, api.ErrNoLeader.Error(), http.StatusInternalServerError)
	}
}

func (e *entrance) try(a *attempt, r *http.Request, address string) {
	switch {
	case address == "":
		e.s.mux.ServeHTTP(a, r)
		a.WriteHeader(http.StatusOK) // where there is nothing to say but in headers
	case api.Bulk(r):
		e.bulk.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), leaderKey{}, address)))
	default:
		e.interactive.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), leaderKey{}, address)))
	}
}

// replayable reads a body that may have to be sent twice; nil if there is none, or it is too large to keep.
func replayable(r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody || api.Bulk(r) {
		if r.Body == nil {
			r.Body = http.NoBody
		}
		return nil, nil
	}
	if n := r.ContentLength; n > 0 && n <= believed {
		data := make([]byte, n)
		_, err := io.ReadFull(r.Body, data)
		return data, err
	}
	return io.ReadAll(io.LimitReader(r.Body, api.DefaultMaxBody+1))
}

// believed is how much memory a request gets for no more than saying that it has so much to say.
const believed = 64 << 10

// attempt is one try to answer: an answer that says that nothing was done isn't passed on.
type attempt struct {
	http.ResponseWriter
	before []field     // of the header, when it began
	space  [4]field    // for that
	taken  atomic.Bool // set once Raft has taken something of it
	wrote  bool
	again  bool
}

type field struct {
	name   string
	values []string
}

func newAttempt(w http.ResponseWriter) *attempt {
	a := &attempt{ResponseWriter: w}
	a.before = a.space[:0]
	for name, values := range w.Header() {
		a.before = append(a.before, field{name, values})
	}
	return a
}

// forget takes back what an attempt that isn't passed on has put into the header.
func (a *attempt) forget() {
	h := a.ResponseWriter.Header()
	clear(h)
	for _, f := range a.before {
		h[f.name] = f.values
	}
}

func (a *attempt) WriteHeader(code int) {
	if a.wrote || a.again {
		return
	}
	if h := a.ResponseWriter.Header(); h[api.NotTaken] != nil {
		if !a.taken.Load() {
			a.again = true
			return
		}
		h.Del(api.NotTaken)
	}
	if code >= 200 {
		a.wrote = true
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *attempt) Write(p []byte) (int, error) {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	if a.again {
		return len(p), nil
	}
	return a.ResponseWriter.Write(p)
}

// Flush is for streamed answers.
func (a *attempt) Flush() {
	if !a.again {
		_ = http.NewResponseController(a.ResponseWriter).Flush() // the client may be gone
	}
}

// markTaken notes that Raft has taken a command of a request, which so can't be tried again.
func markTaken(ctx context.Context) {
	if taken, ok := ctx.Value(takenKey{}).(*atomic.Bool); ok {
		taken.Store(true)
	}
}

// leadersRPCs are what only the leader does, with what they answer. Done twice, they do no harm.
var leadersRPCs = map[string]func() proto.Message{
	"/weft.v1.Catalog/Sync": func() proto.Message { return new(weftv1.SyncResponse) },
	"/weft.v1.Catalog/Host": func() proto.Message { return new(weftv1.HostResponse) },
	"/weft.v1.Feed/Report":  func() proto.Message { return new(weftv1.ReportResponse) }, // all in one place, for those who ask for them
	"/weft.v1.CA/Sign":      func() proto.Message { return new(weftv1.SignResponse) },
}

// writingRPCs are the methods whose use is a write to the audit log, granted or not.
var writingRPCs = map[string]bool{"/weft.v1.Catalog/Sync": true, "/weft.v1.CA/Sign": true}

func remoteOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// UnaryInterceptor writes the audit log, and passes the calls on that only the leader can answer. The gRPC servers that RegisterGRPC is given need it.
func (s *Server) UnaryInterceptor(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if s.c.Audit != nil {
		inner := handler
		handler = func(ctx context.Context, req any) (any, error) {
			out, err := inner(ctx, req)
			s.c.Audit.RPC(ctx, s.c.Resolver, info.FullMethod, remoteOf(ctx), writingRPCs[info.FullMethod], err)
			return out, err
		}
	}
	answer := leadersRPCs[info.FullMethod]
	if answer == nil {
		return handler(ctx, req)
	}
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get(hop)) > 0 {
		if !s.leads() {
			return nil, api.GRPC(api.ErrNoLeader)
		}
		return handler(ctx, req)
	}
	var out any
	err := s.atLeader(ctx, func(id, address string) (again bool, err error) {
		if address == "" {
			out, err = handler(ctx, req)
		} else {
			during, stop := s.reigns.during(ctx, id, true)
			defer stop()
			out, err = s.pass(during, address, info.FullMethod, req, answer())
			if status.Code(err) == codes.Canceled && ctx.Err() == nil {
				return true, api.ErrNoLeader // done twice, they do no harm
			}
		}
		return status.Code(err) == codes.Unavailable, err
	})
	if err != nil {
		return nil, api.GRPC(err)
	}
	return out, nil
}

func (s *Server) pass(ctx context.Context, address, method string, req any, out proto.Message) (any, error) {
	conn, err := s.peers.grpc(address)
	if err != nil {
		return nil, err
	}
	md, _ := metadata.FromIncomingContext(ctx)
	passed := metadata.Pairs(hop, s.c.NodeName)
	for _, key := range []string{api.TokenHeader} {
		passed.Append(key, md.Get(key)...)
	}
	ctx = metadata.NewOutgoingContext(ctx, passed)
	return out, conn.Invoke(ctx, method, req, out)
}
