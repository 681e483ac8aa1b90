// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/plane"
)

// world is the servers of some datacenters, one each, that gossip with each other.
type world struct {
	t       *testing.T
	net     *memnet.Network
	primary string                  // the primary datacenter, "" for none
	webs    map[string]*http.Server // what answers the others, by datacenter
	proved  *plane.Peer             // what the others have proved to be, nil for nothing
}

// pool runs a server's place in the WAN, or in its datacenter's LAN.
func (w *world) pool(dc string, addr netip.Addr, wan bool) *gossip.Pool {
	w.t.Helper()
	at := netip.AddrPortFrom(addr, 8301)
	if wan {
		at = netip.AddrPortFrom(addr, 8302)
	}
	p, err := gossip.New(gossip.Config{
		WAN: wan, Bind: at, Advertise: at, Network: gossip.Memory(w.net), Keys: [][]byte{bytes.Repeat([]byte{1}, 32)},
		Self: gossip.Self{Name: "s1", ID: "id-" + dc, Datacenter: dc, Server: true, ServerPort: 8300},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	<-p.Ready()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return p
}

func (w *world) server(dc, ip string) *running {
	w.t.Helper()
	return w.serverWith(dc, ip, ACLConfig{})
}

func (w *world) serverWith(dc, ip string, acls ACLConfig) *running {
	w.t.Helper()
	r := startWith(w.t, Config{
		ACL: acls, Datacenter: dc, Primary: w.primary, WAN: w.pool(dc, netip.MustParseAddr(ip), true), LAN: w.pool(dc, netip.MustParseAddr(ip), false),
		DialWAN: func(ctx context.Context, address, _, _ string) (net.Conn, error) {
			return w.net.DialContext(ctx, address)
		},
	})
	l, err := w.net.Listen(ip + ":8300")
	if err != nil {
		w.t.Fatal(err)
	}
	web := &http.Server{Handler: r.Handler(), Protocols: new(http.Protocols), ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
		if w.proved != nil {
			return plane.WithPeer(ctx, *w.proved)
		}
		return ctx
	}}
	web.Protocols.SetUnencryptedHTTP2(true)
	if w.webs == nil {
		w.webs = map[string]*http.Server{}
	}
	w.webs[dc] = web
	var work sync.WaitGroup
	work.Go(func() {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() {
		_ = web.Close()
		work.Wait()
	})
	return r
}

// meet has two datacenters' servers know each other.
func (w *world) meet(one, two *running) {
	w.t.Helper()
	if n, err := two.c.WAN.Join(w.t.Context(), []string{"10.0.0.1"}); n != 1 || err != nil {
		w.t.Fatal(n, err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if err := one.c.WAN.WaitFor(ctx, func(list []gossip.Member) bool { return len(list) == 2 }); err != nil {
		w.t.Fatal(err)
	}
}

// A key reaches the WAN and every datacenter's LAN, asked for in one of them.
func TestKeyringEverywhere(t *testing.T) {
	w := &world{t: t, net: memnet.New()}
	one, two := w.server("dc1", "10.0.0.1"), w.server("dc2", "10.0.0.2")
	w.meet(one, two)
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{2}, 32))
	body := `{"Key":"` + key + `"}`
	views := func(query string) (out []struct {
		WAN         bool
		Datacenter  string
		Keys        map[string]int
		PrimaryKeys map[string]int
		NumNodes    int
	}) {
		rec := httptest.NewRecorder()
		one.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/v1/operator/keyring"+query, nil))
		if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
			t.Fatal(err, rec.Body)
		}
		return out
	}
	one.do("POST", "/v1/operator/keyring", body, 200, "")
	one.do("PUT", "/v1/operator/keyring?relay-factor=2", body, 200, "")
	got := views("")
	if len(got) != 3 || !got[0].WAN || got[0].NumNodes != 2 || got[1].Datacenter != "dc1" || got[2].Datacenter != "dc2" || got[2].WAN {
		t.Fatalf("%+v", got)
	}
	for _, v := range got {
		if v.PrimaryKeys[key] != v.NumNodes || len(v.Keys) != 2 {
			t.Errorf("%+v", v)
		}
	}
	if got = views("?local-only"); len(got) != 1 || got[0].WAN || got[0].Datacenter != "dc1" {
		t.Errorf("only here: %+v", got)
	}
	one.do("DELETE", "/v1/operator/keyring?local-only=true", body, 400, "only for listing")
	one.do("GET", "/v1/operator/keyring?relay-factor=6", "", 400, "relay-factor")
	one.do("GET", "/v1/operator/keyring?local-only=x", "", 400, "local-only")
	one.do("DELETE", "/v1/operator/keyring", body, 500, "") // it encrypts: nobody removes it
	one.do("DELETE", "/v1/operator/keyring", `{"Key":"`+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))+`"}`, 200, "")
	if keys := two.c.LAN.Keys(); len(keys) != 1 || keys[0][0] != 2 {
		t.Errorf("there: %d keys", len(keys))
	}
}

// A request for another datacenter goes to a server there; for one that nobody knows, the answer says so.
func TestOtherDatacenters(t *testing.T) {
	w := &world{t: t, net: memnet.New()}
	one, two := w.server("dc1", "10.0.0.1"), w.server("dc2", "10.0.0.2")
	one.do("GET", "/v1/kv/a?dc=dc2", "", 500, "No path to datacenter")
	one.do("GET", "/v1/catalog/datacenters", "", 200, `["dc1"]`)
	w.meet(one, two)
	one.do("PUT", "/v1/kv/a?dc=dc2", "there", 200, "true")
	one.do("PUT", "/v1/kv/a?dc=dc1", "here", 200, "true")
	two.do("GET", "/v1/kv/a?raw", "", 200, "there")
	one.do("GET", "/v1/kv/a?raw&dc=DC2", "", 200, "there")
	one.do("GET", "/v1/kv/a?raw", "", 200, "here")
	one.do("GET", "/v1/kv/a?dc=dc3", "", 500, "No path to datacenter")
	one.do("GET", "/v1/catalog/datacenters", "", 200, `["dc1","dc2"]`)
	two.do("GET", "/v1/catalog/datacenters", "", 200, `["dc2","dc1"]`)
	one.do("GET", "/v1/coordinate/datacenters", "", 200, `{"Datacenter":"dc1","AreaID":"wan","Coordinates":[{"Node":"s1"`)
	// What was passed on once isn't passed on again.
	r, _ := http.NewRequest("GET", "/v1/kv/a?dc=dc2", nil)
	r.Header.Set(wanHop, "dc9")
	rec := httptest.NewRecorder()
	one.Handler().ServeHTTP(rec, r)
	if rec.Code != http.StatusLoopDetected {
		t.Errorf("a loop: %d %s", rec.Code, rec.Body)
	}
}

func TestByDistance(t *testing.T) {
	ms := func(n ...int) (out []time.Duration) {
		for _, d := range n {
			out = append(out, time.Duration(d)*time.Millisecond)
		}
		return out
	}
	got := byDistance("home", map[string][]time.Duration{
		"far": ms(90, 80, 1), "near": ms(200, 5, 6), "home": ms(500), "nowhere": nil, "anywhere": nil, "same": ms(80),
	})
	if want := []string{"home", "near", "far", "same", "anywhere", "nowhere"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestC106_TokensOfOneDatacenter: a token means nothing in another datacenter, asked there or through its own; a deleted one means nothing
// anywhere.
func TestC106_TokensOfOneDatacenter(t *testing.T) {
	w := &world{t: t, net: memnet.New()}
	acls := ACLConfig{Enabled: true, InitialManagement: rootSecret, DownPolicy: "extend-cache"}
	one, two := w.serverWith("dc1", "10.0.0.1", acls), w.serverWith("dc2", "10.0.0.2", acls)
	w.meet(one, two)
	accessor, secret := one.token(`key_prefix "" { policy = "write" }`)
	for _, local := range []string{"", "?dc=dc1"} {
		one.as(secret, "PUT", "/v1/kv/a"+local, "b", 200, "true") // the control
	}
	one.as(rootSecret, "PUT", "/v1/kv/a?dc=dc2", "b", 200, "true") // as is this: both know the root's
	one.as(secret, "PUT", "/v1/kv/a?dc=dc2", "b", 403, "ACL not found")
	one.as(secret, "GET", "/v1/kv/a?dc=dc2", "", 403, "ACL not found")
	two.as(secret, "PUT", "/v1/kv/a", "b", 403, "ACL not found")
	two.as(secret, "PUT", "/v1/kv/a?dc=dc1", "b", 200, "true") // it is dc1 that answers
	one.as(rootSecret, "DELETE", "/v1/acl/token/"+accessor, "", 200, "true")
	one.as(secret, "PUT", "/v1/kv/a", "b", 403, "ACL not found")
	two.as(secret, "PUT", "/v1/kv/a?dc=dc1", "b", 403, "ACL not found")
}

// A query whose service nobody has here is answered by another datacenter, in the order that it says, under the caller's own rights.
func TestQueryFailsOver(t *testing.T) {
	w := &world{t: t, net: memnet.New()}
	one, two := w.server("dc1", "10.0.0.1"), w.server("dc2", "10.0.0.2")
	w.meet(one, two)
	for _, body := range []string{
		`{"Node":"n1","Address":"10.2.0.1","Service":{"ID":"web1","Service":"web","Port":80,"Tags":["a"]}}`,
		`{"Node":"n2","Address":"10.2.0.2","Service":{"ID":"web2","Service":"web","Port":80,"Tags":["b"]},"Checks":[{"Name":"up","Status":"critical","ServiceID":"web2"}]}`,
		`{"Node":"n3","Address":"10.2.0.3","Service":{"ID":"web3","Service":"web","Port":80,"Tags":["b"]}}`,
	} {
		two.do("PUT", "/v1/catalog/register", body, 200, "true")
	}
	for name, failover := range map[string]string{
		"none": `{}`, "nearest": `{"NearestN":2}`, "named": `{"Datacenters":["dc1","nowhere","dc2"]}`, "target": `{"Targets":[{"Peer":"p"},{"Datacenter":"dc2"}]}`,
	} {
		one.query(`{"Name":"` + name + `","Service":{"Service":"web","Tags":["b"],"Failover":` + failover + `}}`)
	}
	one.do("GET", "/v1/query/none/execute", "", 200, `"Nodes":[],"DNS":{"TTL":""},"Datacenter":"dc1","Failovers":0}`)
	for _, name := range []string{"nearest", "named", "target"} {
		var got struct {
			Nodes []struct {
				Node    struct{ Node, Datacenter string }
				Service struct{ ID string }
			}
			Datacenter string
			Failovers  int
		}
		if err := json.NewDecoder(one.request("GET", "/v1/query/"+name+"/execute", nil).Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if len(got.Nodes) != 1 || got.Nodes[0].Service.ID != "web3" || got.Nodes[0].Node.Datacenter != "dc2" || got.Datacenter != "dc2" || got.Failovers != 1 {
			t.Errorf("%s: %+v, want web3 of dc2 after one failover", name, got)
		}
	}
	// Who is here goes first; and a datacenter with nobody either was asked in vain.
	one.do("PUT", "/v1/catalog/register", `{"Node":"n9","Address":"10.1.0.9","Service":{"ID":"web9","Service":"web","Port":80,"Tags":["b"]}}`, 200, "true")
	one.do("GET", "/v1/query/named/execute", "", 200, `"Datacenter":"dc1","Failovers":0}`)
	one.query(`{"Name":"vain","Service":{"Service":"none","Failover":{"NearestN":1}}}`)
	one.do("GET", "/v1/query/vain/execute", "", 200, `"Nodes":[],"DNS":{"TTL":""},"Datacenter":"dc1","Failovers":1}`)
}
