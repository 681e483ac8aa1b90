// SPDX-License-Identifier: Apache-2.0

package catalog

// Raw is text that may hold any byte: a key of the key-value store.
type Raw string

// MarshalCBOR encodes a byte string.
func (r Raw) MarshalCBOR() ([]byte, error) { return encode([]byte(r)) }

// UnmarshalCBOR decodes a byte string.
func (r *Raw) UnmarshalCBOR(data []byte) error {
	var b []byte
	if err := decode(data, &b); err != nil {
		return err
	}
	*r = Raw(b)
	return nil
}

// KVEntry is one key with its value. Its key is Scope and Key, compared byte by byte.
type KVEntry struct {
	Scope
	Key       Raw
	Value     []byte `json:",omitempty"`
	Flags     uint64 `json:",omitempty"`
	LockIndex uint64 `json:",omitempty"` // how often the lock was taken, as long as the key exists
	Session   string `json:",omitempty"` // who holds the lock
	// FencingIndex is the Raft index at which the holder took the lock; 0 if nobody holds it. It rises with every new holder,
	// also when the key was deleted in between.
	FencingIndex uint64 `json:",omitempty"`
	Indexes
}

// KVVerb is what to do with a key.
type KVVerb string

// The verbs, with Consul's names.
const (
	KVSet            KVVerb = "set"
	KVCAS            KVVerb = "cas"              // Index 0: the key must not exist; else its ModifyIndex
	KVLock           KVVerb = "lock"             // and set, by Session
	KVUnlock         KVVerb = "unlock"           // and set
	KVDelete         KVVerb = "delete"           //
	KVDeleteCAS      KVVerb = "delete-cas"       // if ModifyIndex is Index
	KVDeleteTree     KVVerb = "delete-tree"      // all that begin with Key
	KVGet            KVVerb = "get"              // fails if it isn't there
	KVGetOrEmpty     KVVerb = "get-or-empty"     // an entry with the key alone if it isn't there
	KVGetTree        KVVerb = "get-tree"         // all that begin with Key
	KVCheckSession   KVVerb = "check-session"    // fails unless Session holds the lock
	KVCheckIndex     KVVerb = "check-index"      // fails unless ModifyIndex is Index
	KVCheckNotExists KVVerb = "check-not-exists" // fails if it is there
)

// Writes says whether the verb may change something.
func (v KVVerb) Writes() bool {
	switch v {
	case KVGet, KVGetOrEmpty, KVGetTree, KVCheckSession, KVCheckIndex, KVCheckNotExists:
		return false
	}
	return true
}

// KVOp is one operation on a key. As a command, the result's value is a KVResult; a session that doesn't exist is an error.
type KVOp struct {
	Verb    KVVerb
	Scope   Scope `json:",omitzero"`
	Key     Raw
	Value   []byte `json:",omitempty"`
	Flags   uint64 `json:",omitempty"`
	Index   uint64 `json:",omitempty"`
	Session string `json:",omitempty"`
}

// KVResult is what became of an operation.
type KVResult struct {
	// Failed says why a condition of the operation didn't hold; then nothing was done. "" is success.
	Failed string
	// Entries are what was read, or the entry as it was written.
	Entries []*KVEntry
}

// Reap forgets that keys were deleted, up to an index, and lock delays that are over. The result has no value.
type Reap struct {
	Tombstones uint64
}

func (KVOp) commandType() string { return "kv" }
func (Reap) commandType() string { return "reap" }

// kvRow is an entry with its row's key.
type kvRow struct {
	KVEntry
	key string
	id  rowID
	summed
}

func newKVRow(e KVEntry, key string) *kvRow { return &kvRow{KVEntry: e, key: key, id: rowID(key)} }

// tombstone says when a key was deleted.
type tombstone struct {
	key   string // of the row
	index uint64
}

// delayRow says until when a key can't be locked, because a session that held it was invalidated.
type delayRow struct {
	key   string // of the row
	until int64  // Unix milliseconds
}

// kvString is a key's row key: every byte may be in the key, so it comes last and has no end mark.
func kvString(s Scope, key Raw) string { return nameSpaceString(s) + string(key) }

func nameSpaceString(s Scope) string { return join(s.Datacenter, s.Partition, s.Peer, s.Namespace) }
