// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"slices"
	"time"

	adaptivev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/adaptive_concurrency/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

const adaptiveURL = typePrefix + "extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency"

func compileAdaptive(h *config.HTTP, a *anypb.Any) error {
	m, err := read[*adaptivev3.AdaptiveConcurrency](a)
	if err != nil {
		return err
	}
	if err := only(m, "gradient_controller_config"); err != nil {
		return err
	}
	g := m.GetGradientControllerConfig()
	l, b := g.GetConcurrencyLimitParams(), g.GetMinRttCalcParams()
	if err := errors.Join(only(g, "concurrency_limit_params min_rtt_calc_params"), only(b, "interval request_count min_concurrency")); err != nil {
		return err
	}
	number := func(v interface{ GetValue() uint32 }, def int) int {
		if n := v.GetValue(); n > 0 {
			return int(n)
		}
		return def
	}
	every := b.GetInterval().AsDuration()
	if every == 0 {
		every = time.Minute
	}
	h.Adaptive = config.NewAdaptive(number(b.GetMinConcurrency(), 3), number(l.GetMaxConcurrencyLimit(), 1000),
		l.GetConcurrencyUpdateInterval().AsDuration(), every, number(b.GetRequestCount(), 50))
	return nil
}

// flagReasons are the reasons that stand for Envoy's flags of requests that no instance answered.
func flagReasons() map[string][]reason.Code {
	return map[string][]reason.Code{
		"UO": {reason.UpstreamOverflow}, "UH": {reason.NoHealthyUpstream}, "UF": {reason.UpstreamConnectFailure, reason.UpstreamTLSFailure},
		"UMSDR": {reason.UpstreamTimeout}, "UT": {reason.UpstreamTimeout}, "UPE": {reason.UpstreamProtocol}, "UC": {reason.UpstreamReset},
		"UR": {reason.UpstreamReset},
	}
}

// fallbacks reads answers that stand in for the proxy's own. Mappers that only add to them are Envoy's way to say the reason.
func fallbacks(m *hcmv3.LocalReplyConfig) ([]config.Fallback, error) {
	if m.GetBodyFormat() != nil {
		return nil, errors.New("body_format: not known to this proxy")
	}
	var out []config.Fallback
	known := flagReasons()
	for i, p := range m.GetMappers() {
		if p.GetStatusCode() == nil && p.GetBody() == nil && p.GetBodyFormatOverride() == nil {
			continue
		}
		flags := p.GetFilter().GetResponseFlagFilter().GetFlags()
		if err := only(p, "filter status_code body headers_to_add"); err != nil || len(flags) == 0 {
			return nil, fmt.Errorf("mappers[%d]: this proxy knows a status and a body for response flags alone: %w", i, err)
		}
		f := config.Fallback{Status: int(p.GetStatusCode().GetValue()), Body: []byte(p.GetBody().GetInlineString())}
		for _, flag := range flags {
			if known[flag] == nil {
				return nil, fmt.Errorf("mappers[%d]: the flag %s isn't known to this proxy", i, flag)
			}
			for _, code := range known[flag] {
				f.Reasons = append(f.Reasons, string(code))
			}
		}
		slices.Sort(f.Reasons)
		out = append(out, f)
	}
	return out, nil
}
