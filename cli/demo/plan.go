// SPDX-License-Identifier: Apache-2.0

// Package demo runs a small mesh on one machine: a dev agent, three services in four processes, their sidecars and a
// trickle of traffic, and shows what flows. Everything is a child process of the demo, and none outlives it. Demo.Run owns
// all goroutines and children.
package demo

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
)

// Ports are where everything of the demo listens, on loopback.
type Ports struct {
	HTTP, GRPC, DNS  int // of the agent
	SidecarMin       int // first of the sidecars' range
	Web, API1, API2  int // the services themselves
	DB               int
	WebToAPI         int // where web's sidecar listens for api
	API1ToDB         int
	API2ToDB         int
	Admin            map[string]int // of each sidecar, by proxy ID
	sidecarRangeSize int
}

// The IDs of the four instances.
const (
	webID  = "web"
	api1ID = "api-v1"
	api2ID = "api-v2"
	dbID   = "db"
)

var instances = []string{webID, api1ID, api2ID, dbID}

// NewPorts are the demo's ports, all moved by offset.
func NewPorts(offset int) Ports {
	p := Ports{
		HTTP: 8500, GRPC: 8502, DNS: 8600, SidecarMin: 21000, Web: 9090, API1: 9101, API2: 9102, DB: 9103,
		WebToAPI: 9191, API1ToDB: 9192, API2ToDB: 9193, sidecarRangeSize: 16, Admin: map[string]int{},
	}
	for _, port := range []*int{&p.HTTP, &p.GRPC, &p.DNS, &p.SidecarMin, &p.Web, &p.API1, &p.API2, &p.DB, &p.WebToAPI, &p.API1ToDB, &p.API2ToDB} {
		*port += offset
	}
	for i, id := range instances {
		p.Admin[sidecarID(id)] = 19001 + i + offset
	}
	return p
}

func sidecarID(id string) string { return id + "-sidecar-proxy" }

// All names each port that must be free, by what it is for.
func (p Ports) All() map[int]string {
	all := map[int]string{
		p.HTTP: "the agent's HTTP API", p.GRPC: "the agent's xDS", p.DNS: "the agent's DNS", p.Web: "web", p.API1: "api v1", p.API2: "api v2", p.DB: "db",
		p.WebToAPI: "web's upstream api", p.API1ToDB: "api v1's upstream db", p.API2ToDB: "api v2's upstream db",
	}
	for id, port := range p.Admin {
		all[port] = "the admin page of " + id
	}
	for i := range instances {
		all[p.SidecarMin+i] = "a sidecar"
	}
	return all
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

type object = map[string]any

// registrations are the bodies of the agent's register calls.
func (p Ports) registrations() []object {
	service := func(id, name, version string, port int, upstream object, check object) object {
		proxy := object{}
		if upstream != nil {
			proxy["Upstreams"] = []object{upstream}
		}
		s := object{
			"ID": id, "Name": name, "Port": port, "Address": "127.0.0.1",
			"Check":   check,
			"Connect": object{"SidecarService": object{"Proxy": proxy}},
		}
		if version != "" {
			s["Meta"] = object{"version": version}
		}
		return s
	}
	http := func(port int) object {
		return object{"HTTP": "http://" + local(port) + "/healthz", "Interval": "2s", "Timeout": "1s"}
	}
	tcp := func(port int) object { return object{"TCP": local(port), "Interval": "2s", "Timeout": "1s"} }
	up := func(name string, port int) object {
		return object{"DestinationName": name, "LocalBindPort": port}
	}
	return []object{
		service(dbID, "db", "", p.DB, nil, tcp(p.DB)),
		service(api1ID, "api", "v1", p.API1, up("db", p.API1ToDB), http(p.API1)),
		service(api2ID, "api", "v2", p.API2, up("db", p.API2ToDB), http(p.API2)),
		service(webID, "web", "", p.Web, up("api", p.WebToAPI), http(p.Web)),
	}
}

// entries are the config entries that the demo begins with.
func entries() []object {
	return []object{
		{"Kind": "service-defaults", "Name": "web", "Protocol": "http"},
		{"Kind": "service-defaults", "Name": "api", "Protocol": "http"},
		{
			"Kind": "service-resolver", "Name": "api",
			"Subsets": object{
				"v1": object{"Filter": `Service.Meta.version == "v1"`},
				"v2": object{"Filter": `Service.Meta.version == "v2"`},
			},
		},
		splitter(100),
		{"Kind": "service-intentions", "Name": "*", "Sources": []object{{"Name": "*", "Action": "deny", "Description": "nobody calls anybody unless it is allowed"}}},
		{"Kind": "service-intentions", "Name": "api", "Sources": []object{{"Name": "web", "Action": "allow"}}},
		{"Kind": "service-intentions", "Name": "db", "Sources": []object{{"Name": "api", "Action": "allow"}}},
	}
}

// splitter gives v1 this share of api's requests, in percent.
func splitter(v1 float64) object {
	splits := []object{{"Weight": v1, "ServiceSubset": "v1"}}
	if v1 < 100 {
		splits = append(splits, object{"Weight": 100 - v1, "ServiceSubset": "v2"})
	}
	return object{"Kind": "service-splitter", "Name": "api", "Splits": splits}
}

// banner says what runs where, and what to try.
func (p Ports) banner(weft string) string {
	addr := ""
	if p.HTTP != 8500 {
		addr = " -http-addr=" + local(p.HTTP)
	}
	shift, _ := json.Marshal(splitter(0)) // plain strings and numbers
	return fmt.Sprintf(`
weft demo: web -> api (v1, v2) -> db, each behind a sidecar of weft's own, over mutual TLS

  web     http://%s        api v1  %s    api v2  %s    db  %s
  agent   http://%s   (xDS %s)
  sidecars' metrics: http://%s/metrics and the three ports after it

Three things to try, in another terminal:

  1. Open the page of web:           http://%s/
  2. Deny web -> api:                %s intention create%s -deny -replace web api
     ... and allow it again:         %s intention create%s -allow -replace web api
  3. Shift all traffic to api v2:    echo '%s' | %s config write%s -

Ctrl-C stops everything.

`, local(p.Web), local(p.API1), local(p.API2), local(p.DB), local(p.HTTP), local(p.GRPC), local(p.Admin[sidecarID(webID)]), local(p.Web),
		weft, addr, weft, addr, shift, weft, addr)
}
