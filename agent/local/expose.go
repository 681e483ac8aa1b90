// SPDX-License-Identifier: Apache-2.0

package local

import (
	"cmp"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// exposed are the ports at which proxies let the checks of their services through, by check. A check keeps its port for as long as the
// agent runs.
type exposed struct {
	min, max int
	ports    map[string]int
	central  map[string]catalog.Expose // by proxy: what the configuration entries say of it
}

// Expose is told what config entries say of which paths a proxy exposes, checks among them; it holds where the registration says nothing.
func (s *State) Expose(proxy string, central catalog.Expose) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.exposed.central[proxy]
	if old.Checks == central.Checks && slices.Equal(old.Paths, central.Paths) {
		return
	}
	if s.exposed.central == nil {
		s.exposed.central = map[string]catalog.Expose{}
	}
	if !central.Checks && len(central.Paths) == 0 {
		delete(s.exposed.central, proxy)
	} else {
		s.exposed.central[proxy] = central
	}
	if old.Checks || central.Checks || s.now.exposing[proxy] {
		s.publishLocked()
	}
}

// proxies are those that expose checks, by their registration or by config entries.
func (e *exposed) proxies(w *Wanted, said map[string]bool) map[string]bool {
	if len(e.central) == 0 {
		return said
	}
	all := maps.Clone(said)
	for id, central := range e.central {
		switch svc := w.Services[id]; {
		case svc == nil || svc.Record.Proxy == nil:
			delete(e.central, id) // whoever has the ID next is told of anew
		case central.Checks && svc.Record.Proxy.DestinationServiceID != "":
			all[id] = true
		}
	}
	return all
}

// grpcHealth is what a gRPC check calls.
const grpcHealth = "/grpc.health.v1.Health/Check"

// over has the proxies let their services' checks by HTTP and gRPC through, and these checks ask there: what
// w holds is replaced, not changed. Where no port is left, or a check is over TLS, the check stays as it is.
func (e *exposed) over(w *Wanted, proxies map[string]bool) {
	used := map[string]int{}
	for _, id := range slices.Sorted(maps.Keys(proxies)) {
		proxy := w.Services[id]
		host := cmp.Or(proxy.Record.Address, w.Node.Address, "127.0.0.1")
		if text, ok := proxy.Record.Proxy.Config["bind_address"].(string); ok && net.ParseIP(text) != nil && !net.ParseIP(text).IsUnspecified() {
			host = text
		}
		paths := slices.Clone(proxy.Record.Proxy.Expose.Over(e.central[id]).Paths)
		for _, check := range w.ChecksOf(proxy.Record.Proxy.DestinationServiceID) {
			path, at, ok := throughProxy(&check.Definition)
			if !ok || used[check.Record.CheckID] != 0 {
				continue
			}
			port := e.port(check.Record.CheckID, paths, used)
			if port == 0 {
				continue
			}
			used[check.Record.CheckID] = port
			path.ListenerPort = port
			paths = append(paths, path)
			moved, record := *check, *check.Record
			record.ExposedPort = port
			moved.Record, moved.Definition = &record, at(check.Definition, net.JoinHostPort(host, strconv.Itoa(port)))
			w.Checks[record.CheckID] = &moved
		}
		exposing, record, p := *proxy, *proxy.Record, *proxy.Record.Proxy
		p.Expose.Paths = paths
		record.Proxy, exposing.Record = &p, &record
		w.Services[id] = &exposing
	}
	e.ports = used
}

// port is the check's, or the lowest that neither a check nor one of the paths has; 0 if none is left.
func (e *exposed) port(check string, paths []catalog.ExposePath, used map[string]int) int {
	if port := e.ports[check]; port != 0 {
		return port
	}
	taken := map[int]bool{}
	for _, ports := range []map[string]int{e.ports, used} {
		for _, port := range ports {
			taken[port] = true
		}
	}
	for _, p := range paths {
		taken[p.ListenerPort] = true
	}
	for port := e.min; port <= e.max; port++ {
		if !taken[port] {
			return port
		}
	}
	return 0
}

// throughProxy is the path by which a check may ask through a proxy, and what makes it ask at the proxy's address.
func throughProxy(d *CheckDefinition) (path catalog.ExposePath, at func(d CheckDefinition, address string) CheckDefinition, ok bool) {
	switch d.Type() {
	case TypeHTTP:
		u, err := url.Parse(d.HTTP)
		if err != nil || u.Scheme != "http" {
			return path, nil, false
		}
		port, err := strconv.Atoi(cmp.Or(u.Port(), "80"))
		return catalog.ExposePath{Path: cmp.Or(u.EscapedPath(), "/"), LocalPathPort: port, Protocol: catalog.ProtocolHTTP}, func(d CheckDefinition, address string) CheckDefinition {
			moved := *u
			moved.Host = address
			d.HTTP = moved.String()
			return d
		}, err == nil
	case TypeGRPC:
		if d.GRPCUseTLS {
			return path, nil, false
		}
		target, service, named := strings.Cut(d.GRPC, "/")
		_, text, err := net.SplitHostPort(target)
		port, bad := strconv.Atoi(text)
		return catalog.ExposePath{Path: grpcHealth, LocalPathPort: port, Protocol: catalog.ProtocolHTTP2}, func(d CheckDefinition, address string) CheckDefinition {
			if d.GRPC = address; named {
				d.GRPC += "/" + service
			}
			return d
		}, err == nil && bad == nil
	}
	return path, nil, false
}
