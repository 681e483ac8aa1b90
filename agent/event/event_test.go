// SPDX-License-Identifier: Apache-2.0

package event

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/weftmesh/weft/internal/gossip"
)

// host is a node's events, whose firing reaches itself.
func host(t *testing.T) *Events {
	t.Helper()
	var e *Events
	e, err := New(Config{
		Node: "web-1", Services: func() map[string][]string { return map[string][]string{"web": {"v1"}, "api": nil} },
		Fire: func(name string, payload []byte) error {
			e.Deliver(gossip.UserEvent{Name: name, Payload: payload, LTime: 7})
			return nil
		},
		Rand: rand.NewChaCha8([32]byte{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestFilters(t *testing.T) {
	e := host(t)
	for _, row := range []struct {
		event Event
		here  bool
	}{
		{Event{}, true},
		{Event{NodeFilter: "^web-"}, true},
		{Event{NodeFilter: "^db-"}, false},
		{Event{ServiceFilter: "web"}, true},
		{Event{ServiceFilter: "web", TagFilter: "v1"}, true},
		{Event{ServiceFilter: "web", TagFilter: "v2"}, false},
		{Event{ServiceFilter: "db"}, false},
		{Event{NodeFilter: "^web-", ServiceFilter: "db"}, false},
	} {
		row.event.Name, row.event.Payload = "deploy", []byte("x")
		before, _, changed := e.List("")
		fired, err := e.Fire(row.event)
		if err != nil {
			t.Fatal(err)
		}
		after, index, _ := e.List("deploy")
		if got := len(after) == len(before)+1; got != row.here {
			t.Errorf("%+v: delivered %v", row.event, got)
		}
		if row.here {
			<-changed
			if last := after[len(after)-1]; last.ID != fired.ID || string(last.Payload) != "x" || last.LTime != 7 || index != Index(fired.ID) || index == 0 {
				t.Errorf("%+v, index %d", last, index)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	e := host(t)
	for name, ev := range map[string]Event{
		"no name":           {},
		"a tag alone":       {Name: "a", TagFilter: "x"},
		"not an expression": {Name: "a", NodeFilter: "("},
		"too long":          {Name: "a", Payload: make([]byte, 400)},
	} {
		if _, err := e.Fire(ev); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range kept + 10 {
		if _, err := e.Fire(Event{Name: "n" + strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if list, _, _ := e.List(""); len(list) != kept || list[0].Name != "n10" {
		t.Errorf("%d events from %s", len(list), list[0].Name)
	}
	for _, forged := range []string{"", "{", `{"i":"x","v":99}`, strings.Repeat("[", 500)} {
		e.Deliver(gossip.UserEvent{Name: "forged", Payload: []byte(forged)})
	}
	if list, _, _ := e.List("forged"); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}
