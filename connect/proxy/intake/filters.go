// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// The URLs of filters that routes set up.
const (
	corsURL       = typePrefix + "extensions.filters.http.cors.v3.Cors"
	corsPolicyURL = typePrefix + "extensions.filters.http.cors.v3.CorsPolicy"
	faultURL      = typePrefix + "extensions.filters.http.fault.v3.HTTPFault"
)

// The fields of their messages that are read.
const (
	mirrorFields = "cluster runtime_fraction"
	corsFields   = "allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials"
	faultFields  = "delay abort headers response_rate_limit"
)

// shareOf is a fraction; none is everything.
func shareOf(p *typev3.FractionalPercent) config.Share {
	if p == nil {
		return config.Whole
	}
	each := map[typev3.FractionalPercent_DenominatorType]uint64{
		typev3.FractionalPercent_HUNDRED: 10_000, typev3.FractionalPercent_TEN_THOUSAND: 100, typev3.FractionalPercent_MILLION: 1,
	}[p.GetDenominator()]
	return config.Share(min(uint64(p.GetNumerator())*each, uint64(config.Whole)))
}

func compileCORS(a *anypb.Any) (*config.CORS, error) {
	m, err := read[*corsv3.CorsPolicy](a)
	if err != nil {
		return nil, err
	}
	if err := only(m, corsFields); err != nil {
		return nil, err
	}
	c := &config.CORS{
		Methods: m.GetAllowMethods(), Headers: m.GetAllowHeaders(), Expose: m.GetExposeHeaders(), MaxAge: m.GetMaxAge(),
		Credentials: m.GetAllowCredentials().GetValue(),
	}
	for _, o := range m.GetAllowOriginStringMatch() {
		s, err := compileString(o)
		if err != nil {
			return nil, err
		}
		c.Origins = append(c.Origins, s)
	}
	return c, nil
}

func compileFault(a *anypb.Any) (*config.Fault, error) {
	m, err := read[*faultv3.HTTPFault](a)
	if err != nil {
		return nil, err
	}
	if err := only(m, faultFields); err != nil {
		return nil, err
	}
	f := &config.Fault{}
	for _, h := range m.GetHeaders() {
		hm, err := compileHeader(h)
		if err != nil {
			return nil, err
		}
		f.Headers = append(f.Headers, *hm)
	}
	if d := m.GetDelay(); d != nil {
		if d.GetFixedDelay() == nil {
			return nil, errors.New("delay: want fixed_delay")
		}
		f.Delay, f.DelayShare = d.GetFixedDelay().AsDuration(), shareOf(d.GetPercentage())
	}
	if ab := m.GetAbort(); ab != nil {
		f.AbortShare = shareOf(ab.GetPercentage())
		switch e := ab.GetErrorType().(type) {
		case *faultv3.FaultAbort_HttpStatus:
			f.AbortStatus = int(e.HttpStatus)
		case *faultv3.FaultAbort_GrpcStatus:
			f.AbortStatus, f.AbortByGRPC, f.AbortGRPC = 200, true, int(e.GrpcStatus)
		default:
			return nil, errors.New("abort: want http_status or grpc_status")
		}
	}
	if l := m.GetResponseRateLimit(); l != nil {
		if l.GetFixedLimit() == nil {
			return nil, errors.New("response_rate_limit: want fixed_limit")
		}
		f.Rate, f.RateShare = int64(l.GetFixedLimit().GetLimitKbps())<<10, shareOf(l.GetPercentage())
	}
	return f, nil
}

// methodsOf reads a match of methods in the one form that is known: names, with | between them.
func methodsOf(m *routev3.HeaderMatcher) ([]string, error) {
	expr := m.GetStringMatch().GetSafeRegex().GetRegex()
	if m.GetName() != ":method" || m.GetInvertMatch() || !plainMethods.MatchString(expr) {
		return nil, errors.New("want a safe_regex of methods alone, as GET|PUT")
	}
	return strings.Split(strings.ReplaceAll(expr, `\`, ""), "|"), nil
}

var plainMethods = regexp.MustCompile(`^[A-Z\\-]+(\|[A-Z\\-]+)*$`)
