// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	autopilot "github.com/hashicorp/raft-autopilot"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"net"

	"github.com/weftmesh/weft/internal/plane"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// votes counts the voters and the others of Raft's configuration, as a server tells them.
func (s *citizen) votes() (voters, others int) {
	s.town.t.Helper()
	_, text, _ := s.do("GET", "/v1/operator/raft/configuration", "")
	var c struct{ Servers []struct{ Voter bool } }
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		s.town.t.Fatalf("%s: %v", text, err)
	}
	for _, p := range c.Servers {
		if p.Voter {
			voters++
		} else {
			others++
		}
	}
	return voters, others
}

// A server that comes later votes once it was stable for its time; a failed one that another replaces is given up.
func TestReplaceServer(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader := w.leader()
		time.Sleep(30 * time.Second) // autopilot knows what is stable
		w.server(4, 3, nil)
		time.Sleep(5 * time.Second)
		if v, o := leader.votes(); v != 3 || o != 1 {
			t.Errorf("at first: %d voters, %d others", v, o)
		}
		time.Sleep(30 * time.Second)
		if v, o := leader.votes(); v != 4 || o != 0 {
			t.Errorf("later: %d voters, %d others", v, o)
		}
		leader.want("GET", "/v1/operator/autopilot/health", "", 200, `"Healthy":true,`)
		w.followers()[0].want("GET", "/v1/operator/autopilot/state", "", 200, `"OptimisticFailureTolerance":1`)

		dead := w.followers()[0]
		if err := dead.stop(); err != nil {
			t.Error(err)
		}
		w.set(dead.id, func(m *Member) { m.Status = Failed })
		time.Sleep(20 * time.Second)
		leader.want("GET", "/v1/operator/autopilot/health", "", 429, `"Healthy":false`)
		w.server(5, 3, nil)
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		left := slices.Compact(w.left)
		w.mu.Unlock()
		if !slices.Equal(left, []string{dead.c.NodeName}) {
			t.Fatalf("gossip was asked to forget %q", left)
		}
		w.set(dead.id, func(m *Member) { m.Status = Left })
		time.Sleep(30 * time.Second)
		if v, o := leader.votes(); v != 4 || o != 0 {
			t.Errorf("in the end: %d voters, %d others", v, o)
		}
		leader.want("GET", "/v1/operator/autopilot/health", "", 200, `"Healthy":true,`)
	})
}

// What must not vote doesn't; of a zone one votes, and another takes its place when it fails.
func TestZonesAndNonVoters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		zone := func(z string) func(*Config) { return func(c *Config) { c.Meta = map[string]string{"zone": z} } }
		for n, z := range []string{"a", "b", "c"} {
			w.server(n+1, 3, zone(z))
		}
		leader := w.leader()
		leader.want("PUT", "/v1/operator/autopilot/configuration", `{"RedundancyZoneTag":"zone","ServerStabilizationTime":"5s","CleanupDeadServers":false}`, 200, "true")
		w.server(4, 3, zone("b"))
		w.server(5, 3, nil)
		w.set("id-5", func(m *Member) { m.NonVoter = true })
		time.Sleep(time.Minute)
		if v, o := leader.votes(); v != 3 || o != 2 {
			t.Errorf("%d voters, %d others", v, o)
		}
		leader.want("GET", "/v1/operator/autopilot/state", "", 200, `"NodeType":"zone-standby"`)
		leader.want("GET", "/v1/operator/autopilot/state", "", 200, `"NodeType":"read-replica"`)
		b := w.all[1]
		if leader == b {
			leader.want("POST", "/v1/operator/raft/transfer-leader?id=id-1", "", 200, `{"Success":true}`)
			time.Sleep(30 * time.Second)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
		w.set(b.id, func(m *Member) { m.Status = Failed })
		time.Sleep(time.Minute)
		voter := false
		servers, _, err := w.leader().RaftServers()
		for _, p := range servers {
			voter = voter || p.ID == "id-4" && p.Voter
		}
		if err != nil || !voter {
			t.Errorf("the zone's standby doesn't vote: %+v, %v", servers, err)
		}
	})
}

// As many servers of a newer version take the place of the older ones, leadership included; before, they don't vote.
func TestUpgradeMigration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		version := func(v string) func(*Config) { return func(c *Config) { c.Meta = map[string]string{"version": v} } }
		for n := range 3 {
			w.server(n+1, 3, version("1.9.0"))
		}
		w.leader().want("PUT", "/v1/operator/autopilot/configuration", `{"UpgradeVersionTag":"version","ServerStabilizationTime":"5s"}`, 200, "true")
		w.server(4, 3, version("1.10.0"))
		w.server(5, 3, version("1.10.0"))
		time.Sleep(time.Minute)
		if v, o := w.leader().votes(); v != 3 || o != 2 {
			t.Errorf("two of three are there: %d voters, %d others", v, o)
		}
		w.server(6, 3, version("1.10.0"))
		time.Sleep(2 * time.Minute)
		leader := w.leader()
		servers, _, err := leader.RaftServers()
		if err != nil || leader.c.Meta["version"] != "1.10.0" {
			t.Errorf("%s leads, %v", leader.c.NodeName, err)
		}
		for _, s := range servers {
			if s.Voter != (s.ID >= "id-4") {
				t.Errorf("%s votes: %v", s.ID, s.Voter)
			}
		}
		w.server(7, 3, version("1.9.0"))
		leader.want("PUT", "/v1/operator/autopilot/configuration", `{"UpgradeVersionTag":"version","ServerStabilizationTime":"5s","DisableUpgradeMigration":true}`, 200, "true")
		time.Sleep(time.Minute)
		if v, o := leader.votes(); v != 7 || o != 0 {
			t.Errorf("without migration: %d voters, %d others", v, o)
		}
	})
}

func TestCompareVersions(t *testing.T) {
	order := []string{"", "1.2-rc1", "1.2-rc2", "1.2", "1.2.0", "v1.9", "1.10.0"}
	for i, a := range order {
		for j, b := range order {
			if i > 0 && j > 0 && compareVersions(a, b) != cmp.Compare(i, j) {
				t.Errorf("%q, %q: %d", a, b, compareVersions(a, b))
			}
		}
	}
}

// Zones without a leader in them keep what they have while nobody is better.
func TestElectZone(t *testing.T) {
	never := func(*autopilot.ServerState) bool { return false }
	voter := &autopilot.ServerState{State: autopilot.RaftVoter}
	if electZone([]*autopilot.ServerState{voter, {State: autopilot.RaftNonVoter}}, never) != nil {
		t.Error("a zone whose servers are all in doubt was changed")
	}
}

func TestOperatorRoutes(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader := w.leader()
		follower := w.followers()[0]
		time.Sleep(5 * time.Second)
		for _, c := range []struct {
			method, path, body string
			status             int
			want               string
		}{
			{"GET", "/v1/operator/raft/configuration", "", 200, `"ProtocolVersion":"3","Voter":true`},
			{"DELETE", "/v1/operator/raft/peer", "", 400, "Must specify either ?id"},
			{"DELETE", "/v1/operator/raft/peer?id=a&address=b", "", 400, "only one"},
			{"DELETE", "/v1/operator/raft/peer?id=nobody", "", 404, "nobody"},
			{"POST", "/v1/operator/raft/transfer-leader?id=nobody", "", 404, "nobody"},
			{"GET", "/v1/operator/autopilot/configuration", "", 200, `"LastContactThreshold":"200ms"`},
			{"PUT", "/v1/operator/autopilot/configuration?cas=77", `{"MinQuorum":3}`, 200, "false"},
			{"PUT", "/v1/operator/autopilot/configuration", `{"MinQuorum":3,"LastContactThreshold":"-1s"}`, 400, "negative"},
			{"PUT", "/v1/operator/autopilot/configuration", `{"MinQuorum":3,"ServerStabilizationTime":"20s"}`, 200, "true"},
			{"GET", "/v1/operator/autopilot/configuration", "", 200, `"MinQuorum":3,"ServerStabilizationTime":"20s"`},
		} {
			follower.want(c.method, c.path, c.body, c.status, c.want)
		}
		follower.want("POST", "/v1/operator/raft/transfer-leader?id="+follower.id, "", 200, `{"Success":true}`)
		time.Sleep(time.Second)
		if w.leader() != follower {
			t.Errorf("%s leads", w.leader().c.NodeName)
		}
		leader.want("DELETE", "/v1/operator/raft/peer?id="+leader.id, "", 200, "")
	})
}

// A snapshot that is restored is everybody's state; one that is damaged changes nothing.
func TestSnapshotRestore(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader := w.leader()
		leader.want("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"before","Protocol":"http"}`, 200, "true")
		_, archive, h := w.followers()[0].do("GET", "/v1/snapshot", "")
		if h.Get("X-Consul-Index") == "" {
			t.Error("no index")
		}
		leader.want("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"after","Protocol":"http"}`, 200, "true")
		leader.want("PUT", "/v1/connect/ca/configuration", `{"Config":{"Rotate":true}}`, 200, "")
		for _, bad := range []string{"", "no archive", archive[:len(archive)/2], archive[:100] + "x" + archive[101:]} {
			w.followers()[1].want("PUT", "/v1/snapshot", bad, 400, "nothing was restored")
		}
		leader.want("GET", "/v1/config/service-defaults/after", "", 200, "http")
		digest := string(leader.store.Digest())
		w.followers()[1].want("PUT", "/v1/snapshot", archive, 200, "")
		if string(leader.store.Digest()) == digest {
			t.Error("nothing changed")
		}
		for _, s := range w.all {
			s.want("GET", "/v1/config/service-defaults/before", "", 200, "http")
			s.want("GET", "/v1/config/service-defaults/after", "", 404, "")
			ca, _ := s.store.Read().CA()
			if len(ca.Roots) != 1 {
				t.Errorf("%s has %d roots", s.c.NodeName, len(ca.Roots))
			}
		}
		// The restored authority works: it makes another root.
		leader.want("PUT", "/v1/connect/ca/configuration", `{"Config":{"Rotate":true}}`, 200, "")
		time.Sleep(time.Second)
		for _, s := range w.all {
			if string(s.store.Digest()) != string(leader.store.Digest()) {
				t.Errorf("%s has other tables", s.c.NodeName)
			}
		}
	})
}

// Members are in the catalog: they come, fail, come back and go.
func TestMembersInCatalog(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader := w.leader()
		for _, n := range []string{"a", "b"} {
			w.set("id-"+n, func(m *Member) {
				*m = Member{Name: "n" + n, ID: "id-" + n, Datacenter: "dc1", Address: "10.1.0.1", Status: Alive}
			})
		}
		time.Sleep(time.Second)
		leader.want("GET", "/v1/health/node/na", "", 200, `"CheckID":"serfHealth","Name":"Serf Health Status","Status":"passing"`)
		leader.want("GET", "/v1/catalog/service/consul", "", 200, `"ServicePort":8300`)
		w.set("id-a", func(m *Member) { m.Status = Failed })
		time.Sleep(time.Second)
		leader.want("GET", "/v1/health/node/na", "", 200, `"Status":"critical","Notes":"","Output":"Agent not live or unreachable"`)
		w.set("id-a", func(m *Member) { m.Status = Alive })
		time.Sleep(time.Second)
		leader.want("GET", "/v1/health/node/na", "", 200, `"Status":"passing"`)
		w.set("id-a", func(m *Member) { m.Status = Left })
		w.mu.Lock()
		delete(w.members, "id-b") // reaped
		w.mu.Unlock()
		w.changed.send()
		time.Sleep(time.Second)
		for _, n := range []string{"na", "nb"} {
			leader.want("GET", "/v1/catalog/node/"+n, "", 200, "null")
		}
		// What gossip never knew stays.
		leader.want("PUT", "/v1/catalog/register", web, 200, "true")
		time.Sleep(2 * time.Minute)
		leader.want("GET", "/v1/catalog/node/n1", "", 200, `"web1"`)
		// Another machine takes a name over.
		w.set("id-c", func(m *Member) {
			*m = Member{Name: "nc", ID: "id-c", Datacenter: "dc1", Address: "10.1.0.3", Status: Alive}
		})
		time.Sleep(time.Second)
		w.set("id-c", func(m *Member) { m.ID, m.Address = "id-d", "10.1.0.4" })
		time.Sleep(time.Second)
		leader.want("GET", "/v1/catalog/node/nc", "", 200, `"ID":"id-d"`)
	})
}

// A node that gossip has lost is alive while it has a stream to any server, and failed as soon as it has none.
func TestTwoWitnesses(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader := w.leader()
		follower := w.followers()[0]
		w.set("id-a", func(m *Member) {
			*m = Member{Name: "na", ID: "id-a", Datacenter: "dc1", Address: "10.1.0.1", Status: Alive}
		})
		conn, err := grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return w.net.DialContext(ctx, follower.c.Address+"/"+plane.GRPC)
			}))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := weftv1.NewFeedClient(conn).Subscribe(ctx)
		if err == nil {
			err = stream.Send(&weftv1.SubscribeRequest{Node: "na"})
		}
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.set("id-a", func(m *Member) { m.Status = Failed })
		time.Sleep(time.Minute)
		leader.want("GET", "/v1/health/node/na", "", 200, `"Status":"passing"`)
		cancel()
		time.Sleep(lookAgain + 100*time.Millisecond)
		leader.want("GET", "/v1/health/node/na", "", 200, `"Status":"critical"`)
	})
}

// A server with the state of another cluster isn't taken in.
func TestStranger(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader := w.leader()
		other := newTown(t)
		other.net = w.net
		stranger := other.server(9, 1, nil)
		other.leader()
		w.set("id-9", func(m *Member) {
			*m = Member{Name: "s9", ID: "id-9", Datacenter: "dc1", Address: "10.0.0.9", Status: Alive, Server: true, ServerPort: 8300, Expect: 1}
		})
		time.Sleep(time.Minute)
		if v, o := leader.votes(); v != 3 || o != 0 {
			t.Errorf("%d voters, %d others", v, o)
		}
		stranger.want("GET", "/v1/status/peers", "", 200, `["10.0.0.9:8300"]`)
	})
}

// A configuration of Raft's is told by a server that has no leader, too.
func TestOperatorWithoutLeader(t *testing.T) {
	s, err := New(Config{Datacenter: "dc1", NodeName: "s1"})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/operator/raft/configuration", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// The leader saves snapshots by itself and keeps so many; each can be restored.
func TestKeptSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newTown(t)
		s := w.server(1, 1, func(c *Config) { c.Snapshots = Snapshots{Interval: time.Hour, Retain: 3, Dir: dir} })
		w.leader()
		if err := os.WriteFile(filepath.Join(dir, "other.txt"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Hour + time.Minute)
		files, err := filepath.Glob(filepath.Join(dir, "dc1-*.snap"))
		if err != nil || len(files) != 3 {
			t.Fatalf("%q, %v", files, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 4 {
			t.Errorf("%v", left)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		s.want("PUT", "/v1/snapshot", string(data), 200, "")
	})
}
