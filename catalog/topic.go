// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"fmt"
)

// What can be wrong. Errors of this package wrap one of these, or are a *CorruptError.
var (
	// ErrNotCovered says that a replica doesn't hold the topic that a query needs, so that it can't tell what is from what
	// isn't. It never comes from a server's store.
	ErrNotCovered = errors.New("not covered by this replica")
	// ErrNotFound says that what a command or query needs isn't there.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that a check-and-set, or a rule of who owns what, doesn't allow the write.
	ErrConflict = errors.New("conflict")
	// ErrInvalid says that a record or command breaks a rule; the text names the field.
	ErrInvalid = errors.New("invalid")
	// ErrSchema says that the cluster's schema version doesn't allow it.
	ErrSchema = errors.New("the cluster's schema version does not allow it")
	// ErrExists says that what should be made is there already.
	ErrExists = errors.New("already exists")
)

// CorruptError says that a log entry or snapshot can't be what a server of this version or an older one wrote (one of a newer
// version wraps ErrSchema). A server
// that meets one in its log must stop: to go on would make its tables differ from the others'.
type CorruptError struct {
	Index uint64 // of the log entry; 0 for a snapshot
	Err   error
}

func (e *CorruptError) Error() string {
	if e.Index == 0 {
		return "corrupt catalog data: " + e.Err.Error()
	}
	if errors.Is(e.Err, ErrSchema) {
		return fmt.Sprintf("log entry %d: %v", e.Index, e.Err)
	}
	return fmt.Sprintf("corrupt log entry %d: %v", e.Index, e.Err)
}

// Unwrap gives the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// fault is an error of one of the sorts above whose text is the rule's alone, because clients see and know it.
type fault struct {
	sort error
	text string
}

func (e *fault) Error() string { return e.text }
func (e *fault) Unwrap() error { return e.sort }

func faultf(sort error, format string, args ...any) error {
	return &fault{sort, fmt.Sprintf(format, args...)}
}

func invalidf(format string, args ...any) error { return faultf(ErrInvalid, format, args...) }

// TopicKind says what sort of thing a topic names.
type TopicKind string

// The kinds of topic.
const (
	// TopicNodes is the list of all nodes of a partition (Key.Name is ""): their records, not their services or checks.
	TopicNodes TopicKind = "nodes"
	// TopicNode is one node: its record, services and checks.
	TopicNode TopicKind = "node"
	// TopicServices is the list of service names of a namespace, with their tags.
	TopicServices TopicKind = "services"
	// TopicService is the instances by service name, with node and checks.
	TopicService TopicKind = "service"
	// TopicConnect is the instances that can be dialled over mutual TLS for a service name.
	TopicConnect TopicKind = "connect"
	// TopicEntries is the config entries of one kind, or of all ("") in a scope.
	TopicEntries TopicKind = "entries"
	// TopicEntry is one config entry.
	TopicEntry TopicKind = "entry"
	// TopicCA is the roots and the cluster's ID.
	TopicCA TopicKind = "ca"
)

// Topic names one thing that can be read, waited on, subscribed to and covered. It is comparable; make one with the
// constructors of this file, which bring names and scopes into the one form that comparisons use (the scope must have been
// filled in: see Scope.Default; a Txn does that with what it is asked).
type Topic struct {
	Kind  TopicKind
	Entry string // the config entry's kind, for entry and entries
	Key   Key
}

// String is the topic for errors and logs.
func (t Topic) String() string {
	s := string(t.Kind)
	if t.Entry != "" {
		s += " " + t.Entry
	}
	if t.Key.Name != "" {
		s += " " + t.Key.String()
	}
	return s
}

// NodesTopic is the list of the scope's nodes.
func NodesTopic(s Scope) Topic {
	s.Namespace = DefaultNamespace
	return Topic{Kind: TopicNodes, Key: Key{Scope: s}}
}

// NodeTopic is one node.
func NodeTopic(node Key) Topic {
	node.Namespace = DefaultNamespace
	return Topic{Kind: TopicNode, Key: node.Fold()}
}

// ServicesTopic is the list of the scope's service names.
func ServicesTopic(s Scope) Topic { return Topic{Kind: TopicServices, Key: Key{Scope: s}} }

// ServiceTopic is the instances of a service name.
func ServiceTopic(service Key) Topic { return Topic{Kind: TopicService, Key: service.Fold()} }

// ConnectTopic is the instances that can be dialled over mutual TLS for a service name.
func ConnectTopic(service Key) Topic { return Topic{Kind: TopicConnect, Key: service.Fold()} }

// EntriesTopic is the config entries of a kind ("" for all kinds) in a scope.
func EntriesTopic(kind string, s Scope) Topic {
	return Topic{Kind: TopicEntries, Entry: kind, Key: Key{Scope: s}}
}

// EntryTopic is one config entry.
func EntryTopic(kind string, k Key) Topic { return Topic{Kind: TopicEntry, Entry: kind, Key: k.Fold()} }

// CATopic is the certificate authority's public state.
func CATopic() Topic { return Topic{Kind: TopicCA} }

// Canonical is the topic in the form of the constructors, with its scope filled in; an error if its kind is none that feeds have.
func (t Topic) Canonical(dc string) (Topic, error) {
	if t.local() {
		return t, fmt.Errorf("%w: topic %q isn't in feeds", ErrInvalid, t.Kind)
	}
	return t.canonical(dc)
}

// canonical brings a topic that came from outside into the form of the constructors.
func (t Topic) canonical(dc string) (Topic, error) {
	k := t.Key
	k.Scope = k.Default(dc)
	switch t.Kind {
	case TopicNodes:
		return NodesTopic(k.Scope), nil
	case TopicNode:
		return NodeTopic(k), nil
	case TopicServices:
		return ServicesTopic(k.Scope), nil
	case TopicService:
		return ServiceTopic(k), nil
	case TopicConnect:
		return ConnectTopic(k), nil
	case TopicEntries:
		return EntriesTopic(t.Entry, k.Scope), nil
	case TopicEntry:
		return EntryTopic(t.Entry, k), nil
	case TopicCA:
		return CATopic(), nil
	case TopicKV, TopicKVPrefix, TopicKVTable, TopicSession, TopicSessions, TopicNodeSessions:
		t.Key = k
		return t, nil
	case TopicVirtual:
		return virtualTopic(k), nil
	case TopicVirtuals:
		return VirtualsTopic(k.Scope), nil
	case TopicCoordinates:
		return coordinatesTopic(k.Scope), nil
	case TopicAllSessions, TopicQuery, TopicQueries, TopicPeerings, TopicACL, TopicACLChanged, TopicImports, TopicAbroad, TopicNamespaces:
		return t, nil
	}
	return Topic{}, fmt.Errorf("%w: unknown kind of topic %q", ErrInvalid, t.Kind)
}
