// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// How an alias of another node asks the servers.
const (
	remoteWait    = time.Minute      // for news of the node's checks
	absentWait    = 10 * time.Second // the same while the service isn't there, whose coming is no news of checks
	remoteGap     = time.Second      // between two questions, and before the first of another try
	remoteLastTry = time.Minute      // the longest time before another try
	maxRemote     = 16 << 20         // bytes of an answer
)

// followRemote repeats the worst status of the checks of another node, or of a service there.
func (r *Runner) followRemote(ctx context.Context, id string, d *local.CheckDefinition) {
	again, seen := remoteGap, remote{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now, err := r.remote(ctx, id, d, seen)
		if ctx.Err() != nil {
			return
		}
		if seen = now; err != nil {
			r.set(id, catalog.HealthCritical, "Failure checking aliased node or service: "+err.Error())
			timer.Reset(again)
			again = min(2*again, remoteLastTry)
			continue
		}
		r.set(id, now.status, now.output)
		again = remoteGap
		timer.Reset(remoteGap)
	}
}

// remote is what an alias of another node has seen there.
type remote struct {
	index          uint64 // news of the checks can be waited for after it; 0: they can't
	there          bool   // the node, and the service if one is followed
	status, output string
}

// remote asks once, and waits for news of what was seen before.
func (r *Runner) remote(ctx context.Context, id string, d *local.CheckDefinition, seen remote) (now remote, err error) {
	token, node, q := r.tokenOf(id), url.PathEscape(d.AliasNode), url.Values{}
	if seen.index > 0 {
		wait := absentWait
		if seen.there {
			wait = remoteWait
		}
		q.Set("index", strconv.FormatUint(seen.index, 10))
		q.Set("wait", wait.String())
	}
	var checks []api.CheckView
	own := url.Values{}
	if ns := r.namespaceOf(id); ns != "" {
		q.Set("ns", ns)
		own.Set("ns", ns)
	}
	if now.index, err = r.get(ctx, token, "/v1/health/node/"+node, q, &checks); err != nil {
		return remote{}, err
	}
	var on *struct{ Services []struct{ ID string } }
	if _, err = r.get(ctx, token, "/v1/catalog/node-services/"+node, own, &on); err != nil {
		return remote{}, err
	}
	now.there = on != nil && d.AliasService == ""
	if on != nil {
		for _, s := range on.Services {
			now.there = now.there || s.ID == d.AliasService
		}
	}
	if !now.there {
		now.status, now.output = catalog.HealthCritical, fmt.Sprintf("Service %s could not be found on node %s", d.AliasService, d.AliasNode)
		if d.AliasService == "" {
			now.output = "Node " + d.AliasNode + " could not be found"
		}
		return now, nil
	}
	var worst worst
	for _, c := range checks {
		if (c.ServiceID == "" || c.ServiceID == d.AliasService) && c.Type != local.TypeAlias {
			worst.add(c.CheckID, c.Status, c.Output)
		}
	}
	now.status, now.output = worst.result()
	return now, nil
}

// namespaceOf is the namespace that a check is in, "" for the default one: what it follows is there too.
func (r *Runner) namespaceOf(id string) string {
	wanted, _ := r.state.Wanted()
	if c, ok := wanted.Checks[id]; ok {
		return api.Shown(c.Record.Namespace)
	}
	return ""
}

// tokenOf is the token that a check was registered with.
func (r *Runner) tokenOf(id string) string {
	wanted, _ := r.state.Wanted()
	if c, ok := wanted.Checks[id]; ok {
		return c.Token
	}
	return ""
}

// get asks the servers, any of them, and reads the answer into v.
func (r *Runner) get(ctx context.Context, token, path string, q url.Values, v any) (index uint64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1"+path, nil)
	if err != nil {
		return 0, err
	}
	q.Set("stale", "")
	req.URL.RawQuery = q.Encode()
	req.RemoteAddr = "127.0.0.1:0"
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	w := api.Record(r.servers, req, maxRemote)
	switch {
	case w.TooLong:
		return 0, fmt.Errorf("%s: the answer is longer than %d MiB", path, maxRemote>>20)
	case w.Code != http.StatusOK:
		return 0, fmt.Errorf("%s: %d %s", path, w.Code, bytes.TrimSpace(w.Body.Bytes()[:min(w.Body.Len(), 200)]))
	}
	if err := json.Unmarshal(w.Body.Bytes(), v); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	index, _ = strconv.ParseUint(w.Header().Get("X-Consul-Index"), 10, 64) // 0: nothing can be waited for
	return index, nil
}

// worst puts together what the checks that an alias follows say.
type worst struct {
	some           bool
	status, output string
}

func (w *worst) add(id, status, output string) {
	w.some = true
	switch {
	case status == catalog.HealthCritical && w.status != status:
		w.status, w.output = status, "Aliased check \""+id+"\" failing: "+output
	case status == catalog.HealthWarning && w.status == "":
		w.status, w.output = status, "Aliased check \""+id+"\" warning: "+output
	}
}

func (w *worst) result() (status, output string) {
	switch {
	case !w.some:
		return catalog.HealthPassing, "No checks found."
	case w.status == "":
		return catalog.HealthPassing, "All checks passing."
	}
	return w.status, w.output
}
