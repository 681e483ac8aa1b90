// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// maxMembers bounds what one configuration may ask for.
const maxMembers = 10000

var (
	errStopping   = errors.New("the host proxy is stopping")
	errSucceeding = errors.New("the host proxy is being replaced by a newer one: ask again")
)

// control serves the control socket.
type control struct {
	proxyv1.UnimplementedHostProxyServer
	h *Host
}

// Hello agrees on a version: the lower of the two newest. A caller that is too old is told so.
func (s *control) Hello(_ context.Context, in *proxyv1.HostHello) (*proxyv1.HostHello, error) {
	if in.GetProtocol() < Oldest {
		return nil, status.Errorf(codes.FailedPrecondition,
			"the caller (weft %q) speaks version %d of the control protocol, and the host proxy (weft %s) needs at least %d: restart the host proxy with the agent's binary",
			in.GetVersion(), in.GetProtocol(), s.h.c.Version, Oldest)
	}
	return &proxyv1.HostHello{Protocol: min(in.GetProtocol(), Protocol), Version: s.h.c.Version, Pid: int32(os.Getpid())}, nil
}

// Configure makes the members those of the configuration. A bad one changes nothing.
func (s *control) Configure(_ context.Context, in *proxyv1.HostConfig) (*proxyv1.HostStatus, error) {
	members, err := membersOf(in)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	list, err := s.h.configure(in.GetGeneration(), members)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	out := &proxyv1.HostStatus{Generation: in.GetGeneration()}
	for i := range list {
		m := &list[i]
		st := &proxyv1.MemberStatus{ProxyId: m.ProxyID, Connected: m.Ready, Uptime: durationpb.New(time.Since(m.Started))}
		if m.Err != nil {
			st.Error = m.Err.Error()
		}
		out.Members = append(out.Members, st)
	}
	return out, nil
}

// membersOf checks a configuration; its errors name the member and the field.
func membersOf(in *proxyv1.HostConfig) ([]Member, error) {
	if n := len(in.GetMembers()); n > maxMembers {
		return nil, fmt.Errorf("%d members, at most %d are allowed", n, maxMembers)
	}
	seen := make(map[string]bool, len(in.GetMembers()))
	out := make([]Member, 0, len(in.GetMembers()))
	for i, m := range in.GetMembers() {
		id := m.GetProxyId()
		switch {
		case id == "":
			return nil, fmt.Errorf("members[%d].proxy_id is missing", i)
		case seen[id]:
			return nil, fmt.Errorf("members[%d].proxy_id: %q is there twice", i, id)
		case m.GetService() == "":
			return nil, fmt.Errorf("members[%d] (%s): service is missing", i, id)
		}
		if err := checkADS(m.GetAdsAddress()); err != nil {
			return nil, fmt.Errorf("members[%d] (%s): ads_address: %w", i, id, err)
		}
		seen[id] = true
		out = append(out, Member{ProxyID: id, Service: m.GetService(), ADSAddress: m.GetAdsAddress(), Secret: m.GetSecret(), Token: m.GetToken()})
	}
	return out, nil
}

func checkADS(address string) error {
	path, unix := strings.CutPrefix(address, "unix:")
	if unix {
		if strings.TrimPrefix(path, "//") == "" {
			return fmt.Errorf("%q names no path: write unix:/path", address)
		}
		return nil
	}
	if i := strings.LastIndexByte(address, ':'); i < 1 || i == len(address)-1 {
		return fmt.Errorf("%q is neither unix:/path nor host:port", address)
	}
	return nil
}
