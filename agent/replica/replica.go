// SPDX-License-Identifier: Apache-2.0

// Package replica keeps an agent's part of the catalog up to date from a server's feed: it says what this host is interested
// in, and applies what comes. It decides nothing about what it holds; what isn't covered stays an error to those who read.
// The goroutines of a stream belong to Replica.Run.
package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// Interest is something that this host needs to know: what a proxy's rendering reads, or topics by name.
type Interest struct {
	Token  string
	Proxy  *catalog.Service
	Topics []catalog.Topic
}

// Config is what a Replica is made of.
type Config struct {
	Node   string
	Client weftv1.FeedClient
	Store  *catalog.Store // a replica store
	// Token is what stands for an interest's own token, "" too; nil: the token itself.
	Token func(own string) string
	// MaxAge is for how long what is held may be used without a server being heard, 0 for ever; see Expired.
	MaxAge time.Duration
	// Now is the clock; nil is the system's.
	Now func() time.Time
	// Jitter spreads the tries by numbers from 0 to 1; nil: the system's.
	Jitter func() float64
	Log    *slog.Logger
}

// Replica follows a server's feed into its store.
type Replica struct {
	c Config

	mu        sync.Mutex          // guards all below
	interests map[string]Interest // nil: nobody has said yet
	refused   map[string]string
	changed   chan struct{}
	connected bool
	followed  bool          // a server was heard since the start
	heard     time.Time     // when a server was heard last, while none is
	applied   chan struct{} // closed and made anew when something was heard, or not any more

	held     map[catalog.Topic]bool // what the store covers, but for withheld; used by Run's goroutines one after the other
	withheld map[catalog.Topic]bool // what the store covers without a content, since no token here may read it; guarded by mu
}

// New makes a replica. It starts nothing.
func New(c Config) (*Replica, error) {
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Replica{
		c: c, refused: map[string]string{}, changed: make(chan struct{}, 1), applied: make(chan struct{}), held: map[catalog.Topic]bool{},
	}, nil
}

// SetInterests replaces everything that this host is interested in.
func (r *Replica) SetInterests(interests map[string]Interest) {
	r.mu.Lock()
	r.interests = interests
	r.mu.Unlock()
	r.Restate()
}

// Restate states the interests again at once: what was refused before may be allowed now.
func (r *Replica) Restate() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Refused gives the server's reason for not serving an interest, "" if it has none against it.
func (r *Replica) Refused(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused[id]
}

// Connected says whether the feed is being followed now; without it, what is held may be old.
func (r *Replica) Connected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected
}

// Restored says that the store was filled with these topics from a copy, made when a server was last heard. It must be called
// before Run.
func (r *Replica) Restored(topics []catalog.Topic, heard time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range topics {
		r.held[t] = true
	}
	r.heard = heard
}

// Followed says whether a server was heard since the start.
func (r *Replica) Followed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.followed
}

// Heard is when a server was last heard: now, while the feed is followed; the zero time before anything was.
func (r *Replica) Heard() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heardLocked()
}

func (r *Replica) heardLocked() time.Time {
	if r.connected {
		return r.c.Now()
	}
	return r.heard
}

// Expired says whether what is held is older than may be used: then nobody is allowed what it allows. Else it gives the time when it
// will be, should no server be heard by then; zero for never.
func (r *Replica) Expired() (expired bool, when time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	heard := r.heardLocked()
	if r.c.MaxAge == 0 || heard.IsZero() {
		return false, time.Time{}
	}
	when = heard.Add(r.c.MaxAge)
	return !r.c.Now().Before(when), when
}

// MaxAge is for how long what is held may be used without a server being heard.
func (r *Replica) MaxAge() time.Duration { return r.c.MaxAge }

// Changed is closed when something was heard from a server, or nothing is any more.
func (r *Replica) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied
}

func (r *Replica) noteLocked() {
	close(r.applied)
	r.applied = make(chan struct{})
}

// The waits between tries after a stream has ended.
const (
	retryFirst = 50 * time.Millisecond
	retryLast  = 5 * time.Second
)

// restate is how often the interests are stated again: servers forget those that aren't within some minutes.
const restate = 3 * time.Minute

// Run follows the feed until ctx ends, from when SetInterests was first called: a server would take away what nobody wants. A
// stream that breaks is opened again and goes on from where it was.
func (r *Replica) Run(ctx context.Context) error {
	select {
	case <-r.changed:
	case <-ctx.Done():
		return nil
	}
	retry := retryFirst
	for ctx.Err() == nil {
		before := r.c.Store.Position()
		err := r.follow(ctx)
		r.disconnected()
		if ctx.Err() != nil {
			break
		}
		if r.c.Store.Position() != before {
			retry = retryFirst
		}
		r.c.Log.Warn("catalog feed ended", "error", err, "retry_in", retry)
		timer := time.NewTimer(retry/2 + time.Duration(r.c.Jitter()*float64(retry/2)))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		retry = min(2*retry, retryLast)
	}
	return nil
}

func (r *Replica) disconnected() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connected {
		r.heard = r.c.Now()
		r.connected = false
		r.noteLocked()
	}
}

// follow opens one stream and stays with it until it breaks.
func (r *Replica) follow(ctx context.Context) error {
	g := run.New(ctx)
	stream, err := r.c.Client.Subscribe(g.Context())
	if err != nil {
		return errors.Join(fmt.Errorf("open: %w", err), g.Stop())
	}
	first := r.request()
	first.Position = wire.Position(r.c.Store.Position())
	first.Held = wire.Topics(slices.Collect(maps.Keys(r.held)))
	if err := stream.Send(first); err != nil {
		return errors.Join(fmt.Errorf("send interests: %w", err), g.Stop())
	}
	g.Go("interests", func(ctx context.Context) error {
		again := time.NewTicker(restate)
		defer again.Stop()
		for {
			select {
			case <-r.changed:
			case <-again.C: // interests are a lease
			case <-ctx.Done():
				return nil
			}
			if err := stream.Send(r.request()); err != nil {
				return fmt.Errorf("send interests: %w", err)
			}
		}
	})
	g.Go("items", func(context.Context) error { return r.receive(stream) })
	return g.Wait()
}

func (r *Replica) request() *weftv1.SubscribeRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	req := &weftv1.SubscribeRequest{Node: r.c.Node}
	for _, id := range slices.Sorted(maps.Keys(r.interests)) {
		i := r.interests[id]
		m := &weftv1.Interest{Id: id, Token: i.Token, Topics: wire.Topics(i.Topics)}
		if r.c.Token != nil {
			m.Token = r.c.Token(i.Token)
		}
		if i.Proxy != nil {
			body, err := catalog.Canonical(i.Proxy)
			if err != nil {
				r.c.Log.Error("interest can't be encoded", "interest", id, "error", err)
				continue
			}
			m.Proxy = body
		}
		req.Interests = append(req.Interests, m)
	}
	return req
}

func (r *Replica) receive(stream weftv1.Feed_SubscribeClient) error {
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the server ended it")
		}
		if err != nil {
			return err
		}
		if err := r.apply(resp); err != nil {
			return err
		}
	}
}

// apply takes one message. An item that can't be applied breaks the stream, and what is held is asked for anew.
func (r *Replica) apply(resp *weftv1.SubscribeResponse) error {
	u := catalog.Update{
		Position: wire.PositionFrom(resp.GetPosition()),
		Snapshot: wire.TopicsFrom(resp.GetReplaced()), Covered: wire.TopicsFrom(resp.GetCovered()), Dropped: wire.TopicsFrom(resp.GetDropped()),
	}
	for _, m := range resp.GetItems() {
		u.Items = append(u.Items, wire.ItemFrom(m))
	}
	covered, dropped := u.Covered, u.Dropped // without what is withheld
	withheld := r.withhold(&u, wire.TopicsFrom(resp.GetWithheld()))
	if u.Position.Epoch != r.c.Store.Position().Epoch {
		clear(r.held) // another history: the store drops what this update doesn't bring
	}
	if err := r.c.Store.ApplyItems(u); err != nil {
		clear(r.held)
		return fmt.Errorf("apply the feed: %w", err)
	}
	for _, t := range covered {
		r.held[t] = true
	}
	for _, t := range dropped {
		delete(r.held, t)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connected, r.followed = true, true
	r.withheld = withheld
	r.noteLocked()
	refused := make(map[string]string, len(resp.GetErrors()))
	for _, e := range resp.GetErrors() {
		refused[e.GetId()] = e.GetMessage()
		if r.refused[e.GetId()] != e.GetMessage() {
			r.c.Log.Warn("the server refuses what is followed, or some of it", "for", e.GetId(), "why", e.GetMessage())
		}
	}
	r.refused = refused
	return nil
}

// withhold puts what is withheld into an update, as covered without a content, and takes out what no longer is, unless the update brings it. What
// other topics bring of it is seen, as an instance on this host.
func (r *Replica) withhold(u *catalog.Update, topics []catalog.Topic) map[catalog.Topic]bool {
	withheld := make(map[catalog.Topic]bool, len(topics))
	for _, t := range topics {
		withheld[t] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for t := range r.withheld {
		if !withheld[t] && !slices.Contains(u.Covered, t) {
			u.Dropped = append(u.Dropped, t)
		}
	}
	u.Covered = slices.Concat(u.Covered, topics)
	return withheld
}

// Withheld are the topics that the store covers without having their content, since no token of this host may read them.
func (r *Replica) Withheld() map[catalog.Topic]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.withheld
}
