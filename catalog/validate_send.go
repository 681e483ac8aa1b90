// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

func share(field string, p *float64) error {
	if p != nil && (math.IsNaN(*p) || *p < 0 || *p > 100) {
		return invalidf("%s is a percentage: from 0 to 100, got %g", field, *p)
	}
	return nil
}

func positive(field string, d time.Duration) error {
	if d < 0 {
		return invalidf("%s must not be negative", field)
	}
	return nil
}

func (r *HTTPRedirect) validate(f string, rewritable bool) error {
	if r == nil {
		return nil
	}
	switch {
	case *r == HTTPRedirect{Status: r.Status}:
		return invalidf("%s should say where to: Scheme, Host, Port, Path, PrefixRewrite or StripQuery", f)
	case r.Path != "" && r.PrefixRewrite != "":
		return invalidf("%s: Path and PrefixRewrite exclude each other", f)
	case r.PrefixRewrite != "" && !rewritable:
		return invalidf("%s cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix", f)
	case r.Path != "" && r.Path[0] != '/':
		return invalidf("%s.Path doesn't start with '/': %q", f, r.Path)
	case r.Port < 0 || r.Port > 65535:
		return invalidf("%s.Port %d is no port; it must be from 1 to 65535", f, r.Port)
	case r.Status != 0 && !slices.Contains([]int{301, 302, 303, 307, 308}, r.Status):
		return invalidf("%s.Status %d is none of 301, 302, 303, 307, 308", f, r.Status)
	}
	return oneOf(f+".Scheme", r.Scheme, "", "http", "https")
}

func (r *HTTPResponse) validate(f string) error {
	switch {
	case r == nil:
		return nil
	case r.Status < 200 || r.Status > 599:
		return invalidf("%s.Status %d is no status of an answer; it must be from 200 to 599", f, r.Status)
	case len(r.Body) > 4096:
		return invalidf("%s.Body has %d bytes, more than 4096", f, len(r.Body))
	}
	return nil
}

// validateSend checks what a destination changes of requests, and whom else it tells.
func (d *ServiceRouteDestination) validateSend(f string) error {
	if count(d.PrefixRewrite != "", d.PathRewrite != "", d.RegexRewrite != nil) > 1 {
		return invalidf("%s: PrefixRewrite, PathRewrite and RegexRewrite exclude each other", f)
	}
	if d.PathRewrite != "" && d.PathRewrite[0] != '/' {
		return invalidf("%s.PathRewrite doesn't start with '/': %q", f, d.PathRewrite)
	}
	if r := d.RegexRewrite; r != nil {
		if r.Regex == "" {
			return invalidf("%s.RegexRewrite.Regex is required", f)
		}
		if err := pattern(f+".RegexRewrite.Regex", r.Regex); err != nil {
			return err
		}
	}
	if strings.ContainsAny(d.HostRewrite, " /?#") {
		return invalidf("%s.HostRewrite %q is no host", f, d.HostRewrite)
	}
	for i, m := range d.Mirror {
		at := fmt.Sprintf("%s.Mirror[%d]", f, i)
		if m.Service+m.ServiceSubset == "" {
			return invalidf("%s: name a Service, a ServiceSubset, or both", at)
		}
		if err := share(at+".Percent", m.Percent); err != nil {
			return err
		}
	}
	if c := d.CORS; c != nil {
		if len(c.AllowOrigins) == 0 {
			return invalidf("%s.CORS.AllowOrigins: name at least one", f)
		}
		for i := range c.AllowOrigins {
			if err := c.AllowOrigins[i].validate(fmt.Sprintf("%s.CORS.AllowOrigins[%d]", f, i)); err != nil {
				return err
			}
		}
		if err := firstError(methods(f+".CORS.AllowMethods", c.AllowMethods), positive(f+".CORS.MaxAge", c.MaxAge)); err != nil {
			return err
		}
	}
	return nil
}

// validateEndure checks times and retries.
func (d *ServiceRouteDestination) validateEndure(f string) error {
	err := firstError(positive(f+".PerTryTimeout", d.PerTryTimeout), positive(f+".MaxStreamDuration", d.MaxStreamDuration),
		methods(f+".RetryMethods", d.RetryMethods))
	retries := len(d.RetryOn) > 0 || len(d.RetryOnStatusCodes) > 0 || d.RetryOnConnectFailure
	switch {
	case err != nil:
		return err
	case d.RequestTimeout > 0 && d.PerTryTimeout > d.RequestTimeout:
		return invalidf("%s.PerTryTimeout %s is above RequestTimeout %s: it would never be over first", f, d.PerTryTimeout, d.RequestTimeout)
	case !retries && (d.RetryBackOff != nil || d.RetryOtherHost || len(d.RetryMethods) > 0 || d.RetryBodyBytes > 0):
		return invalidf("%s: RetryBackOff, RetryOtherHost, RetryMethods and RetryBodyBytes need RetryOn, RetryOnStatusCodes or RetryOnConnectFailure", f)
	case d.RetryBackOff != nil && (d.RetryBackOff.Base <= 0 || d.RetryBackOff.Max < 0):
		return invalidf("%s.RetryBackOff.Base must be above 0, and Max not negative", f)
	case d.RetryBackOff != nil && d.RetryBackOff.Max > 0 && d.RetryBackOff.Max < d.RetryBackOff.Base:
		return invalidf("%s.RetryBackOff.Max %s is below Base %s", f, d.RetryBackOff.Max, d.RetryBackOff.Base)
	case d.Hedge && (d.PerTryTimeout == 0 || d.NumRetries == 0 || len(d.RetryOn)+len(d.RetryOnStatusCodes) == 0):
		return invalidf("%s.Hedge needs PerTryTimeout, NumRetries, and RetryOn or RetryOnStatusCodes: it sends again what may be under way", f)
	case d.RetryAfterMax != 0 && (d.RetryAfterMax < time.Second || len(d.RetryOn)+len(d.RetryOnStatusCodes) == 0):
		return invalidf("%s.RetryAfterMax %s must be at least 1s, and needs RetryOn or RetryOnStatusCodes", f, d.RetryAfterMax)
	case d.RetryBodyBytes > 16<<20:
		return invalidf("%s.RetryBodyBytes %d is more than 16 MiB", f, d.RetryBodyBytes)
	}
	return nil
}

func (x *Fault) validate(f string) error {
	if x == nil {
		return nil
	}
	if x.Delay == nil && x.Abort == nil && x.Bandwidth == nil {
		return invalidf("%s should have a Delay, an Abort or a Bandwidth", f)
	}
	m := &ServiceRouteHTTPMatch{Header: x.Header}
	if err := m.validate(f); err != nil {
		return err
	}
	if d := x.Delay; d != nil {
		if d.Duration <= 0 {
			return invalidf("%s.Delay.Duration must be above 0", f)
		}
		if err := share(f+".Delay.Percent", d.Percent); err != nil {
			return err
		}
	}
	if a := x.Abort; a != nil {
		switch {
		case count(a.Status != 0, a.GRPCStatus != nil, a.Reset) != 1:
			return invalidf("%s.Abort should contain exactly one of Status, GRPCStatus, or Reset", f)
		case a.Status != 0 && (a.Status < 200 || a.Status > 599):
			return invalidf("%s.Abort.Status %d is no status of an answer; it must be from 200 to 599", f, a.Status)
		case a.GRPCStatus != nil && *a.GRPCStatus > 16:
			return invalidf("%s.Abort.GRPCStatus %d is no status of gRPC; it must be from 0 to 16", f, *a.GRPCStatus)
		}
		if err := share(f+".Abort.Percent", a.Percent); err != nil {
			return err
		}
	}
	if b := x.Bandwidth; b != nil {
		if b.KiBPerSecond < 1 {
			return invalidf("%s.Bandwidth.KiBPerSecond must be at least 1, got %d", f, b.KiBPerSecond)
		}
		return share(f+".Bandwidth.Percent", b.Percent)
	}
	return nil
}
