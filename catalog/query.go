// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"strings"
)

// PreparedQuery is a stored question for instances, with Consul's field names. Its key is ID; a name is had by one query alone.
type PreparedQuery struct {
	ID       string
	Name     string        `json:",omitempty"`
	Session  string        `json:",omitempty"` // it goes with this session
	Token    string        `json:",omitempty"`
	Template QueryTemplate `json:",omitzero"`
	Service  QueryService
	DNS      QueryDNS `json:",omitzero"`
	Indexes
}

// QueryTemplate makes a query answer for every name that begins with its own.
type QueryTemplate struct {
	Type            string `json:",omitempty"` // QueryPrefix, or "" for none
	Regexp          string `json:",omitempty"` // what ${match(N)} counts in
	RemoveEmptyTags bool   `json:",omitempty"`
}

// QueryPrefix is the one type of template.
const QueryPrefix = "name_prefix_match"

// QueryService says which instances.
type QueryService struct {
	Service        string
	SamenessGroup  string            `json:",omitempty"`
	Failover       QueryFailover     `json:",omitzero"`
	OnlyPassing    bool              `json:",omitempty"`
	IgnoreCheckIDs []string          `json:",omitempty"`
	Near           string            `json:",omitempty"`
	Tags           []string          `json:",omitempty"` // "!tag" for those without it
	NodeMeta       map[string]string `json:",omitempty"`
	ServiceMeta    map[string]string `json:",omitempty"`
	Connect        bool              `json:",omitempty"`
	Peer           string            `json:",omitempty"`
}

// QueryFailover says where to look when there is no instance here.
type QueryFailover struct {
	NearestN    int           `json:",omitempty"`
	Datacenters []string      `json:",omitempty"`
	Targets     []QueryTarget `json:",omitempty"`
}

// QueryTarget is one place to look.
type QueryTarget struct {
	Peer       string `json:",omitempty"`
	Datacenter string `json:",omitempty"`
	Partition  string `json:",omitempty"`
	Namespace  string `json:",omitempty"`
}

// QueryDNS is how the query's answers are given over DNS.
type QueryDNS struct {
	TTL string `json:",omitempty"`
}

// SetQuery writes a query, which was validated before. With Create it must not exist, else it must. Its name must be free and its
// session exist. The result has no value.
type SetQuery struct {
	Query  PreparedQuery
	Create bool `json:",omitempty"`
}

// DeleteQuery removes a query; one that isn't there is ErrNotFound. The result has no value.
type DeleteQuery struct{ ID string }

func (SetQuery) commandType() string    { return "set-query" }
func (DeleteQuery) commandType() string { return "delete-query" }

const tableQueries = "queries" // *PreparedQuery

// The topics of queries; in no feed.
const (
	TopicQuery   TopicKind = "query"
	TopicQueries TopicKind = "queries"
)

var queriesTopic = Topic{Kind: TopicQueries}

func queryTopic(id string) Topic { return Topic{Kind: TopicQuery, Key: Key{Name: strings.ToLower(id)}} }

func noQuery(id string) error {
	return faultf(ErrNotFound, "Cannot modify non-existent prepared query: '%s'", id)
}

func (u *unit) setQuery(c *SetQuery) error {
	q := c.Query
	if err := checkName("query ID", q.ID); err != nil {
		return err
	}
	slot := u.queries.at(u.w, strings.ToLower(q.ID))
	var created uint64
	switch {
	case slot.new == nil && !c.Create:
		return noQuery(q.ID)
	case slot.new != nil && c.Create:
		return faultf(ErrExists, "prepared query %s exists", q.ID)
	case slot.new != nil:
		created = slot.new.CreateIndex
	}
	if q.Name != "" || q.Template.Type != "" {
		var other *PreparedQuery
		each(u.w.txn, tableQueries, "name", queryName(&q), func(x *PreparedQuery) {
			if !strings.EqualFold(x.ID, q.ID) {
				other = x
			}
		})
		if other != nil {
			return invalidf("name '%s' aliases an existing query name", q.Name)
		}
		if u.queries.at(u.w, strings.ToLower(q.Name)).new != nil {
			return invalidf("name '%s' aliases an existing query ID", q.Name)
		}
	}
	if q.Session != "" && u.sessions.at(u.w, sessionString(Scope{}.Default(u.w.dc), q.Session)).new == nil {
		return invalidf("invalid session %q", q.Session)
	}
	u.stamp(&q.Indexes, created)
	slot.new = &q
	return nil
}

func (u *unit) deleteQuery(id string) error {
	slot := u.queries.at(u.w, strings.ToLower(id))
	if slot.new == nil {
		return noQuery(id)
	}
	slot.new = nil
	return nil
}

// endQueries removes those that go with a session.
func (u *unit) endQueries(session string) {
	each(u.w.txn, tableQueries, "session", join(strings.ToLower(session)), func(q *PreparedQuery) { u.queries.put(strings.ToLower(q.ID), q) })
	for _, s := range u.queries.list {
		if s.new != nil && strings.EqualFold(s.new.Session, session) {
			s.new = nil
		}
	}
}

func (u *unit) flushQuery(s *slot[*PreparedQuery]) {
	if s.new != nil {
		insert(u.w.txn, tableQueries, s.new)
	} else {
		remove(u.w.txn, tableQueries, s.old)
	}
	u.w.touch(queriesTopic)
	u.w.woken = append(u.w.woken, queryTopic(s.key))
}

// queryName is the row key of a name; templates and others don't share names.
func queryName(q *PreparedQuery) string { return join(q.Template.Type, strings.ToLower(q.Name)) }

// Query gives a prepared query by ID; nil if there is none.
func (t *Txn) Query(id string) (*PreparedQuery, error) {
	if err := t.use(queryTopic(id)); err != nil {
		return nil, err
	}
	return first[*PreparedQuery](t.db, tableQueries, strings.ToLower(id)), nil
}

// Queries lists all prepared queries by ID.
func (t *Txn) Queries() ([]*PreparedQuery, error) {
	if err := t.use(queriesTopic); err != nil {
		return nil, err
	}
	var out []*PreparedQuery
	each(t.db, tableQueries, "id_prefix", "", func(q *PreparedQuery) { out = append(out, q) })
	return out, nil
}

// FindQuery gives the query that answers for an ID or a name: that of the ID, that of the name, or the template whose name is the
// longest beginning of it; nil if there is none.
func (t *Txn) FindQuery(name string) (*PreparedQuery, error) {
	if err := t.use(queriesTopic); err != nil {
		return nil, err
	}
	name = strings.ToLower(name)
	if q := first[*PreparedQuery](t.db, tableQueries, name); q != nil {
		return q, nil
	}
	var found *PreparedQuery
	get := func(key string) {
		each(t.db, tableQueries, "name", key, func(q *PreparedQuery) { found = q })
	}
	get(join("", name))
	for end := len(name); found == nil && end >= 0; end-- {
		get(join(QueryPrefix, name[:end]))
	}
	return found, nil
}
