// SPDX-License-Identifier: Apache-2.0

// Package verify says of every proxy whether it has what it should have, and if not, which records it lacks. What it should have
// is what the code that configures proxies makes of this server's catalog; what it has is what its agent reports. It is a
// comparison: it reads, and waits for reports where it is told to. It owns no goroutine.
package verify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/server/feed"
)

// The states of a proxy.
const (
	InSync      = "in-sync"     // it has acknowledged what it should have
	Pending     = "pending"     // it has been told, or is about to be, and hasn't acknowledged all of it
	Behind      = "behind"      // its agent hasn't followed the catalog yet
	Refused     = "refused"     // it won't take what it was told
	NotReady    = "not-ready"   // its agent can't tell it anything newer
	Differs     = "differs"     // it has something else than this server would tell it
	Unreachable = "unreachable" // it isn't connected to its agent, or nothing is heard of its agent
)

// About is what rendering needs to know of a proxy besides its registration.
type About struct {
	NodeAddress  string
	Weft         bool   // weft's own proxy
	Version      string // of the proxy, by its own word
	DefaultAllow bool
	Now          time.Time
}

// Rendering is what a proxy should have, but for its certificate, which only its agent has.
type Rendering struct {
	ConfigHash string
	TypeHashes map[string]string // by type URL
}

// Render configures a proxy, reading on a recording transaction. Where it gives no hash, nothing is compared but what agents say.
type Render func(t *catalog.Txn, proxy *catalog.Service, about About) (Rendering, error)

// Proxy is one proxy's case.
type Proxy struct {
	Node, ProxyID, Service string
	Namespace              string `json:",omitempty"` // of the service, where it isn't the default one
	State                  string
	Why                    string   `json:",omitempty"` // in words; "" where it is in sync
	Records                []Record `json:",omitempty"` // that it lacks
	Types                  []string `json:",omitempty"` // type URLs of what differs

	Connected     bool
	Version       string `json:",omitempty"`
	CatalogIndex  uint64 // the last change of anything that this proxy's configuration depends on
	RenderedIndex uint64
	RenderedHash  string
	AckedHash     string
	Refusal       string   `json:",omitempty"`
	Warnings      []string `json:",omitempty"`
	// UpToDate: the proxy has what its agent rendered for it last.
	UpToDate bool
}

// Record is something in the catalog, and its last change.
type Record struct {
	What  string // as "service-intentions default/api"
	Index uint64
}

// Config is what a Verifier is made of.
type Config struct {
	Store        *catalog.Store
	Reports      func() ([]*feed.Report, <-chan struct{})
	Render       Render
	DefaultAllow bool
	Now          func() time.Time
}

// Verifier compares. Its methods may be called at the same time.
type Verifier struct{ c Config }

// New makes a verifier.
func New(c Config) *Verifier { return &Verifier{c} }

// registered is a proxy as the catalog knows it.
type registered struct {
	node    *catalog.Node
	service *catalog.Service
}

// proxies lists the scope's sidecars whose service keep accepts.
func proxies(t *catalog.Txn, scope catalog.Scope, keep func(service catalog.Key) bool) ([]registered, error) {
	nodes, err := t.Nodes(scope)
	if err != nil {
		return nil, err
	}
	var out []registered
	for _, n := range nodes {
		services, err := t.NodeServices(n.Key())
		if err != nil {
			return nil, err
		}
		for _, s := range services {
			if s.Kind == catalog.KindConnectProxy && s.Proxy != nil && keep(s.Scope.Name(s.Proxy.DestinationServiceName)) {
				out = append(out, registered{n, s})
			}
		}
	}
	return out, nil
}

// Look compares every sidecar of a scope whose service keep accepts with the catalog as it is now.
func (v *Verifier) Look(scope catalog.Scope, keep func(service catalog.Key) bool) ([]Proxy, error) {
	view := v.c.Store.Read()
	all, err := proxies(view, scope, keep)
	if err != nil {
		return nil, err
	}
	reports := v.reports()
	out := make([]Proxy, 0, len(all))
	for _, p := range all {
		reading := view.With().Record()
		want, err := v.render(reading, p, reports[key(p.node)])
		c := v.judge(p, reports[key(p.node)], reading)
		if c.State == InSync {
			v.compare(&c, view, p, reports[key(p.node)], want, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func key(n *catalog.Node) string { return n.Key().Fold().String() }

func (v *Verifier) reports() map[string]*feed.Report {
	all, _ := v.c.Reports()
	by := make(map[string]*feed.Report, len(all))
	for _, r := range all {
		by[r.Node.Fold().String()] = r
	}
	return by
}

func (v *Verifier) render(reading *catalog.Txn, p registered, r *feed.Report) (Rendering, error) {
	about := About{NodeAddress: p.node.Address, DefaultAllow: v.c.DefaultAllow, Now: v.c.Now()}
	if r != nil {
		told := r.Proxies[p.service.ID]
		about.Weft, about.Version = told.GetWeft(), told.GetProxyVersion()
	}
	return v.c.Render(reading, p.service, about)
}

// judge says how far a proxy is by what its agent says, against what the rendering read.
func (v *Verifier) judge(p registered, r *feed.Report, reading *catalog.Txn) Proxy {
	c := Proxy{
		Node: p.node.Node, ProxyID: p.service.ID, Service: p.service.Proxy.DestinationServiceName, State: Unreachable,
		CatalogIndex: reading.ResultIndex(),
	}
	if ns := p.service.Namespace; ns != catalog.DefaultNamespace {
		c.Namespace = ns
	}
	if r == nil {
		c.Why = "its agent has not reported lately: it doesn't run, is cut off, or has just started"
		return c
	}
	told := r.Proxies[p.service.ID]
	if told == nil {
		c.Why = "its agent doesn't know it: it was registered in the catalog only, or was deregistered there"
		return c
	}
	c.Connected, c.Version, c.Refusal, c.Warnings = told.GetConnected(), told.GetVersion(), told.GetRefusal(), told.GetWarnings()
	c.RenderedIndex, c.RenderedHash, c.AckedHash = told.GetRenderedIndex(), told.GetRenderedHash(), told.GetAckedHash()
	same := told.GetRenderedHash() != "" && told.GetRenderedHash() == told.GetAckedHash()
	c.UpToDate = same && told.GetConnected()
	switch {
	case !told.GetConnected():
		c.Why = "it isn't connected to its agent: does it run?"
	case told.GetNotReady() != "":
		c.State, c.Why = NotReady, told.GetNotReady()
	case c.RenderedIndex < c.CatalogIndex:
		c.State, c.Records = Behind, records(reading, c.RenderedIndex)
		c.Why = fmt.Sprintf("its agent has rendered as of index %d, and what it depends on changed at %d", c.RenderedIndex, c.CatalogIndex)
	case !same && told.GetRefusal() != "":
		c.State, c.Records = Refused, records(reading, told.GetAckedIndex())
		c.Why = "it keeps what it had, because: " + told.GetRefusal()
	case !same:
		c.State, c.Records = Pending, records(reading, told.GetAckedIndex())
		c.Why = "it has not acknowledged all that it was told"
	default:
		c.State = InSync
	}
	return c
}

// compare tells whether what an up-to-date proxy has is what this server would tell it.
func (v *Verifier) compare(c *Proxy, view *catalog.Txn, p registered, r *feed.Report, want Rendering, err error) {
	told := r.Proxies[p.service.ID]
	switch {
	case err != nil:
		c.State, c.Why = Differs, "this server can't render it: "+err.Error()
		return
	case want.ConfigHash == told.GetConfigHash(), want.ConfigHash == "":
		return
	}
	c.State, c.Why = Differs, "its agent renders something else from the same records: are both of one version?"
	types := map[string]bool{}
	for url := range want.TypeHashes {
		types[url] = true
	}
	for url := range told.GetTypeHashes() {
		types[url] = true
	}
	for url := range types {
		if want.TypeHashes[url] != told.GetTypeHashes()[url] {
			c.Types = append(c.Types, url)
		}
	}
	slices.Sort(c.Types)
	if r.DefaultAllow != v.c.DefaultAllow {
		c.Why = fmt.Sprintf("its agent decides otherwise where no intention speaks: default_intention_policy is %s there and %s on this server",
			policy(r.DefaultAllow), policy(v.c.DefaultAllow))
	}
}

func policy(allow bool) string {
	if allow {
		return catalog.ActionAllow
	}
	return catalog.ActionDeny
}

// records are what was read and has changed after an index.
func records(reading *catalog.Txn, after uint64) []Record {
	var out []Record
	for topic, index := range reading.ChangedSince(after) {
		out = append(out, Record{what(topic), index})
	}
	slices.SortFunc(out, func(a, b Record) int {
		if a.Index != b.Index {
			return int(int64(b.Index - a.Index))
		}
		if a.What < b.What {
			return -1
		}
		return 1
	})
	return out
}

func what(t catalog.Topic) string {
	switch t.Kind {
	case catalog.TopicEntry:
		return t.Entry + " " + t.Key.String()
	case catalog.TopicConnect, catalog.TopicService:
		return "instances of " + t.Key.String()
	case catalog.TopicCA:
		return "certificate authority"
	}
	return t.String()
}

// Settle waits, for as long as ctx lasts, until every sidecar that a write at this index concerns has it or refuses it. Those
// that can't be reached aren't waited for. It tells of those that are concerned alone.
func (v *Verifier) Settle(ctx context.Context, scope catalog.Scope, write uint64, keep func(service catalog.Key) bool) ([]Proxy, error) {
	if err := v.c.Store.WaitAny(ctx, write-1); err != nil {
		return nil, fmt.Errorf("the write isn't here yet: %w", err)
	}
	view := v.c.Store.Read()
	all, err := proxies(view, scope, keep)
	if err != nil {
		return nil, err
	}
	var concerned []registered
	readings := map[*catalog.Service]*catalog.Txn{}
	for _, p := range all {
		reading := view.With().Record()
		_, _ = v.render(reading, p, nil) // for what it reads
		if reading.ResultIndex() >= write {
			concerned, readings[p.service] = append(concerned, p), reading
		}
	}
	for {
		_, newer := v.c.Reports()
		reports, settled := v.reports(), true
		out := make([]Proxy, 0, len(concerned))
		for _, p := range concerned {
			c := v.judge(p, reports[key(p.node)], readings[p.service])
			settled = settled && (c.State == InSync || c.State == Refused || c.State == Unreachable)
			out = append(out, c)
		}
		if settled {
			return out, nil
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return out, nil
		}
	}
}

// Envoys are the connected proxies that aren't weft's own, by their IDs.
func (v *Verifier) Envoys() []string {
	all, _ := v.c.Reports()
	var out []string
	for _, r := range all {
		for id, p := range r.Proxies {
			if p.GetConnected() && !p.GetWeft() {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return out
}
