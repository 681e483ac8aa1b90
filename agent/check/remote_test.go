// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
)

// otherNode answers for the servers: what they know of the node n2.
type otherNode struct {
	mu        sync.Mutex
	fault     bool
	services  string // null: the node is unknown
	checks    string
	index     int
	asked     int
	tokens    map[string]bool
	waits     map[string]bool
	news      chan struct{}
	elsewhere []string
}

// questions counts what was asked.
func (o *otherNode) questions() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

func (o *otherNode) set(services, checks string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.services, o.checks = services, checks
	o.index++
	if o.news != nil {
		close(o.news)
		o.news = nil
	}
}

func (o *otherNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.asked++
	o.tokens[r.Header.Get("X-Consul-Token")] = true
	q := r.URL.Query()
	if wait, err := time.ParseDuration(q.Get("wait")); err == nil && q.Get("index") == fmt.Sprint(o.index) {
		o.waits[q.Get("wait")] = true
		if o.news == nil {
			o.news = make(chan struct{}) // of the test's bubble
		}
		news := o.news
		o.mu.Unlock()
		select {
		case <-news:
		case <-time.After(wait):
		case <-r.Context().Done():
			return
		}
		o.mu.Lock()
	}
	defer o.mu.Unlock()
	if o.fault {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Consul-Index", fmt.Sprint(o.index))
	switch r.URL.Path {
	case "/v1/catalog/node-services/n2":
		fmt.Fprint(w, o.services)
	case "/v1/health/node/n2":
		fmt.Fprint(w, o.checks)
	default:
		o.elsewhere = append(o.elsewhere, r.URL.Path)
	}
}

// An alias of another node's service follows what the servers know of it, with the token of its registration, and while they can't
// be asked it is critical.
func TestAliasOfAnotherNode(t *testing.T) {
	o := &otherNode{services: "null", checks: "[]", index: 1, tokens: map[string]bool{}, waits: map[string]bool{}}
	bubbleWith(t, o, func(t *testing.T, s *local.State, _ *Runner) {
		must(t, s.RegisterCheck(local.CheckDefinition{Name: "a", AliasNode: "n2", AliasService: "web"}, "secret"))
		must(t, s.RegisterCheck(local.CheckDefinition{Name: "node", AliasNode: "n2"}, "secret"))
		want := func(id, want, text string) {
			t.Helper()
			time.Sleep(2 * remoteGap)
			synctest.Wait()
			if got, output := status(s, id); got != want || !strings.Contains(output, text) {
				t.Errorf("%s: %s %q, want %s with %q", id, got, output, want, text)
			}
		}
		check := func(id, service, status, kind string) string {
			return fmt.Sprintf(`{"CheckID":%q,"ServiceID":%q,"Status":%q,"Type":%q,"Output":"because"}`, id, service, status, kind)
		}
		want("a", catalog.HealthCritical, "Service web could not be found on node n2")
		want("node", catalog.HealthCritical, "Node n2 could not be found")
		o.set(`{"Services":[{"ID":"web"},{"ID":"db"}]}`, "[]")
		time.Sleep(absentWait)
		want("a", catalog.HealthPassing, "No checks found.")
		bad := check("d1", "db", "critical", "ttl") + "," + check("x", "web", "critical", "alias")
		o.set(o.services, "["+bad+","+check("w1", "web", "warning", "ttl")+"]")
		want("a", catalog.HealthWarning, `Aliased check "w1" warning: because`)
		want("node", catalog.HealthPassing, "No checks found.")
		o.set(o.services, "["+bad+","+check("w1", "web", "warning", "ttl")+","+check("serfHealth", "", "critical", "")+"]")
		want("a", catalog.HealthCritical, `Aliased check "serfHealth" failing: because`)
		want("node", catalog.HealthCritical, `Aliased check "serfHealth" failing: because`)
		o.set(o.services, "["+bad+","+check("w1", "web", "passing", "ttl")+"]")
		want("a", catalog.HealthPassing, "All checks passing.")

		o.mu.Lock()
		o.fault, o.asked = true, 0
		o.mu.Unlock()
		o.set(o.services, o.checks)
		want("a", catalog.HealthCritical, "Failure checking aliased node or service: /v1/")
		time.Sleep(10 * time.Minute)
		if n := o.questions(); n > 50 {
			t.Errorf("asked %d times while there is no answer", n)
		}
		o.mu.Lock()
		o.fault = false
		o.mu.Unlock()
		time.Sleep(remoteLastTry)
		want("a", catalog.HealthPassing, "All checks passing.")
		asked := o.questions()
		time.Sleep(10 * time.Minute)
		if n := o.questions() - asked; n > 50 {
			t.Errorf("asked %d times in ten minutes without news", n)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if !o.waits[remoteWait.String()] || !o.waits[absentWait.String()] || len(o.tokens) != 1 || !o.tokens["secret"] || len(o.elsewhere) > 0 {
			t.Errorf("waits %v, tokens %v, asked %v", o.waits, o.tokens, o.elsewhere)
		}
	})
}
