// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Coordinates are written some seconds after they were sent, sort what is asked for with near, and go with their nodes.
func TestCoordinates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, "")
		at := func(ms float64) string {
			return fmt.Sprintf(`{"Vec":[%v,0,0,0,0,0,0,0],"Error":1.5,"Adjustment":0,"Height":0}`, ms/1000)
		}
		for i, ms := range []float64{10, 3, 0} {
			n := i + 1
			r.do("PUT", "/v1/catalog/register", fmt.Sprintf(`{"Node":"n%d","Address":"10.0.0.%d","Service":{"Service":"web","Port":80}}`, n, n), 200, "true")
			r.do("PUT", "/v1/coordinate/update", fmt.Sprintf(`{"Node":"N%d","Coord":%s}`, n, at(ms)), 200, "")
		}
		r.do("PUT", "/v1/catalog/register", `{"Node":"n4","Address":"10.0.0.4","Service":{"Service":"web","Port":80}}`, 200, "true")
		r.do("PUT", "/v1/coordinate/update", `{"Node":"nobody","Coord":`+at(1)+`}`, 200, "")
		for _, bad := range []string{`{"Node":"n1","Coord":{"Vec":[1]}}`, `{"Node":"n1","Coord":{"Vec":[1e999,0,0,0,0,0,0,0]}}`, `x`} {
			r.do("PUT", "/v1/coordinate/update", bad, 400, "")
		}
		r.do("GET", "/v1/coordinate/nodes", "", 200, "[]")
		time.Sleep(coordinateEvery + time.Second)
		h := r.do("GET", "/v1/coordinate/nodes", "", 200, `{"Node":"n2","Segment":"","Coord":{"Vec":[0.003,`)
		r.do("GET", "/v1/coordinate/node/n1", "", 200, `"Node":"n1"`)
		r.do("GET", "/v1/coordinate/node/n4", "", 404, "")
		r.do("GET", "/v1/coordinate/nodes?segment=alpha", "", 200, "[]")
		r.do("GET", "/v1/coordinate/datacenters", "", 200, "[]")
		order := func(path string) string {
			var list []struct {
				Node json.RawMessage
			}
			if err := json.NewDecoder(r.request("GET", path, nil).Body).Decode(&list); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range list {
				name := string(e.Node)
				if i := strings.Index(name, `"Node":"`); i >= 0 {
					name = name[i+8 : i+10]
				}
				names = append(names, strings.Trim(name, `"`))
			}
			return strings.Join(names, " ")
		}
		for path, want := range map[string]string{
			"/v1/health/service/web?near=n3":  "n3 n2 n1 n4",
			"/v1/health/service/web?near=n1":  "n1 n2 n3 n4",
			"/v1/health/service/web?near=n4":  "n4 n1 n2 n3",
			"/v1/catalog/service/web?near=N2": "n2 n3 n1 n4",
			"/v1/catalog/nodes?near=n3":       "n3 n2 n1 n4",
		} {
			if got := order(path); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		// A node that goes takes its coordinate along, and who waits for coordinates hears of it.
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.do("GET", "/v1/coordinate/nodes?wait=1m&index="+h.Get("X-Consul-Index"), "", 200, "")
		}()
		time.Sleep(time.Second)
		r.do("PUT", "/v1/catalog/deregister", `{"Node":"n2"}`, 200, "true")
		<-done
		r.do("GET", "/v1/coordinate/node/n2", "", 404, "")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}
