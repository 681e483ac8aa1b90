// SPDX-License-Identifier: Apache-2.0

package exchange

// take is pick, for one who uses the endpoint. One that is on probation, because it was ejected, is used by one at a time; proving
// says that this is such a use, and proved must follow.
func (v *clusterView) take(c *choice) (e *endpoint, proving bool) {
	for range len(v.endpoints) + 1 {
		e := v.pick(c)
		if e == nil || !e.trial.Load() || c.panic {
			return e, false
		}
		if e.probing.CompareAndSwap(false, true) {
			return e, true
		}
	}
	return nil, false
}

// proved ends a use of an endpoint on probation. Whether it has passed is for report.
func (v *clusterView) proved(e *endpoint, proving bool) {
	if proving {
		e.probing.Store(false)
	}
}

// judged ends an endpoint's probation if it has succeeded, and ejects it again if not. It says whether it was on probation.
func (v *clusterView) judged(e *endpoint, r outcome) bool {
	if !e.trial.Load() || e.ejected(v.state.engine.now()) {
		return false
	}
	if r == succeeded {
		e.trial.Store(false)
	} else {
		v.eject(e, 100)
	}
	return true
}
