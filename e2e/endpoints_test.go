// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

var endpointRows = []Row{
	{Name: "endpoint added drained and removed", Run: addedDrainedRemoved},
	{Name: "endpoint removed under load", Run: removedUnderLoad},
	{
		Name: "sidecar stopped under load", Run: stoppedUnderLoad,
		Differs: map[Kind]string{
			Envoy: "it ends at once: what is in flight there is lost, and its callers try the same instance again until a check has failed",
			Host:  "one of its proxies ends by being deregistered, which is the row before",
		},
	},
	{
		Name: "endpoint killed", Run: endpointKilled,
		Differs: map[Kind]string{Host: "both sidecars are one process, which can't be killed for one of them: the application alone is killed"},
	},
}

// second adds another instance of api, with a backend of its own.
func (p *pair) second(id string) (*Instance, *Backend) {
	p.t.Helper()
	b := httpBackend(p.t, id)
	return p.instance("api", id, b.Port), b
}

// used waits until a backend has got n more requests.
func used(t *testing.T, b *Backend, n int) {
	t.Helper()
	from := b.count()
	until(t, 10*time.Second, func() error {
		if got := b.count() - from; got < n {
			return fmt.Errorf("%s got %d more requests, want %d", b.name, got, n)
		}
		return nil
	})
}

// unused waits until a backend gets no request while the load has 50 answered.
func unused(t *testing.T, l *Load, b *Backend) {
	t.Helper()
	until(t, 10*time.Second, func() error {
		from := b.count()
		l.more(50)
		if b.count() != from {
			return fmt.Errorf("%s still gets requests", b.name)
		}
		return nil
	})
}

func addedDrainedRemoved(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	l := load(t, "http://"+p.addr+"/echo", 200)
	l.more(20)
	two, b2 := p.second("api-2")
	used(t, b2, 10)
	p.put("/v1/agent/service/maintenance/"+p.api.ID+"?enable=true&reason=drained", nil)
	unused(t, l, p.backend)
	p.remove(p.api)
	l.more(50)
	_, b3 := p.second("api-3")
	used(t, b3, 10)
	p.put("/v1/agent/service/maintenance/"+two.ID+"?enable=true", nil)
	unused(t, l, b2)
	p.put("/v1/agent/service/maintenance/"+two.ID+"?enable=false", nil)
	used(t, b2, 10)
	if err := l.agree(nil, p.backend, b2, b3); err != nil {
		t.Error(err)
	}
}

// removedUnderLoad takes an instance away that is in use: deregistered, then its sidecar stopped as an operator stops it.
func removedUnderLoad(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	two, b2 := p.second("api-2")
	l := load(t, "http://"+p.addr+"/echo", 200)
	used(t, b2, 10)
	p.deregister(two)
	unused(t, l, b2)
	p.remove(two)
	l.more(50)
	if err := l.agree(nil, p.backend, b2); err != nil {
		t.Error(err)
	}
}

// stoppedUnderLoad stops a sidecar that is in use, and that nobody has been told of: its callers lose nothing, and come back when it
// does.
func stoppedUnderLoad(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	two, b2 := p.second("api-2")
	l := load(t, "http://"+p.addr+"/slow", 100)
	used(t, b2, 10)
	if w.Kind == Host {
		p.deregister(two)
		unused(t, l, b2)
	} else if err := two.sidecar.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	l.more(50)
	if w.Kind == Builtin {
		two.sidecar = p.runSidecar(w.Kind, two)
		used(t, b2, 10)
	}
	err := l.agree(func(_ string, r result) bool { return w.Kind == Envoy && r.err != nil }, p.backend, b2)
	if err != nil {
		t.Error(err)
	}
}

func endpointKilled(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	p.entry("service-router", "api", object{"Routes": []object{{"Destination": object{
		"NumRetries": 5, "RetryOnConnectFailure": true, "RetryOnStatusCodes": []int{http.StatusServiceUnavailable}, "RetryOtherHost": true,
	}}}})
	// Half of the calls have to be tried again until a check has failed: more than the budget that holds where nobody asks for another.
	p.entry("service-resolver", "api", object{"Limits": object{"RetryBudget": object{"Percent": 100, "MinConcurrent": 100}}})
	two, b2 := p.second("api-2")
	until(t, 5*time.Second, func() error { return p.settled(p.web) })
	l := load(t, "http://"+p.addr+"/slow", 100)
	used(t, b2, 20)
	begin := time.Now()
	if two.sidecar != nil {
		two.sidecar.kill()
	}
	b2.stop()
	end := time.Now()
	unused(t, l, b2)
	l.more(100)
	b2.mu.Lock()
	reached := map[string]bool{}
	for id := range b2.seen {
		reached[id] = !b2.answered[id]
	}
	b2.mu.Unlock()
	lost := map[string]bool{}
	err := l.agree(func(id string, r result) bool {
		there := reached[id] || r.begun.Before(end) && r.ended.After(begin)
		if there && r.err != nil {
			lost[id] = true
		}
		return there
	}, p.backend, b2)
	if err != nil {
		t.Error(errors.Join(errors.New("more than what was in flight to the killed endpoint"), err))
	}
	t.Logf("%d requests that were in flight there are lost", len(lost))
}
