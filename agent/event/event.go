// SPDX-License-Identifier: Apache-2.0

// Package event is the agent's user events: small messages that gossip brings to every node of the datacenter. It keeps the
// last ones that are meant for this node, and answers who waits for the next. It owns no goroutine.
package event

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/uuid"
)

// Event is a user event, in the form of Consul's API.
type Event struct {
	ID            string
	Name          string
	Payload       []byte
	NodeFilter    string
	ServiceFilter string
	TagFilter     string
	Version       int
	LTime         uint64
}

// message is what travels.
type message struct {
	ID      string `json:"i"`
	Payload []byte `json:"p,omitempty"`
	Node    string `json:"n,omitempty"`
	Service string `json:"s,omitempty"`
	Tag     string `json:"t,omitempty"`
	Version int    `json:"v"`
}

const (
	version = 1
	// kept is how many events are remembered.
	kept = 256
)

// Config is what Events are made of.
type Config struct {
	Node string
	// Services are those of this host: name and tags of each.
	Services func() map[string][]string
	// Fire sends an event to all nodes, this one too.
	Fire func(name string, payload []byte) error
	Rand io.Reader
}

// Events are this agent's. Make them with New. The methods may be called from any goroutine.
type Events struct {
	c Config

	mu      sync.Mutex
	ring    []Event // oldest first
	changed chan struct{}
}

// New makes an empty list.
func New(c Config) (*Events, error) {
	if c.Services == nil || c.Fire == nil || c.Rand == nil {
		return nil, errors.New("event: Services, Fire and Rand must be set")
	}
	return &Events{c: c, changed: make(chan struct{})}, nil
}

// ErrInvalid is an event that can't be fired.
var ErrInvalid = errors.New("invalid event")

// Fire sends an event and gives it with its ID. Filters are regular expressions.
func (e *Events) Fire(ev Event) (Event, error) {
	if ev.Name == "" {
		return ev, fmt.Errorf("%w: it has no name", ErrInvalid)
	}
	if ev.TagFilter != "" && ev.ServiceFilter == "" {
		return ev, fmt.Errorf("%w: a tag filter needs a service filter", ErrInvalid)
	}
	for what, text := range map[string]string{"node": ev.NodeFilter, "service": ev.ServiceFilter, "tag": ev.TagFilter} {
		if _, err := regexp.Compile(text); err != nil {
			return ev, fmt.Errorf("%w: the %s filter: %w", ErrInvalid, what, err)
		}
	}
	var err error
	if ev.ID, err = uuid.New(e.c.Rand); err != nil {
		return ev, err
	}
	ev.Version, ev.LTime = version, 0
	data, err := json.Marshal(message{ID: ev.ID, Payload: ev.Payload, Node: ev.NodeFilter, Service: ev.ServiceFilter, Tag: ev.TagFilter, Version: version})
	if err != nil {
		return ev, err
	}
	if n := len(data) + len(ev.Name); n > gossip.MaxEvent-overhead {
		return ev, fmt.Errorf("%w: it has %d bytes with name, filters and payload, at most %d fit", ErrInvalid, n, gossip.MaxEvent-overhead)
	}
	return ev, e.c.Fire(ev.Name, data)
}

// overhead is what gossip adds to an event.
const overhead = 48

// Deliver takes an event that gossip brought. What isn't one, or isn't meant for this node, is left out.
func (e *Events) Deliver(u gossip.UserEvent) {
	ev, ok := parse(u)
	if !ok || !e.meant(&ev) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ring) == kept {
		e.ring = slices.Delete(e.ring, 0, 1)
	}
	e.ring = append(e.ring, ev)
	close(e.changed)
	e.changed = make(chan struct{})
}

func parse(u gossip.UserEvent) (Event, bool) {
	var m message
	if err := json.Unmarshal(u.Payload, &m); err != nil || m.ID == "" || m.Version > version {
		return Event{}, false
	}
	return Event{
		ID: m.ID, Name: u.Name, Payload: m.Payload, NodeFilter: m.Node, ServiceFilter: m.Service, TagFilter: m.Tag, Version: m.Version, LTime: u.LTime,
	}, true
}

// meant says whether the filters take this node in.
func (e *Events) meant(ev *Event) bool {
	match := func(filter, text string) bool {
		ok, err := regexp.MatchString(filter, text)
		return ok && err == nil
	}
	if ev.NodeFilter != "" && !match(ev.NodeFilter, e.c.Node) {
		return false
	}
	if ev.ServiceFilter == "" {
		return true
	}
	for name, tags := range e.c.Services() {
		if !match(ev.ServiceFilter, name) {
			continue
		}
		if ev.TagFilter == "" || slices.ContainsFunc(tags, func(tag string) bool { return match(ev.TagFilter, tag) }) {
			return true
		}
	}
	return false
}

// List gives the events of a name ("" is all), oldest first, the index of the last one, and a channel that is closed when there
// is another.
func (e *Events) List(name string) (events []Event, index uint64, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	events = []Event{}
	for _, ev := range e.ring {
		if name == "" || ev.Name == name {
			events = append(events, ev)
		}
	}
	if len(events) > 0 {
		index = Index(events[len(events)-1].ID)
	}
	return events, index, e.changed
}

// Index is what stands for an event in blocking queries: its UUID's two halves, one exclusive-or the other, as Consul's
// clients reckon it too. It doesn't grow; it is only compared for equality.
func Index(id string) uint64 {
	b, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err != nil || len(b) != 16 {
		return 0
	}
	var lower, upper uint64
	for i := range 8 {
		lower = lower<<8 | uint64(b[i])
		upper = upper<<8 | uint64(b[8+i])
	}
	return lower ^ upper
}
