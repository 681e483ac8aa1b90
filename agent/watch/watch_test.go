// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// told is a URL that handlers tell; it hands on what it got.
func told(t *testing.T) (string, chan string) {
	t.Helper()
	got := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Header.Get("X-Consul-Index") + " " + r.Header.Get("X-Own") + " " + string(body)
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

// changing is an API whose answer changes when it is told to; blocking reads wait for that.
type changing struct {
	mu      sync.Mutex
	index   int
	body    string
	changed chan struct{}
	asked   []string
}

func (c *changing) set(body string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index, c.body = c.index+1, body
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *changing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.asked = append(c.asked, r.URL.String()+" "+r.Header.Get("X-Consul-Token"))
	for r.URL.Query().Get("index") == fmt.Sprint(c.index) {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	w.Header().Set("X-Consul-Index", fmt.Sprint(c.index))
	if c.body == "" {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = io.WriteString(w, c.body)
}

func running(t *testing.T, c Config) *Runner {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// A handler gets each state once: a key as itself, what isn't there as null; a wake without a change tells nobody.
func TestFollow(t *testing.T) {
	url, got := told(t)
	api := &changing{index: 1, changed: make(chan struct{})}
	d := Definition{
		Type: "key", Key: "a b/c", Token: "secret", HandlerType: "http",
		HTTPHandlerConfig: HTTPHandler{Path: url, Header: map[string][]string{"x-own": {"yes"}}},
	}
	r := running(t, Config{API: api, Watches: []Definition{d}})
	if s := <-got; s != "1 yes null" {
		t.Errorf("first %q", s)
	}
	api.set(`[{"Key":"a b/c"}]`)
	if s := <-got; s != `2 yes {"Key":"a b/c"}` {
		t.Errorf("then %q", s)
	}
	api.set(`[{"Key":"a b/c"}]`) // the same
	api.set("")
	if s := <-got; s != "4 yes null" {
		t.Errorf("then %q", s)
	}
	api.mu.Lock()
	first := api.asked[0]
	api.mu.Unlock()
	if first != "http://127.0.0.1/v1/kv/a%20b/c secret" {
		t.Errorf("asked %q", first)
	}
	other := d
	other.HTTPHandlerConfig.Header = nil
	r.Set([]Definition{d, other}) // the first goes on, the second begins
	if s := <-got; s != "4  null" {
		t.Errorf("after a reload %q", s)
	}
}

// A program gets the document on its standard input and the index in its environment.
func TestScript(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out")
	out, err := Execute(t.Context(), nil, "cat > "+file+"; echo $CONSUL_INDEX; cat "+file, []string{"CONSUL_INDEX=7"}, []byte(`{"a":1}`))
	if err != nil || out != "7\n{\"a\":1}" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err = Execute(t.Context(), []string{"/bin/sh", "-c", "echo no; exit 3"}, "", nil, nil); err == nil || !strings.Contains(err.Error(), "exit status 3: no") {
		t.Errorf("%v", err)
	}
}

func TestDefinitions(t *testing.T) {
	script := []string{"true"}
	for _, c := range []struct {
		d    Definition
		want string // the request, or a part of the error
	}{
		{Definition{Type: "services", Args: script, Stale: true, Datacenter: "dc2"}, "/v1/catalog/services?dc=dc2&stale="},
		{Definition{Type: "service", Service: "a/b", Tag: []string{"x", "y"}, PassingOnly: true, Handler: "true"}, "/v1/health/service/a%2Fb?passing=1&tag=x&tag=y"},
		{Definition{Type: "checks", Args: script}, "/v1/health/state/any?"},
		{Definition{Type: "checks", State: "critical", Args: script}, "/v1/health/state/critical?"},
		{Definition{Type: "keyprefix", Prefix: "a/", Args: script}, "/v1/kv/a/?recurse="},
		{Definition{Type: "event", Name: "deploy", Args: script}, "/v1/event/list?name=deploy"},
		{Definition{Type: "connect_leaf", Service: "web", Args: script}, "/v1/agent/connect/ca/leaf/web?"},
		{Definition{Type: "agent_service", ServiceID: "w1", Args: script}, "/v1/agent/service/w1?"},
		{Definition{Type: "pods", Args: script}, `type: "pods"`},
		{Definition{Type: "key", Args: script}, "needs key"},
		{Definition{Type: "nodes"}, "want args"},
		{Definition{Type: "nodes", Args: script, Handler: "true"}, "want args"},
		{Definition{Type: "nodes", HandlerType: "http"}, "want a URL"},
		{Definition{Type: "nodes", HandlerType: "mail"}, "handler_type"},
		{Definition{Type: "checks", Service: "a", State: "any", Args: script}, "not both"},
	} {
		if err := c.d.Validate(); err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: %v, want %q", c.d, err, c.want)
			}
			continue
		}
		if path, q := c.d.Request(); path+"?"+q.Encode() != c.want {
			t.Errorf("%+v: %s?%s, want %s", c.d, path, q.Encode(), c.want)
		}
	}
}
