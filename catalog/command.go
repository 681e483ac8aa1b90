// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weftmesh/weft/internal/guard"
)

// Command is a log entry's form: what to do, by name, and its body.
type Command struct {
	Type string
	// At is when the command was ordered, by the leader's clock, in Unix milliseconds; 0 where nobody said.
	At   int64 `json:",omitempty"`
	Body cbor.RawMessage
}

// Body is one of the commands of this file.
type Body interface{ commandType() string }

// Register writes a node and things on it: all of it or nothing. The node's name is that of the services and checks
// too. SkipNodeUpdate leaves the record of a node that exists as it is. The result has no value.
type Register struct {
	Node           Node
	SkipNodeUpdate bool      `json:",omitempty"`
	Services       []Service `json:",omitempty"`
	Checks         []Check   `json:",omitempty"`
}

// Deregister removes a check (CheckID), else a service with its checks (ServiceID), else the node with all that is on it.
// Scope.Namespace is the service's or check's. What isn't there is no error. The result has no value.
type Deregister struct {
	Scope     Scope
	Node      string
	ServiceID string `json:",omitempty"`
	CheckID   string `json:",omitempty"`
}

// Sync brings one host's difference in: the node's record, then each item by itself. The result's value is a []SyncResult, one
// per item; its error is about the node, and then no item was tried. Records that belong to somebody else (Owner) are refused.
type Sync struct {
	Node  Node
	Items []SyncItem `json:",omitempty"`
}

// SyncItem is one write; exactly one field is set. The deletions name an ID in the item's namespace.
type SyncItem struct {
	Service       *Service `json:",omitempty"`
	Check         *Check   `json:",omitempty"`
	DeleteService string   `json:",omitempty"`
	DeleteCheck   string   `json:",omitempty"`
	Namespace     string   `json:",omitempty"`
}

// SyncResult is what became of an item.
type SyncResult struct{ Err error }

// SetEntry writes a config entry, which was normalised and validated before. CAS 0 means that it must not exist, else it is
// the ModifyIndex that it must have. The result's value is a bool: false if the check failed.
type SetEntry struct {
	Entry EntryBox
	CAS   *uint64 `json:",omitempty"`
}

// DeleteEntry removes a config entry. The result's value is a bool: false if the check-and-set failed. Without CAS it is
// always true.
type DeleteEntry struct {
	Kind string
	Key  Key
	CAS  *uint64 `json:",omitempty"`
}

// The modes of SetIntention.
const (
	IntentionCreate = "create" // refuses a source that the destination has a rule for
	IntentionUpsert = "upsert"
	IntentionUpdate = "update" // needs the rule, by LegacyID if there is one, else by the source
)

// SetIntention writes one source's rule into the destination's service-intentions entry. The result's value is true.
type SetIntention struct {
	Destination Key
	Source      SourceIntention
	Mode        string
}

// DeleteIntention removes one source's rule: by LegacyID if it isn't empty (absent: ErrNotFound), else by the source's name and
// scope. The result's value is a bool: whether it was there. With the last rule the entry goes.
type DeleteIntention struct {
	Destination Key
	Source      Key
	LegacyID    string `json:",omitempty"`
}

// SetCA replaces the CA's state. CAS is the ModifyIndex that the state must have, 0 for none yet; otherwise the result is
// ErrConflict. The result's value is true.
type SetCA struct {
	State CAState
	CAS   uint64
}

// SetCluster gives the cluster its ID, once: a second time with another ID is ErrConflict. The result's value is the ID.
type SetCluster struct{ ID string }

// RaiseSchema raises the cluster's schema version. A lower one than there is changes nothing. The result's value is the
// version that holds, a uint64.
type RaiseSchema struct{ Version uint64 }

func (Register) commandType() string        { return "register" }
func (Deregister) commandType() string      { return "deregister" }
func (Sync) commandType() string            { return "sync" }
func (SetEntry) commandType() string        { return "set-entry" }
func (DeleteEntry) commandType() string     { return "delete-entry" }
func (SetIntention) commandType() string    { return "set-intention" }
func (DeleteIntention) commandType() string { return "delete-intention" }
func (SetCA) commandType() string           { return "set-ca" }
func (SetCluster) commandType() string      { return "set-cluster" }
func (RaiseSchema) commandType() string     { return "raise-schema" }

// castagnoli is the table of the checksum at the end of a log entry: the log itself has one over what it syncs at once, which
// it reads after a crash only.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode gives the log entry for a command, with a checksum at its end. The same command gives the same bytes. Values that no
// log entry can hold (numbers that aren't, configuration that is no JSON) are an error that wraps ErrInvalid, as is a command that
// is too large.
func Encode(body Body) ([]byte, error) { return EncodeAt(body, time.Time{}) }

// EncodeAt is Encode with the time at which the command is ordered, to the millisecond: what a command does that depends on time
// (lock delays) goes by it.
func EncodeAt(body Body, at time.Time) ([]byte, error) {
	if body == nil {
		return nil, fmt.Errorf("%w: no command", ErrInvalid)
	}
	var ms int64
	if !at.IsZero() {
		ms = at.UnixMilli()
	}
	data, err := encodeCommand(body.commandType(), ms, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", body.commandType(), err)
	}
	if len(data) > MaxCommandBytes {
		return nil, fmt.Errorf("%w: %s: %d bytes are more than %d", ErrInvalid, body.commandType(), len(data), MaxCommandBytes)
	}
	return seal(data), nil
}

func seal(data []byte) []byte {
	return binary.BigEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
}

// Decode is the reverse of Encode, and strict: a wrong checksum, an unknown command, an unknown field, a doubled key are errors. The
// body is a pointer to one of the command types.
func Decode(data []byte) (Body, error) {
	body, _, err := decodeAt(data)
	return body, err
}

func decodeAt(data []byte) (Body, int64, error) {
	end := len(data) - 4
	if end < 0 {
		return nil, 0, errors.New("it is cut")
	}
	if crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) && !guard.Off("C130") {
		return nil, 0, errors.New("its checksum is wrong")
	}
	c, err := openCommand(data[:end])
	if err != nil {
		return nil, 0, err
	}
	body, err := newBody(c.Type)
	if err != nil {
		return nil, 0, err
	}
	if err := decodeFresh(c.Body, body); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", c.Type, err)
	}
	return body, c.At, nil
}

// commandTypes are the names of all commands.
var commandTypes = append([]string{
	"register",
	"deregister",
	"sync",
	"set-entry",
	"delete-entry",
	"set-intention",
	"delete-intention",
	"set-ca",
	"set-autopilot",
	"set-cluster",
	"raise-schema",
	"kv",
	"txn",
	"create-session",
	"destroy-session",
	"set-query",
	"delete-query",
	"set-acl",
	"delete-acl",
	"bootstrap-acl",
	"use-join",
	"set-namespace",
	"delete-namespace",
	"assign-virtual-ips",
	"set-entries",
	"import",
	"reap",
}, nextCommands...)

func newBody(kind string) (Body, error) {
	switch kind {
	case "register":
		return &Register{}, nil
	case "deregister":
		return &Deregister{}, nil
	case "sync":
		return &Sync{}, nil
	case "set-entry":
		return &SetEntry{}, nil
	case "delete-entry":
		return &DeleteEntry{}, nil
	case "set-intention":
		return &SetIntention{}, nil
	case "delete-intention":
		return &DeleteIntention{}, nil
	case "set-ca":
		return &SetCA{}, nil
	case "set-autopilot":
		return &SetAutopilot{}, nil
	case "set-cluster":
		return &SetCluster{}, nil
	case "raise-schema":
		return &RaiseSchema{}, nil
	case "kv":
		return &KVOp{}, nil
	case "txn":
		return &Transaction{}, nil
	case "create-session":
		return &CreateSession{}, nil
	case "destroy-session":
		return &DestroySession{}, nil
	case "set-query":
		return &SetQuery{}, nil
	case "delete-query":
		return &DeleteQuery{}, nil
	case "set-acl":
		return &SetACL{}, nil
	case "delete-acl":
		return &DeleteACL{}, nil
	case "bootstrap-acl":
		return &BootstrapACL{}, nil
	case "use-join":
		return &UseJoin{}, nil
	case "set-namespace":
		return &SetNamespace{}, nil
	case "delete-namespace":
		return &DeleteNamespace{}, nil
	case "set-coordinates":
		return &SetCoordinates{}, nil
	case "set-peering":
		return &SetPeering{}, nil
	case "delete-peering":
		return &DeletePeering{}, nil
	case "assign-virtual-ips":
		return &AssignVirtualIPs{}, nil
	case "set-entries":
		return &SetEntries{}, nil
	case "import":
		return &Import{}, nil
	case "reap":
		return &Reap{}, nil
	}
	if body := nextBody(kind); body != nil {
		return body, nil
	}
	return nil, fmt.Errorf("unknown command %q", kind)
}
