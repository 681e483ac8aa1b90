// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"time"
)

// change makes a change each 100 ms, in turns.
func (h *hour) change() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-h.ended.Done():
			return
		case <-tick.C:
		}
		began := time.Now()
		h.note("changes", began, h.turn(n))
	}
}

// turn is the n-th change. A round has ten.
func (h *hour) turn(n int) error {
	round := n / 10
	switch n % 10 {
	case 0, 5:
		return h.split(float64(n % 101))
	case 1, 6:
		return h.routed()
	case 2:
		return h.defaults("api", "http", 1000+round%100)
	case 3:
		return h.defaults("raw", "tcp", 1000+round%100)
	case 4:
		return h.guard()
	case 7:
		return h.move(round%4 < 2)
	case 8:
		return h.permit(round)
	default:
		return h.defaults("calls", "grpc", 1000+round%100)
	}
}

func (h *hour) entryIs(kind, service string, fields object) error {
	fields["Kind"], fields["Name"] = kind, h.name(service)
	return h.w.do(http.MethodPut, "/v1/config", fields, nil)
}

// defaults has nothing in it that traffic meets: bounds that are high enough.
func (h *hour) defaults(service, protocol string, most int) error {
	return h.entryIs("service-defaults", service, object{
		"Protocol": protocol, "MaxInboundConnections": most, "LocalConnectTimeoutMs": int(patience.Milliseconds()) + most,
		"UpstreamConfig": object{"Defaults": object{"Limits": object{"MaxConnections": most}}},
	})
}

func (h *hour) intended(service, action string) error {
	return h.w.do(http.MethodPut, "/v1/connect/intentions/exact?source="+h.name("web")+"&destination="+h.name(service), object{"Action": action}, nil)
}

// guard changes whether the guarded services may be called.
func (h *hour) guard() error {
	h.changed.Store(time.Now().UnixNano())
	action := "allow"
	if h.guards.Add(1)%2 == 1 {
		action = "deny"
	}
	err := h.intended("guarded", action)
	if err == nil {
		err = h.intended("shut", action)
	}
	h.changed.Store(time.Now().UnixNano())
	return err
}

// mayBeDenied says whether what began at that change may have been denied since. How soon a change is in force is asked elsewhere
// (TestTable): here it may take as long as an answer.
func (h *hour) mayBeDenied(began int64) bool {
	return h.guards.Load() > began || began%2 == 1 || time.Since(time.Unix(0, h.changed.Load())) < patience
}

// permit changes what else than now web may ask of api; both forms allow all that it asks.
func (h *hour) permit(round int) error {
	return h.entryIs("service-intentions", "api", object{"Sources": []object{{"Name": h.name("web"), "Permissions": []object{
		{"Action": "deny", "HTTP": object{"PathExact": fmt.Sprint("/never/", round)}},
		{"Action": "allow", "HTTP": object{"PathPrefix": "/"}},
	}}}})
}

func (h *hour) split(one float64) error {
	return h.entryIs("service-splitter", "api", object{"Splits": []object{
		{"Weight": one, "ServiceSubset": "v1"}, {"Weight": 100 - one, "ServiceSubset": "v2"},
	}})
}

// routed writes routes with a version that answers say, and with other retries than before.
func (h *hour) routed() error {
	v := h.route.Add(1)
	return h.entryIs("service-router", "api", object{"Routes": []object{
		{"Match": object{"HTTP": object{"PathExact": fmt.Sprint("/other/", v)}}, "Destination": object{"Service": h.name("moving")}},
		{"Match": object{"HTTP": object{"PathPrefix": "/"}}, "Destination": object{
			"NumRetries": 1 + v%3, "RetryOnConnectFailure": true, "RequestTimeout": fmt.Sprint(30+v%10, "s"), "ResponseHeaders": object{"Set": object{route: fmt.Sprint(v)}},
		}},
	}})
}

// move has the second instance of moving come or go. Its sidecar stays, and has nothing to do meanwhile.
func (h *hour) move(come bool) error {
	i := h.second
	if come == h.there {
		return nil
	}
	h.there = come
	if !come {
		return h.w.do(http.MethodPut, "/v1/agent/service/deregister/"+i.ID, nil, nil)
	}
	return h.w.do(http.MethodPut, "/v1/agent/service/register", object{
		"ID": i.ID, "Name": i.Name, "Port": i.Port, "Connect": object{"SidecarService": object{
			"Port": i.Public, "Checks": []object{{"Name": "alias " + i.ID, "AliasService": i.ID}},
		}},
	}, nil)
}
