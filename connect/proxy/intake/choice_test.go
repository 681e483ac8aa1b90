// SPDX-License-Identifier: Apache-2.0

package intake_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/proxy/intake"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

const outboundListener = "outbound_listener:127.0.0.1:15001"

// outsideResources are those of a transparent proxy of weft's own that knows much of what is outside.
func outsideResources(t *testing.T, meshOnly bool) map[string]map[string]*anypb.Any {
	t.Helper()
	w, err := xdstest.NewWorld(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.DefaultAllow, w.Abilities = true, xds.Abilities{Weft: true}
	at := func(name, protocol string, o catalog.Outside) *catalog.ServiceDefaults {
		return &catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: name}, Protocol: protocol, Destination: &o}
	}
	if err := w.Write(
		&catalog.ProxyDefaults{Mode: catalog.ModeTransparent}, &catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: "api"}, Protocol: "http"},
		&catalog.Mesh{TransparentProxy: &catalog.MeshTransparentProxy{MeshDestinationsOnly: meshOnly}},
		at("all", "tcp", catalog.Outside{Addresses: []string{"10.0.0.0/8"}, Except: []string{"10.1.0.0/16", "10.0.0.9"}}),
		at("some", "tcp", catalog.Outside{Addresses: []string{"10.1.2.0/24", "10.5.0.0/16"}, Port: 443}),
		at("v6", "tcp", catalog.Outside{Addresses: []string{"2001:db8::/32"}, Ports: []int{443, 80}}),
		at("one", "tcp", catalog.Outside{Addresses: []string{"a.test", "*.a.test"}, Ports: []int{443, 8443}}),
		at("two", "tcp", catalog.Outside{Addresses: []string{"*.b.a.test"}, Port: 443}),
		at("site", "http", catalog.Outside{Addresses: []string{"h.test", "192.0.2.80"}, Ports: []int{80, 8443}}),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Register(xdstest.Sidecar{Service: "api", Node: "n2", Address: "10.0.0.2", Port: 1, PublicPort: 21001}); err != nil {
		t.Fatal(err)
	}
	return sidecarOfWeb(t, w)
}

// A captured connection is that of the closest network at its port, of services before all; then of the name that TLS asks for; what isn't TLS is
// requests where some are told apart by host; what is nobody's is as the mesh says.
func TestChoice(t *testing.T) {
	for _, meshOnly := range []bool{false, true} {
		s, err := intake.Compile(outsideResources(t, meshOnly), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		choose := s.Listeners[outboundListener].Captured.Choose
		rest := "original-destination"
		if meshOnly {
			rest = ""
		}
		for _, c := range []struct{ to, hello, want string }{
			{"10.2.3.4:5", "", "outside~all"}, {"10.2.3.4:443", "tls", "outside~all"},
			{"10.1.2.3:443", "", "outside~some"}, {"10.1.2.3:80", "", "outside-hosts:80"}, {"10.1.2.3:81", "", rest},
			{"10.1.9.9:443", "", rest}, {"10.1.9.9:443", "tls a.test", "outside~one"}, {"10.0.0.9:81", "", rest},
			{"10.5.0.1:443", "", "outside~some"}, {"10.5.0.1:80", "", "outside~all"},
			{"[2001:db8::1]:443", "", "outside~v6"}, {"[2001:db8::1]:80", "", "outside~v6"}, {"[2001:db8::1]:81", "", rest},
			{"192.0.2.1:443", "tls a.test", "outside~one"}, {"192.0.2.1:443", "tls x.a.test", "outside~one"}, {"192.0.2.1:443", "tls x.b.a.test", "outside~two"},
			{"192.0.2.1:443", "tls b.a.test", "outside~one"}, {"192.0.2.1:443", "tls other.test", rest}, {"192.0.2.1:443", "tls", rest}, {"192.0.2.1:443", "", rest},
			{"192.0.2.1:8443", "tls x.b.a.test", "outside~one"}, {"192.0.2.1:8443", "tls h.test", rest}, {"192.0.2.1:8443", "", "outside-hosts:8443"},
			{"192.0.2.1:444", "tls a.test", rest}, {"192.0.2.80:80", "", "outside~site"}, {"192.0.2.80:443", "", rest},
			{"240.0.0.1:443", "", "api"}, {"240.0.0.1:80", "", "api"}, {"240.0.0.9:443", "tls a.test", "nowhere"}, {"127.0.0.1:443", "", "nowhere"},
			{"[::ffff:10.2.3.4]:5", "", "outside~all"},
		} {
			got := ""
			if l := choose.For(netip.MustParseAddrPort(c.to), func() (string, bool) {
				tls, name, _ := strings.Cut(c.hello, " ")
				return name, tls != ""
			}); l != nil {
				_, got, _ = strings.Cut(l.Name, "|")
				if s.Listeners[l.Name] != l {
					t.Errorf("%s is no listener of the snapshot", l.Name)
				}
			}
			if got != c.want {
				t.Errorf("mesh alone %t: to %s %s: %q, want %q", meshOnly, c.to, c.hello, got, c.want)
			}
		}
		hosts := s.Routes["outside-hosts:80"].Hosts
		if n := len(hosts); n != 2 || len(hosts[1].Routes) != 1 || len(hosts[1].Routes[0].Authorize[0].Policies) != map[bool]int{false: 1, true: 0}[meshOnly] {
			t.Errorf("mesh alone %t: %+v", meshOnly, hosts)
		}
	}
}

// The first bytes are read only where they count.
func TestChoiceReadsNothing(t *testing.T) {
	s, err := intake.Compile(outsideResources(t, true), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"10.2.3.4:443", "240.0.0.1:443", "192.0.2.80:80", "192.0.2.1:9"} {
		s.Listeners[outboundListener].Captured.Choose.For(netip.MustParseAddrPort(to), func() (string, bool) {
			t.Errorf("to %s: the first bytes are looked at", to)
			return "", false
		})
	}
}

// A matcher of which something isn't known is refused: it might protect.
func TestChoiceRefused(t *testing.T) {
	for what, c := range map[string]struct {
		change func(l *listenerv3.Listener)
		want   string
	}{
		"another input": {func(l *listenerv3.Listener) {
			l.GetFilterChainMatcher().GetMatcherTree().Input.TypedConfig.TypeUrl += "s"
		}, "not known to this proxy"},
		"a default beside it":    {func(l *listenerv3.Listener) { l.DefaultFilterChain = l.GetFilterChains()[0] }, "default_filter_chain"},
		"going on after a match": {func(l *listenerv3.Listener) { l.GetFilterChainMatcher().GetOnNoMatch().KeepMatching = true }, "keep_matching"},
		"without capturing":      {func(l *listenerv3.Listener) { l.ListenerFilters = nil }, "filter_chain_matcher"},
		"a network that may lead nowhere": {func(l *listenerv3.Listener) {
			tree := &matcherv3.IPMatcher{}
			custom := l.GetFilterChainMatcher().GetMatcherTree().GetCustomMatch()
			if err := custom.GetTypedConfig().UnmarshalTo(tree); err != nil {
				t.Fatal(err)
			}
			tree.RangeMatchers = append(tree.RangeMatchers, &matcherv3.IPMatcher_IPRangeMatcher{
				Ranges: []*xdscorev3.CidrRange{{AddressPrefix: "203.0.113.7"}},
				OnMatch: &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Matcher{Matcher: &matcherv3.Matcher{
					MatcherType: &matcherv3.Matcher_MatcherTree_{MatcherTree: &matcherv3.Matcher_MatcherTree{
						Input: l.GetFilterChainMatcher().GetOnNoMatch().GetMatcher().GetMatcherTree().GetInput(), TreeType: &matcherv3.Matcher_MatcherTree_ExactMatchMap{
							ExactMatchMap: &matcherv3.Matcher_MatcherTree_MatchMap{Map: map[string]*matcherv3.Matcher_OnMatch{"1": tree.GetRangeMatchers()[0].GetOnMatch()}},
						},
					}},
				}}},
			})
			a, err := anypb.New(tree)
			if err != nil {
				t.Fatal(err)
			}
			custom.TypedConfig = a
		}, "it may lead nowhere"},
	} {
		resources := outsideResources(t, false)
		const url = "type.googleapis.com/envoy.config.listener.v3.Listener"
		l := &listenerv3.Listener{}
		if err := resources[url][outboundListener].UnmarshalTo(l); err != nil {
			t.Fatal(err)
		}
		c.change(l)
		a, err := anypb.New(l)
		if err != nil {
			t.Fatal(err)
		}
		resources[url][outboundListener] = a
		if _, err := intake.Compile(resources, time.Now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
