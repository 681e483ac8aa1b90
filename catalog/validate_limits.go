// SPDX-License-Identifier: Apache-2.0

package catalog

func (l *UpstreamLimits) validate(f string) error {
	if l == nil {
		return nil
	}
	at := func(field string, v *int) error {
		if v == nil {
			return nil
		}
		return notNegative(f+"."+field, *v)
	}
	return firstError(at("MaxConnections", l.MaxConnections), at("MaxPendingRequests", l.MaxPendingRequests),
		at("MaxConcurrentRequests", l.MaxConcurrentRequests), at("MaxRequestsPerConnection", l.MaxRequestsPerConnection),
		at("MaxConcurrentRetries", l.MaxConcurrentRetries), l.RetryBudget.validate(f+".RetryBudget", l.MaxConcurrentRetries != nil))
}

func (b *RetryBudget) validate(f string, fixed bool) error {
	switch {
	case b == nil:
		return nil
	case fixed:
		return invalidf("%s and MaxConcurrentRetries exclude each other", f)
	case b.MinConcurrent != nil && *b.MinConcurrent < 0:
		return invalidf("%s.MinConcurrent must not be negative, got %d", f, *b.MinConcurrent)
	}
	return share(f+".Percent", b.Percent)
}

func percent(field string, v *uint32) error {
	if v != nil && *v > 100 {
		return invalidf("%s is a percentage: at most 100, got %d", field, *v)
	}
	return nil
}

func (p *PassiveHealthCheck) validate(f string) error {
	if p == nil {
		return nil
	}
	switch {
	case p.Interval < 0:
		return invalidf("%s.Interval must not be negative", f)
	case p.BaseEjectionTime != nil && *p.BaseEjectionTime < 0:
		return invalidf("%s.BaseEjectionTime must not be negative", f)
	case p.MaxEjectionTime != nil && *p.MaxEjectionTime <= 0:
		return invalidf("%s.MaxEjectionTime must be above 0", f)
	case p.MaxEjectionTime != nil && p.BaseEjectionTime != nil && *p.MaxEjectionTime < *p.BaseEjectionTime:
		return invalidf("%s.MaxEjectionTime %s is below BaseEjectionTime %s", f, *p.MaxEjectionTime, *p.BaseEjectionTime)
	case p.SuccessRate != nil && (p.SuccessRate.Deviation < 0 || p.SuccessRate.Deviation > 100):
		return invalidf("%s.SuccessRate.Deviation must be from 0 to 100, got %g", f, p.SuccessRate.Deviation)
	case p.EjectionJitter < 0:
		return invalidf("%s.EjectionJitter must not be negative", f)
	case len(p.FailureStatusCodes) > 0 && p.MaxGatewayFailures > 0:
		return invalidf("%s: FailureStatusCodes and MaxGatewayFailures exclude each other: all of these codes are counted alike", f)
	}
	for i, code := range p.FailureStatusCodes {
		if code < 200 || code > 599 {
			return invalidf("%s.FailureStatusCodes[%d]: %d is no status of an answer; it must be from 200 to 599", f, i, code)
		}
	}
	err := firstError(percent(f+".EnforcingConsecutive5xx", p.EnforcingConsecutive5xx), percent(f+".MaxEjectionPercent", p.MaxEjectionPercent))
	if p.FailurePercentage != nil {
		err = firstError(err, percent(f+".FailurePercentage.Threshold", &p.FailurePercentage.Threshold))
	}
	return err
}
