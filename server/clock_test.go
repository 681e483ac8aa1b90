// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A wall clock that jumps an hour, forward or back, on the leader or on all servers, changes no leader, ends no session and makes no
// read old.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		var jumped [4]atomic.Int64
		for n := 1; n <= 3; n++ {
			w.server(n, 3, func(c *Config) {
				c.Now = func() time.Time { return time.Now().Add(time.Duration(jumped[n].Load())).Round(0) } // without the monotonic part
			})
		}
		leader := w.leader()
		leader.want("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1"}`, 200, "true")
		_, text, _ := leader.do("PUT", "/v1/session/create", `{"Node":"n1","TTL":"60s"}`)
		var session struct{ ID string }
		if err := json.Unmarshal([]byte(text), &session); err != nil || session.ID == "" {
			t.Fatalf("%s %v", text, err)
		}
		index := w.followers()[0].raft.Load().Stats()["term"]
		for i, by := range []time.Duration{time.Hour, -time.Hour, 0, time.Hour} {
			for n := 1; n <= 3; n++ {
				if leader.c.NodeID == w.all[n-1].c.NodeID || i > 1 {
					jumped[n].Store(int64(by))
				}
			}
			time.Sleep(20 * time.Second)
			if w.leader() != leader || w.followers()[0].raft.Load().Stats()["term"] != index {
				t.Errorf("after a jump to %v: %s led, and now %s", by, leader.c.NodeName, w.leader().c.NodeName)
			}
			w.followers()[0].want("PUT", "/v1/kv/a", by.String(), 200, "true")
			w.followers()[1].want("GET", "/v1/kv/a?raw", "", 200, by.String())
			leader.want("PUT", "/v1/session/renew/"+session.ID, "", 200, session.ID)
		}
		time.Sleep(3 * time.Minute)
		leader.want("GET", "/v1/session/info/"+session.ID, "", 200, "[]") // it does end
	})
}
