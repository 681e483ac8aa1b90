// SPDX-License-Identifier: Apache-2.0

package proxies

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/ads"
	"github.com/weftmesh/weft/internal/listen"
)

// callerKey has a test's request come from a process.
type callerKey struct{}

func asUser(ctx context.Context, uid uint32) context.Context {
	return context.WithValue(ctx, callerKey{}, listen.Owner{UID: uid})
}

func toldCaller(ctx context.Context) (listen.Owner, error) {
	o, ok := ctx.Value(callerKey{}).(listen.Owner)
	if !ok {
		return o, errors.New("nobody can tell")
	}
	return o, nil
}

// registerKept registers a service whose proxy is some user's alone.
func (h *host) registerKept(name string, uids ...uint32) {
	h.t.Helper()
	p := &catalog.Proxy{}
	if uids != nil {
		p.LocalIdentity = &catalog.LocalIdentity{Proxy: &catalog.LocalProcesses{UIDs: uids}}
	}
	if _, err := h.state.Register(local.ServiceDefinition{Name: name, Port: 80, Connect: &local.ConnectDefinition{SidecarService: &local.ServiceDefinition{Proxy: p}}},
		"", false); err != nil {
		h.t.Fatal(err)
	}
}

// A secret isn't enough where a registration names the processes that the proxy is: neither for ADS, nor for what the API gives. Root, and who
// may do all that the agent does, may; who can't be told may not.
func TestProxyOfAProcess(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.c.Caller, h.c.Trusted = toldCaller, []uint32{0, 7}
		h.registerKept("web", 1001)
		h.register("api")
		for _, tc := range []struct {
			ctx   context.Context
			other bool // whether it may have web's
		}{{asUser(t.Context(), 1001), true}, {asUser(t.Context(), 0), true}, {asUser(t.Context(), 7), true}, {asUser(t.Context(), 1002), false}, {t.Context(), false}} {
			for id, may := range map[string]bool{webProxy: tc.other, "api-sidecar-proxy": true} {
				want := codes.OK
				if !may {
					want = codes.PermissionDenied
				}
				s, err := h.Open(tc.ctx, ads.Claim{NodeID: id, Secret: h.Secret(id), Abilities: xds.Abilities{Weft: true}})
				if status.Code(err) != want {
					t.Errorf("%v opens %s: %v, want %v", tc.ctx.Value(callerKey{}), id, err, want)
				}
				if err == nil {
					s.Close()
				}
				service := scope.Name(strings.TrimSuffix(id, "-sidecar-proxy"))
				if err := h.Permit(tc.ctx, "leaf", service); (err == nil) != may {
					t.Errorf("%v asks for what %s has: %v", tc.ctx.Value(callerKey{}), id, err)
				}
			}
		}
	})
}

// Where no ACLs say so, what a registration says is some processes' is changed by these, the service's and its proxy's, by root and by who may do all
// that the agent does; and names are the same in every spelling.
func TestChangesByTheServicesProcesses(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.c.Caller, h.c.Trusted = toldCaller, []uint32{0, 7}
		h.register("api")
		if _, err := h.state.Register(local.ServiceDefinition{Name: "web", Port: 80, Connect: &local.ConnectDefinition{SidecarService: &local.ServiceDefinition{
			Proxy: &catalog.Proxy{LocalIdentity: &catalog.LocalIdentity{
				LocalProcesses: catalog.LocalProcesses{UIDs: []uint32{1001}}, Proxy: &catalog.LocalProcesses{UIDs: []uint32{1002}},
			}},
		}}}, "", false); err != nil {
			t.Fatal(err)
		}
		for _, service := range []string{"web", "WEB"} {
			for ctx, may := range map[context.Context]bool{
				asUser(t.Context(), 1001): true, asUser(t.Context(), 1002): true, asUser(t.Context(), 0): true, asUser(t.Context(), 7): true,
				asUser(t.Context(), 1003): false, t.Context(): false,
			} {
				if err := h.PermitChange(ctx, "test", scope.Name(service)); (err == nil) != may {
					t.Errorf("%v changes %s: %v", ctx.Value(callerKey{}), service, err)
				}
				if err := h.PermitChange(ctx, "test", scope.Name("api")); err != nil {
					t.Errorf("%v changes what says nothing: %v", ctx.Value(callerKey{}), err)
				}
			}
			if err := h.Permit(asUser(t.Context(), 1003), "leaf", scope.Name(service)); err == nil {
				t.Errorf("a neighbour gets the key of %s", service)
			}
		}
	})
}

// A stream that was there before its registration says whose it is gets nothing more, once it does, and is served again when it may.
func TestProxyOfAProcessLater(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.c.Caller = toldCaller
		h.allow("web", "api")
		s, err := h.Open(asUser(t.Context(), 1002), ads.Claim{NodeID: webProxy, Secret: h.Secret(webProxy), Abilities: xds.Abilities{Weft: true}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		h.registerKept("web", 1001)
		synctest.Wait()
		if out, _ := s.Output(); out != nil || !strings.Contains(h.status(webProxy).NotReady, "uid 1002") {
			t.Errorf("another's proxy is rendered: %v; %+v", out != nil, h.status(webProxy))
		}
		h.registerKept("web", 1001, 1002)
		had := settled(t, s)
		h.registerKept("web", 1001)
		synctest.Wait()
		h.allow("web", "db")
		if out := settled(t, s); out.Hash != had.Hash {
			t.Error("another's proxy gets what is new")
		}
		h.registerKept("web")
		if out := settled(t, s); out.Hash == had.Hash {
			t.Error("nobody's alone, and yet it isn't served")
		}
	})
}
