// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/decode"
	"github.com/weftmesh/weft/server/tokens"
)

// ErrUnreadable is wrapped by errors about a state that can't be read, or that mustn't be taken in part.
var ErrUnreadable = errors.New("Consul's snapshot can't be taken") //nolint:staticcheck // a name

// Report is what became of a snapshot: what was taken, and what wasn't and why.
type Report struct {
	Index uint64 // Consul's last
	Taken []Count
	Left  []Loss `json:",omitempty"`
}

// Count is how many of a sort were taken.
type Count struct {
	What  string
	Count int
}

// Loss is something that wasn't taken, or not whole.
type Loss struct{ What, Why string }

// Config is what a conversion needs to know.
type Config struct {
	Datacenter string // the cluster's; a snapshot of another one is refused. "" takes the snapshot's
	Schema     uint64 // the version that the catalog is for
}

// The owners of records, by what will write them from now on: see the servers' reconciliation and the agents.
const (
	agents  = "agent"
	members = "members"
)

// Convert makes a catalog of a state. Its indexes begin behind Consul's.
func Convert(r io.Reader, c Config) (*catalog.Store, *Report, error) {
	st, err := read(r)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if c.Datacenter == "" && len(st.records[sortRegister]) > 0 {
		c.Datacenter = text(st.records[sortRegister][0], "Datacenter")
	}
	store, err := catalog.New(catalog.Config{Datacenter: c.Datacenter})
	if err != nil {
		return nil, nil, err
	}
	b := &builder{c: c, store: store, next: st.index + 1, taken: map[string]int{}, sessions: map[string]bool{}}
	if err := b.put(catalog.RaiseSchema{Version: c.Schema}); err != nil {
		return nil, nil, err
	}
	for _, step := range []struct {
		sort byte
		take func(any) (what string, err error)
	}{
		{sortCAConfig, b.cluster}, {sortRegister, b.register}, {sortSession, b.session}, {sortKV, b.key}, {sortEntry, b.entry}, {sortPolicy, b.policy}, {sortRole, b.role},
		{sortAuthMethod, b.method}, {sortBindingRule, b.rule}, {sortToken, b.token}, {sortQuery, b.query}, {sortAutopilot, b.autopilot},
	} {
		for _, v := range st.records[step.sort] {
			what, err := step.take(spelled(v))
			switch {
			case errors.Is(err, ErrUnreadable):
				return nil, nil, err
			case errors.Is(err, errPassed):
			case err != nil:
				b.lose(what, "%v", err)
			default:
				b.taken[nameOf(step.sort)]++
			}
		}
		delete(st.records, step.sort)
	}
	b.rest(st)
	report := &Report{Index: st.index, Left: b.left}
	for _, what := range slices.Sorted(maps.Keys(b.taken)) {
		report.Taken = append(report.Taken, Count{what, b.taken[what]})
	}
	return store, report, nil
}

// errPassed says that a record is of no interest.
var errPassed = errors.New("passed over")

type builder struct {
	c            Config
	store        *catalog.Store
	next         uint64
	taken        map[string]int
	left         []Loss
	sessions     map[string]bool
	bootstrapped bool
}

// put applies a command.
func (b *builder) put(body catalog.Body) error {
	data, err := catalog.Encode(body)
	if err != nil {
		return err
	}
	result := b.store.Apply([]catalog.LogEntry{{Index: b.next, Data: data}})[0]
	b.next++
	return result.Err
}

func (b *builder) lose(what, format string, args ...any) {
	b.left = append(b.left, Loss{what, fmt.Sprintf(format, args...)})
}

// foreign are fields that say nothing here: bookkeeping, and what is empty in an edition without tenants.
var foreign = []string{
	"CreateIndex", "ModifyIndex", "RaftIndex", "EnterpriseMeta", "Hash", "QueryOptions", "WriteRequest", "LocallyRegisteredAsSidecar", "Datacenter", "Source", "Op",
	"Token", "SkipNodeUpdate", "AllowStale", "PeerName", "EnterpriseACLTokenMeta", "Partition", "Namespace",
}

// into decodes a record into one of weft's. What weft has no field for is named as lost, if it says anything.
func (b *builder) into(v any, what string, dst any) (lost []string, err error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("it is %T, want an object", v)
	}
	m = maps.Clone(m)
	for _, name := range foreign {
		delete(m, name)
	}
	doc := &decode.Document{Root: decode.FromAny(m)}
	lost, err = doc.Known(dst)
	lost = slices.DeleteFunc(lost, func(at string) bool { return empty(lookup(m, at)) })
	for _, at := range lost {
		b.lose(what, "%s has no place in weft", at)
	}
	return lost, err
}

// lookup finds a field by where it stands, as Proxy.Upstreams[0].X.
func lookup(v any, at string) any {
	for part := range strings.FieldsFuncSeq(at, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		switch t := v.(type) {
		case map[string]any:
			v = t[part]
		case []any:
			i := 0
			if _, err := fmt.Sscanf(part, "%d", &i); err != nil || i >= len(t) {
				return true
			}
			v = t[i]
		}
	}
	return v
}

// empty says whether a value says nothing.
func empty(v any) bool {
	switch t := v.(type) {
	case nil:
		return true
	case bool:
		return !t
	case string:
		return t == ""
	case int64:
		return t == 0
	case float64:
		return t == 0
	case []any:
		return !slices.ContainsFunc(t, func(item any) bool { return !empty(item) })
	case map[string]any:
		for _, value := range t {
			if !empty(value) {
				return false
			}
		}
		return true
	}
	return false
}

// cluster takes the cluster's ID, and with it the trust domain: identities keep their names.
func (b *builder) cluster(v any) (string, error) {
	id := text(v, "ClusterID")
	if id == "" {
		return "CA configuration", errPassed
	}
	if p := text(v, "Provider"); p != "" && p != "consul" {
		b.lose("CA provider "+p, "weft's own authority takes its place")
	}
	return "CA configuration", b.put(catalog.SetCluster{ID: id})
}

// scope is where a record belongs.
func (b *builder) scope() catalog.Scope { return catalog.Scope{}.Default(b.c.Datacenter) }

// fields are a record's own, to be changed.
func fields(v any) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: it isn't a record with fields", ErrUnreadable)
	}
	return maps.Clone(m), nil
}

func (b *builder) register(v any) (string, error) {
	name := text(v, "Node")
	what := fmt.Sprintf("node %q", name)
	if dc := text(v, "Datacenter"); dc != "" && dc != b.c.Datacenter {
		return what, fmt.Errorf("%w: it is of the datacenter %s, and this cluster is %s", ErrUnreadable, dc, b.c.Datacenter)
	}
	if peer := text(v, "PeerName"); peer != "" {
		return what, fmt.Errorf("it is imported from the peer %s", peer)
	}
	var rec struct {
		ID, Node, Address string
		TaggedAddresses   map[string]string
		NodeMeta          map[string]string
		Service           *catalog.Service
		Check             *catalog.Check
		Checks            []catalog.Check
	}
	service := field(v, "Service")
	if service != nil {
		what = fmt.Sprintf("service %q on node %q", text(service, "ID"), name)
	}
	m, err := fields(v)
	if err != nil {
		return what, err
	}
	for _, part := range []string{"Service", "Check"} {
		if inner, ok := m[part].(map[string]any); ok {
			inner = maps.Clone(inner)
			for _, f := range foreign {
				delete(inner, f)
			}
			if c, ok := inner["Connect"].(map[string]any); ok && empty(c["SidecarService"]) {
				delete(c, "SidecarService")
			}
			m[part] = inner
		}
	}
	if _, err := b.into(m, what, &rec); err != nil {
		return what, err
	}
	cmd := catalog.Register{Node: catalog.Node{
		Scope: b.scope(), ID: rec.ID, Node: rec.Node, Address: rec.Address, TaggedAddresses: rec.TaggedAddresses, Meta: rec.NodeMeta, Owner: agents,
	}}
	if s := rec.Service; s != nil {
		s.Scope, s.Node, s.Owner = b.scope(), name, agents
		if s.Service == "consul" {
			return what, errPassed // the servers' own: weft's register themselves
		}
		cmd.Services = append(cmd.Services, *s)
	}
	if rec.Check != nil {
		rec.Checks = append(rec.Checks, *rec.Check)
	}
	for i := range rec.Checks {
		c := &rec.Checks[i]
		c.Scope, c.Node, c.Owner = b.scope(), name, agents
		if c.CheckID == catalog.SerfHealth {
			c.Owner = members
		}
		cmd.Checks = append(cmd.Checks, *c)
	}
	return what, b.put(cmd)
}

func (b *builder) session(v any) (string, error) {
	what := "session " + text(v, "ID")
	m, err := fields(v)
	if err != nil {
		return what, err
	}
	delete(m, "Checks") // an older spelling of the others
	s := catalog.Session{}
	if _, err := b.into(m, what, &s); err != nil {
		return what, err
	}
	s.Scope = b.scope()
	err = b.put(catalog.CreateSession{Session: s})
	b.sessions[s.ID] = err == nil
	return what, err
}

func (b *builder) key(v any) (string, error) {
	what := fmt.Sprintf("key %q", text(v, "Key"))
	op := catalog.KVOp{Verb: catalog.KVSet, Key: catalog.Raw(text(v, "Key")), Value: []byte(text(v, "Value")), Flags: uint64(whole(field(v, "Flags")))}
	if f, ok := field(v, "Flags").(float64); ok {
		op.Flags = uint64(f)
	}
	if holder := text(v, "Session"); holder != "" {
		if b.sessions[holder] {
			op.Verb, op.Session = catalog.KVLock, holder
		} else {
			b.lose(what, "its lock: the session %s isn't there", holder)
		}
	}
	return what, b.put(op)
}

// entry takes a config entry. What protects is taken whole, or nothing is taken at all.
func (b *builder) entry(v any) (string, error) {
	packed, _ := v.(string)
	u := &unpacker{bufio.NewReader(strings.NewReader(packed))}
	kind, err := u.next()
	if err != nil {
		return "a config entry", cut(err)
	}
	whole, err := u.next()
	if err != nil {
		return "a config entry", cut(err)
	}
	m, _ := field(spelled(whole), "Entry").(map[string]any)
	what := fmt.Sprintf("config entry %v/%s", kind, text(m, "Name"))
	name, _ := kind.(string)
	entry, err := catalog.NewEntry(name)
	if err != nil {
		return what, errors.New("weft has no such kind")
	}
	m = maps.Clone(m)
	delete(m, "Kind")
	lost, err := b.into(m, what, entry)
	if err == nil {
		entry.Head().Scope, entry.Head().Indexes, entry.Head().Hash = b.scope(), catalog.Indexes{}, 0
		entry.Normalize()
		err = entry.Validate()
	}
	if name == catalog.KindServiceIntentions && (err != nil || len(lost) > 0) {
		return what, fmt.Errorf("%w: %s can't be taken whole (%v%s), and who may call mustn't change: change it in Consul, or delete it there and write it anew in weft",
			ErrUnreadable, what, errText(err), strings.Join(lost, ", "))
	}
	if err != nil {
		return what, err
	}
	return what, b.put(catalog.SetEntry{Entry: catalog.EntryBox{Entry: entry}})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error() + " "
}

// hash is a digest of what an ACL object says, so that a client sees whether it changed.
func hash(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(data)
	return sum[:]
}

func (b *builder) write(o catalog.ACLObject) error {
	return b.put(catalog.SetACL{Create: true, Objects: []catalog.ACLObject{o}})
}

func (b *builder) policy(v any) (string, error) {
	p := &catalog.ACLPolicy{}
	what := fmt.Sprintf("ACL policy %q", text(v, "Name"))
	if _, err := b.into(without(v, "Syntax"), what, p); err != nil {
		return what, err
	}
	switch p.ID { // what is built in grants all that weft knows
	case managementPolicy:
		p.Rules = acl.GlobalManagement
	case readOnlyPolicy:
		p.Rules = acl.GlobalReadOnly
	}
	p.Hash = hash(p)
	return what, b.write(catalog.ACLObject{Policy: p})
}

func without(v any, names ...string) any {
	m, _ := v.(map[string]any)
	m = maps.Clone(m)
	for _, n := range names {
		delete(m, n)
	}
	return m
}

func (b *builder) role(v any) (string, error) {
	r := &catalog.ACLRole{}
	what := fmt.Sprintf("ACL role %q", text(v, "Name"))
	if _, err := b.into(v, what, r); err != nil {
		return what, err
	}
	r.Hash = hash(r)
	return what, b.write(catalog.ACLObject{Role: r})
}

func (b *builder) method(v any) (string, error) {
	m := &catalog.ACLAuthMethod{}
	what := fmt.Sprintf("ACL auth method %q", text(v, "Name"))
	if _, err := b.into(v, what, m); err != nil {
		return what, err
	}
	return what, b.write(catalog.ACLObject{AuthMethod: m})
}

func (b *builder) rule(v any) (string, error) {
	r := &catalog.ACLBindingRule{}
	what := "ACL binding rule " + text(v, "ID")
	if _, err := b.into(v, what, r); err != nil {
		return what, err
	}
	return what, b.write(catalog.ACLObject{BindingRule: r})
}

// The built-in policies: managementPolicy grants everything.
const (
	managementPolicy = "00000000-0000-0000-0000-000000000001"
	readOnlyPolicy   = "00000000-0000-0000-0000-000000000002"
)

// token takes a token by its secret's hash. The first that manages stands for the bootstrap, which so can't be done again.
func (b *builder) token(v any) (string, error) {
	what := "ACL token " + text(v, "AccessorID")
	if !empty(field(v, "Type")) && empty(field(v, "Policies")) || text(v, "Rules") != "" {
		return what, errors.New("it is of Consul's old ACLs")
	}
	t := &catalog.ACLToken{}
	if _, err := b.into(without(v, "SecretID", "ExpirationTTL", "Rules", "Type"), what, t); err != nil {
		return what, err
	}
	t.SecretHash = tokens.Hash(text(v, "SecretID"))
	t.Hash = hash(t)
	if !b.bootstrapped && t.ExpirationTime == nil && slices.ContainsFunc(t.Policies, func(l catalog.ACLLink) bool { return l.ID == managementPolicy }) {
		b.bootstrapped = true
		return what, b.put(catalog.BootstrapACL{Token: *t})
	}
	return what, b.write(catalog.ACLObject{Token: t})
}

func (b *builder) query(v any) (string, error) {
	q := catalog.PreparedQuery{}
	what := fmt.Sprintf("prepared query %q", text(v, "Name"))
	token := text(v, "Token") // of the query, not of a request
	if _, err := b.into(v, what, &q); err != nil {
		return what, err
	}
	q.Token = token
	return what, b.put(catalog.SetQuery{Query: q, Create: true})
}

func (b *builder) autopilot(v any) (string, error) {
	c := catalog.DefaultAutopilot()
	if _, err := b.into(v, "autopilot", &c); err != nil {
		return "autopilot", err
	}
	return "autopilot", b.put(catalog.SetAutopilot{Config: c})
}

// rest says of the sorts that weren't looked into why.
func (b *builder) rest(st *state) {
	for _, sort := range slices.Sorted(maps.Keys(st.records)) {
		if _, ok := needless[sort]; ok {
			continue
		}
		why := "weft doesn't take them"
		switch sort {
		case sortRoot, sortCAState:
			why = "weft's authority makes a root of its own, under the same trust domain: sidecars get new certificates from it"
		case sortIntention:
			why = "they are of before service-intentions entries: migrate them in Consul"
		case sortVirtualIP:
			why = "they are given anew"
		case 35, 38, 40:
			why = "peerings have to be established anew"
		}
		b.lose(fmt.Sprintf("%s (%d)", nameOf(sort), len(st.records[sort])), "%s", why)
	}
}
