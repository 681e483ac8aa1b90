// SPDX-License-Identifier: Apache-2.0

package catalog

import "cmp"

// RecordVerb is what an operation of a transaction does with a node, service or check.
type RecordVerb string

// The verbs.
const (
	RecordGet       RecordVerb = "get" // fails if it isn't there
	RecordSet       RecordVerb = "set"
	RecordCAS       RecordVerb = "cas" // ModifyIndex 0: it must not exist; else the one that it must have
	RecordDelete    RecordVerb = "delete"
	RecordDeleteCAS RecordVerb = "delete-cas"
)

// TransactionOp is one operation; exactly one field is set.
type TransactionOp struct {
	KV      *KVOp           `json:",omitempty"`
	Node    *NodeOp         `json:",omitempty"`
	Service *ServiceOp      `json:",omitempty"`
	Check   *CheckOp        `json:",omitempty"`
	Session *DestroySession `json:",omitempty"`
}

// NodeOp is an operation on a node.
type NodeOp struct {
	Verb RecordVerb
	Node Node
}

// ServiceOp is an operation on a service of a node that is there.
type ServiceOp struct {
	Verb    RecordVerb
	Service Service
}

// CheckOp is an operation on a check of a node that is there.
type CheckOp struct {
	Verb  RecordVerb
	Check Check
}

// Transaction does all its operations, in order, or none. The result's value is a TransactionResult.
type Transaction struct{ Ops []TransactionOp }

func (Transaction) commandType() string { return "txn" }

// TransactionResult is what a transaction gave. With errors, nothing was done.
type TransactionResult struct {
	Results []OpResult
	Errors  []OpError
}

// OpResult is something that was read or written; exactly one field is set.
type OpResult struct {
	KV      *KVEntry
	Value   bool // of KV: it was asked for with its value
	Node    *Node
	Service *Service
	Check   *Check
}

// OpError says which operation failed and why.
type OpError struct {
	OpIndex int
	What    string
}

// ReadOnly says whether nothing in the transaction writes.
func (c *Transaction) ReadOnly() bool {
	for i := range c.Ops {
		switch op := &c.Ops[i]; {
		case op.KV != nil && !op.KV.Verb.Writes():
		case op.Node != nil && op.Node.Verb == RecordGet, op.Service != nil && op.Service.Verb == RecordGet, op.Check != nil && op.Check.Verb == RecordGet:
		default:
			return false
		}
	}
	return true
}

// Transaction answers a transaction that is ReadOnly from this view.
func (t *Txn) Transaction(c *Transaction) TransactionResult {
	u := newUnit(&write{txn: t.db, dc: t.dc, meta: t.meta, index: t.meta.index})
	return u.transaction(c)
}

func (u *unit) transaction(c *Transaction) TransactionResult {
	var out TransactionResult
	for i := range c.Ops {
		results, failed := u.transactionOp(&c.Ops[i])
		if failed != "" {
			out.Errors = append(out.Errors, OpError{i, failed})
			continue
		}
		out.Results = append(out.Results, results...)
		u.settle() // what follows must not build on a session that this ended
	}
	if len(out.Errors) > 0 {
		out.Results = nil
	}
	return out
}

func (u *unit) transactionOp(op *TransactionOp) ([]OpResult, string) {
	switch {
	case op.KV != nil:
		r, err := u.kvOp(op.KV)
		if err != nil {
			return nil, err.Error()
		}
		value := op.KV.Verb == KVGet || op.KV.Verb == KVGetTree || op.KV.Verb == KVGetOrEmpty
		out := make([]OpResult, 0, len(r.Entries))
		for _, e := range r.Entries {
			out = append(out, OpResult{KV: e, Value: value})
		}
		return out, r.Failed
	case op.Node != nil:
		return u.nodeOp(op.Node)
	case op.Service != nil:
		return u.serviceOp(op.Service)
	case op.Check != nil:
		return u.checkOp(op.Check)
	case op.Session != nil:
		u.destroySession(sessionString(op.Session.Scope.Default(u.w.dc), op.Session.ID))
		return nil, ""
	}
	return nil, "the operation is empty"
}

// onRecord runs the verb on a row: index is what it has (0 if it isn't there), wanted what it must have.
func onRecord(verb RecordVerb, what string, index, wanted uint64, set func() error, drop func()) (read bool, fault string) {
	switch verb {
	case RecordGet:
		if index == 0 {
			return false, what + " doesn't exist"
		}
		return true, ""
	case RecordCAS, RecordSet:
		if verb == RecordCAS && index != wanted {
			return false, "failed to set " + what + ", index is stale"
		}
		if err := set(); err != nil {
			return false, err.Error()
		}
		return true, ""
	case RecordDelete, RecordDeleteCAS:
		if verb == RecordDeleteCAS && index != wanted {
			return false, "failed to delete " + what + ", index is stale"
		}
		drop()
		return false, ""
	}
	return false, "unknown verb " + quoted(string(verb))
}

func quoted(s string) string { return `"` + s + `"` }

func (u *unit) nodeOp(op *NodeOp) ([]OpResult, string) {
	n := op.Node
	n.Scope = n.Scope.Default(u.w.dc)
	key := nodeString(n.Scope, n.Node)
	if n.Node == "" && n.ID != "" {
		if v, err := u.w.txn.First(tableNodes, "uuid", uuidString(n.Scope, n.ID)); err == nil && v != nil {
			n.Node = v.(*Node).Node
			key = nodeString(n.Scope, n.Node)
		}
	}
	slot := u.nodes.at(u.w, key)
	read, fault := onRecord(op.Verb, "node "+quoted(n.Node), rowIndexOf(slot.new, func(n *Node) *Indexes { return &n.Indexes }), op.Node.ModifyIndex,
		func() error { _, err := u.setNode(&n, false); return err }, func() { u.removeNode(key) })
	if !read {
		return nil, fault
	}
	return []OpResult{{Node: slot.new}}, ""
}

func (u *unit) serviceOp(op *ServiceOp) ([]OpResult, string) {
	s := op.Service
	s.Scope = s.Scope.Default(u.w.dc)
	s.ID = cmp.Or(s.ID, s.Service)
	node := u.nodes.at(u.w, nodeString(s.NodeKey().Scope, s.Node)).new
	if node == nil && op.Verb != RecordDelete {
		return nil, "node " + quoted(s.Node) + " doesn't exist"
	}
	key := serviceString(&s)
	slot := u.services.at(u.w, key)
	var index uint64
	if slot.new != nil {
		index = slot.new.Service.ModifyIndex
	}
	read, fault := onRecord(op.Verb, "service "+quoted(s.ID)+" on node "+quoted(s.Node), index, op.Service.ModifyIndex,
		func() error { return u.setService(node, &s) }, func() { u.removeService(key) })
	if !read {
		return nil, fault
	}
	return []OpResult{{Service: slot.new.Service}}, ""
}

func (u *unit) checkOp(op *CheckOp) ([]OpResult, string) {
	c := op.Check
	c.Scope = c.Scope.Default(u.w.dc)
	c.CheckID = cmp.Or(c.CheckID, c.Name)
	node := u.nodes.at(u.w, nodeString(c.NodeKey().Scope, c.Node)).new
	if node == nil && op.Verb != RecordDelete {
		return nil, "node " + quoted(c.Node) + " doesn't exist"
	}
	key := checkString(&c)
	slot := u.checks.at(u.w, key)
	read, fault := onRecord(op.Verb, "check "+quoted(c.CheckID)+" on node "+quoted(c.Node),
		rowIndexOf(slot.new, func(c *Check) *Indexes { return &c.Indexes }), op.Check.ModifyIndex,
		func() error { return u.setCheck(node, &c) }, func() { u.removeCheck(key) })
	if !read {
		return nil, fault
	}
	return []OpResult{{Check: slot.new}}, ""
}

func rowIndexOf[T any](row *T, ix func(*T) *Indexes) uint64 {
	if row == nil {
		return 0
	}
	return ix(row).ModifyIndex
}
