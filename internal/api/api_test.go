// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// closed is a cluster in which nobody may do anything.
type closed struct{}

func (closed) Resolve(context.Context, string) (Subject, error) { return closed{}, nil }
func (closed) String() string                                   { return "nobody" }
func (c closed) In(string) Subject                              { return c }

func (closed) Allow(p Permission, name string) error {
	if p == (Permission{}) {
		return nil
	}
	return fmt.Errorf("%w: anonymous token lacks permission '%s' on %q", ErrDenied, p, name)
}

func answering(side Side, h Handler) map[string]Handler {
	out := map[string]Handler{}
	for _, r := range Routes {
		if r.Side == side {
			out[r.Name()] = h
		}
	}
	return out
}

func TestTableIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Routes {
		if seen[r.Name()] {
			t.Errorf("%s stands twice", r.Name())
		}
		seen[r.Name()] = true
		if (r.Extract == Listed) != (r.Filter != "") {
			t.Errorf("%s: a list has a filter, and nothing else has", r.Name())
		}
		if (r.Extract == PathName) && !strings.Contains(r.Path, "{name}") && !strings.Contains(r.Path, "{name...}") {
			t.Errorf("%s has no {name}", r.Name())
		}
		if r.Need == (Permission{}) && r.Extract != Nothing {
			t.Errorf("%s needs nothing of a name", r.Name())
		}
	}
	rpcs := map[string]bool{}
	for _, r := range RPCs {
		rpcs[r.Name] = true
	}
	for _, s := range []struct {
		name    string
		methods []string
	}{
		{weftv1.Feed_ServiceDesc.ServiceName, methods(weftv1.Feed_ServiceDesc.Methods, weftv1.Feed_ServiceDesc.Streams)},
		{weftv1.Catalog_ServiceDesc.ServiceName, methods(weftv1.Catalog_ServiceDesc.Methods, weftv1.Catalog_ServiceDesc.Streams)},
		{weftv1.CA_ServiceDesc.ServiceName, methods(weftv1.CA_ServiceDesc.Methods, weftv1.CA_ServiceDesc.Streams)},
	} {
		for _, m := range s.methods {
			if !rpcs["/"+s.name+"/"+m] {
				t.Errorf("/%s/%s isn't in the table", s.name, m)
			}
		}
	}
	for _, kind := range []catalog.TopicKind{
		catalog.TopicNodes, catalog.TopicNode, catalog.TopicServices, catalog.TopicService, catalog.TopicConnect,
		catalog.TopicEntries, catalog.TopicEntry, catalog.TopicCA,
	} {
		if !rpcs["topic "+string(kind)] {
			t.Errorf("topic %s isn't in the table", kind)
		}
	}
}

// What a route needs a permission for can't be reached without it; where the handler must ask, it is reached.
func TestPermissionsAreAsked(t *testing.T) {
	for _, side := range []Side{Agent, Server} {
		m, err := NewMux(MuxConfig{Side: side, Resolver: closed{}, Datacenter: "dc1", Handlers: answering(side, func(w http.ResponseWriter, _ *Request) error {
			return WriteJSON(w, "reached")
		})})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range Routes {
			if r.Side != side {
				continue
			}
			w := httptest.NewRecorder()
			path := strings.NewReplacer("{name}", "web", "{name...}", "web", "{kind}", "service-defaults", "{id}", "1").Replace(r.Path)
			m.ServeHTTP(w, httptest.NewRequest(r.Method, path, http.NoBody))
			want := http.StatusOK
			if r.Need != (Permission{}) && (r.Extract == Nothing || r.Extract == PathName || r.Extract == QueryName) {
				want = http.StatusForbidden
			}
			if w.Code != want {
				t.Errorf("%s: %d, want %d (%s)", r.Name(), w.Code, want, w.Body)
			}
		}
	}
}

func TestMuxRefusesGaps(t *testing.T) {
	nothing := func(http.ResponseWriter, *Request) error { return nil }
	all := answering(Server, nothing)
	delete(all, "GET /v1/status/leader")
	if _, err := NewMux(MuxConfig{Side: Server, Resolver: Open{}, Handlers: all}); err == nil {
		t.Error("a route without a handler was taken")
	}
	all = answering(Server, nothing)
	all["GET /v1/own"] = nothing
	if _, err := NewMux(MuxConfig{Side: Server, Resolver: Open{}, Handlers: all}); err == nil {
		t.Error("a handler without a route was taken")
	}
}

func TestErrorTable(t *testing.T) {
	for _, c := range []struct {
		err  error
		http int
		grpc codes.Code
	}{
		{ErrDenied, 403, codes.PermissionDenied},
		{ErrNoLeader, 500, codes.Unavailable},
		{ca.ErrRateLimited, 429, codes.ResourceExhausted},
		{catalog.ErrNotFound, 404, codes.NotFound},
		{catalog.ErrExists, 409, codes.AlreadyExists},
		{catalog.ErrConflict, 409, codes.Aborted},
		{catalog.ErrInvalid, 400, codes.InvalidArgument},
		{catalog.ErrNotCovered, 503, codes.Unavailable},
		{errors.New("other"), 500, codes.Internal},
		{&StatusError{Code: 418, Text: "x", Err: ErrDenied}, 418, codes.PermissionDenied},
	} {
		wrapped := fmt.Errorf("about something: %w", c.err)
		if got := HTTPStatus(wrapped); got != c.http {
			t.Errorf("%v: HTTP %d, want %d", c.err, got, c.http)
		}
		if got := status.Code(GRPC(wrapped)); got != c.grpc {
			t.Errorf("%v: gRPC %s, want %s", c.err, got, c.grpc)
		}
	}
	if GRPC(nil) != nil {
		t.Error("nil isn't nil")
	}
}

func methods(unary []grpc.MethodDesc, streams []grpc.StreamDesc) []string {
	var out []string
	for _, m := range unary {
		out = append(out, m.MethodName)
	}
	for _, s := range streams {
		out = append(out, s.StreamName)
	}
	return out
}
