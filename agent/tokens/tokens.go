// SPDX-License-Identifier: Apache-2.0

// Package tokens is what an agent knows of tokens: its own, and what those of its callers grant, as a server told it a short
// while ago. A token that nobody has is asked for again after a second at the latest. The servers tell when something that was
// told has changed (Run). It owns no goroutine but Run's.
package tokens

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
)

// DownPolicy is what holds for a token that no server can be asked about.
type DownPolicy string

// The policies, with Consul's names. Extend goes on with what was known of the token, however old; without that it denies.
const (
	Extend DownPolicy = "extend-cache"
	Async  DownPolicy = "async-cache" // as Extend, and what is known is used while it is asked for anew
	Allow  DownPolicy = "allow"
	Deny   DownPolicy = "deny"
)

// Kind is what one of the agent's own tokens is for.
type Kind string

// The kinds, with Consul's names.
const (
	Default     Kind = "default"        // for requests and registrations that bring none
	Agent       Kind = "agent"          // for what the agent itself does; without one, Default
	Recovery    Kind = "agent_recovery" // opens this agent's own routes, also with every server down
	Replication Kind = "replication"
	DNS         Kind = "dns"                              // for questions over DNS; without one, Default
	ConfigFile  Kind = "config_file_service_registration" // for services of configuration files that bring none
)

// Config is what Tokens are made of.
type Config struct {
	// Enabled says that tokens are asked for; otherwise everybody may do everything.
	Enabled bool
	// Servers answers GET /v1/weft/acl/resolve.
	Servers http.Handler
	// Node is this agent's.
	Node string
	// TTL is how long an answer is used; 0 for 30 s.
	TTL     time.Duration
	Down    DownPolicy // "" for Extend
	Default acl.Level
	KeyList bool
	Own     map[Kind]string
	Store   Store // keeps tokens that are set at run time; nil: nothing is kept
	Now     func() time.Time
}

// Store keeps the agent's own tokens over a restart.
type Store interface {
	Load() (map[Kind]string, error)
	Save(map[Kind]string) error
}

// The bounds of what is remembered.
const (
	defaultTTL  = 30 * time.Second
	negativeTTL = time.Second
	maxKnown    = 8192
)

// Tokens is an agent's api.Resolver. Its methods may be called from any goroutine.
type Tokens struct {
	c Config

	mu    sync.Mutex
	own   map[Kind]string
	known map[[32]byte]*entry // by the hash of the secret
	lost  bool                // nobody tells of changes
	need  uint64              // answers of before this index are too old
}

// entry is what is known of a token.
type entry struct {
	asked   time.Time
	subject *acl.Subject // nil: nobody has it
	ends    *time.Time   // when the token's time is over
	err     error
	index   uint64        // of the answer
	asking  chan struct{} // not nil while a server is asked
}

// New makes Tokens.
func New(c Config) (*Tokens, error) {
	if c.Now == nil {
		return nil, errors.New("tokens: Now must be set")
	}
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	switch c.Down {
	case "":
		c.Down = Extend
	case Extend, Async, Allow, Deny:
	default:
		return nil, fmt.Errorf("acl.down_policy: %q is none of extend-cache, async-cache, allow, deny", c.Down)
	}
	t := &Tokens{c: c, own: map[Kind]string{}, known: map[[32]byte]*entry{}}
	if c.Store != nil {
		kept, err := c.Store.Load()
		if err != nil {
			return nil, err
		}
		for k, secret := range kept {
			t.own[k] = secret
		}
	}
	for k, secret := range c.Own {
		if secret != "" {
			t.own[k] = secret
		}
	}
	return t, nil
}

// Own is one of the agent's own tokens, "" for none. The default one stands for those that say what the agent itself does.
func (t *Tokens) Own(k Kind) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if secret := t.own[k]; secret != "" || k == Recovery || k == Replication || k == ConfigFile {
		return secret
	}
	return t.own[Default]
}

// Or is a registration's own token, or the default one.
func (t *Tokens) Or(secret string) string {
	if secret != "" {
		return secret
	}
	return t.Own(Default)
}

// Set changes one of the agent's own tokens, "" for none, and keeps it where there is a Store.
func (t *Tokens) Set(k Kind, secret string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[Kind]string{}
	for kind, s := range t.own {
		next[kind] = s
	}
	if next[k] = secret; secret == "" {
		delete(next, k)
	}
	if t.c.Store != nil {
		if err := t.c.Store.Save(next); err != nil {
			return err
		}
	}
	t.own = next
	return nil
}

// Resolve finds what a secret grants; "" is the default token, or anonymous.
func (t *Tokens) Resolve(ctx context.Context, secret string) (api.Subject, error) {
	if !t.c.Enabled {
		return api.Open{}, nil
	}
	secret = t.Or(secret)
	if r := t.Own(Recovery); r != "" && subtle.ConstantTimeCompare([]byte(r), []byte(secret)) == 1 {
		return t.recovery()
	}
	e, err := t.lookup(ctx, secret)
	if err != nil {
		return nil, err
	}
	if e.err != nil {
		return nil, e.err
	}
	if e.ends != nil && !t.c.Now().Before(*e.ends) {
		return nil, api.ErrTokenUnknown
	}
	return e.subject, nil
}

// recovery opens the agent itself, and lets nodes be seen.
func (t *Tokens) recovery() (api.Subject, error) {
	rules, err := acl.Parse(fmt.Sprintf("agent %q { policy = \"write\" }\nnode_prefix \"\" { policy = \"read\" }\n", t.c.Node))
	if err != nil {
		return nil, err
	}
	return &acl.Subject{Authorizer: acl.New(acl.Config{Default: acl.Deny}, rules), Accessor: "agent-recovery"}, nil
}

// lookup gives what is known, and asks a server where that is too old: one request for all who want to know.
func (t *Tokens) lookup(ctx context.Context, secret string) (entry, error) {
	key := sha256.Sum256([]byte(secret))
	for {
		t.mu.Lock()
		e := t.known[key]
		if e == nil {
			t.roomLocked()
			e = &entry{}
			t.known[key] = e
		}
		if !e.asked.IsZero() && t.c.Now().Sub(e.asked) < t.lifeOf(e) {
			defer t.mu.Unlock()
			return *e, nil
		}
		if e.asking == nil {
			e.asking = make(chan struct{})
			t.mu.Unlock()
			return t.ask(ctx, secret, e), nil
		}
		if t.c.Down == Async && e.subject != nil {
			defer t.mu.Unlock()
			return *e, nil
		}
		asking := e.asking
		t.mu.Unlock()
		select {
		case <-asking:
		case <-ctx.Done():
			return entry{}, context.Cause(ctx)
		}
	}
}

func (t *Tokens) lifeOf(e *entry) time.Duration {
	if t.lost {
		return min(lostTTL, t.c.TTL)
	}
	if e.subject == nil {
		return min(negativeTTL, t.c.TTL)
	}
	return t.c.TTL
}

// roomLocked forgets something where too much is remembered; what is being asked for stays.
func (t *Tokens) roomLocked() {
	for key, e := range t.known {
		if len(t.known) < maxKnown {
			return
		}
		if e.asking == nil {
			delete(t.known, key)
		}
	}
}

// ask asks a server, notes the answer for a while, and wakes who waits for it.
func (t *Tokens) ask(ctx context.Context, secret string, e *entry) entry {
	got, reached := t.request(ctx, secret, true)
	t.mu.Lock()
	for reached && got.err == nil && got.index < t.need { // a server that is behind, or a change that came meanwhile
		need := t.need
		t.mu.Unlock()
		got, reached = t.request(ctx, secret, false)
		got.index = max(got.index, need)
		t.mu.Lock()
	}
	defer t.mu.Unlock()
	defer func() {
		close(e.asking)
		e.asking = nil
	}()
	if reached {
		e.subject, e.ends, e.err, e.asked = got.subject, got.ends, got.err, t.c.Now()
		return *e
	}
	if ctx.Err() != nil {
		return entry{err: context.Cause(ctx)}
	}
	switch {
	case t.c.Down == Allow:
		return entry{subject: &acl.Subject{Authorizer: acl.New(acl.Config{Default: acl.Write}), Accessor: "unknown: no server can be asked"}}
	case t.c.Down == Deny || e.subject == nil:
		return entry{err: fmt.Errorf("%w: no server can be asked what the token grants: %w", api.ErrDenied, got.err)}
	}
	return entry{subject: e.subject, ends: e.ends}
}

// request asks a server, which may be behind if stale is set; reached says whether it gave an answer that counts.
func (t *Tokens) request(ctx context.Context, secret string, stale bool) (e entry, reached bool) {
	path := "http://127.0.0.1/v1/weft/acl/resolve"
	if stale {
		path += "?stale"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, http.NoBody)
	if err != nil {
		return entry{err: err}, false
	}
	req.RemoteAddr = "127.0.0.1:0"
	if secret != "" {
		req.Header.Set(api.TokenHeader, secret)
	}
	w := api.Record(t.c.Servers, req, maxAnswer)
	text := string(bytes.TrimSpace(w.Body.Bytes()))
	index, _ := strconv.ParseUint(w.Header().Get("X-Consul-Index"), 10, 64) // none: as old as can be
	switch w.Code {
	case http.StatusOK:
	case http.StatusForbidden:
		return entry{err: &api.StatusError{Code: w.Code, Text: text, Err: api.ErrTokenUnknown}, index: index}, true
	default:
		return entry{err: fmt.Errorf("the servers answered %d: %s", w.Code, text)}, false
	}
	var a struct {
		AccessorID     string
		Rules          []string
		ExpirationTime *time.Time
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		return entry{err: fmt.Errorf("the servers' answer can't be read: %w", err)}, false
	}
	var rules []*acl.Rules
	for _, text := range a.Rules {
		r, err := acl.Parse(text)
		if err != nil {
			return entry{err: fmt.Errorf("a policy of the token can't be read by this agent: %w", err)}, false
		}
		rules = append(rules, r)
	}
	return entry{
		subject: &acl.Subject{Authorizer: acl.New(acl.Config{Default: t.c.Default, KeyList: t.c.KeyList}, rules...), Accessor: a.AccessorID},
		ends:    a.ExpirationTime, index: index,
	}, true
}

// maxAnswer bounds what a server may say of a token.
const maxAnswer = 4 << 20
