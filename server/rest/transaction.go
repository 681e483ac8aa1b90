// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/decode"
	"github.com/weftmesh/weft/internal/guard"
)

// maxOps bounds a transaction.
const maxOps = 128

// base64Value is bytes in the form of JSON.
type base64Value []byte

// DecodeNode decodes it.
func (b *base64Value) DecodeNode(n *decode.Node) error {
	switch n.Kind {
	case decode.Null:
		return nil
	case decode.String:
		data, err := base64.StdEncoding.DecodeString(n.Text)
		*b = data
		return err
	}
	return fmt.Errorf("want base64, got %s", n.Kind)
}

// opBody is an operation as clients write it; one field is set.
type opBody struct {
	KV *struct {
		Verb      catalog.KVVerb
		Key       string
		Value     base64Value
		Flags     uint64
		Index     uint64
		Session   string
		Namespace string
		Partition string
	}
	Node *struct {
		Verb catalog.RecordVerb
		Node struct {
			ID, Node, Address, Datacenter, Partition, PeerName string
			TaggedAddresses, Meta                              map[string]string
			CreateIndex, ModifyIndex                           uint64
		}
	}
	Service *struct {
		Verb    catalog.RecordVerb
		Node    string
		Service serviceBody
	}
	Check *struct {
		Verb  catalog.RecordVerb
		Check checkBody
	}
	Session *struct {
		Verb    string
		Session struct{ ID, Namespace, Partition string }
	}
}

// scope is where the operation is: in the namespace that it names itself, else in the request's.
func (b *opBody) scope(r *api.Request) (catalog.Scope, error) {
	s, given := r.Options.Scope, ""
	switch {
	case b.KV != nil:
		given = b.KV.Namespace
	case b.Service != nil:
		given = b.Service.Service.Namespace
	case b.Check != nil:
		given = b.Check.Check.Namespace
	case b.Session != nil:
		given = b.Session.Session.Namespace
	}
	if given != "" {
		s.Namespace = given
	}
	if !catalog.ValidNamespace(s.Namespace) {
		return s, badRequest("Invalid namespace %q: want lower-case letters, digits and - within, at most 63", s.Namespace)
	}
	return s, nil
}

// operation is the body as an operation, with its name in the table of permissions and the resource's name.
func (b *opBody) operation(scope, command catalog.Scope) (op catalog.TransactionOp, need, name string, err error) {
	switch {
	case b.KV != nil:
		o := b.KV
		op.KV = &catalog.KVOp{
			Verb: o.Verb, Scope: command, Key: catalog.Raw(o.Key), Value: o.Value, Flags: o.Flags, Index: o.Index, Session: o.Session,
		}
		return op, "kv " + string(o.Verb), o.Key, nil
	case b.Node != nil:
		o := &b.Node.Node
		op.Node = &catalog.NodeOp{Verb: b.Node.Verb, Node: catalog.Node{
			Scope: scope, ID: o.ID, Node: o.Node, Address: o.Address, TaggedAddresses: o.TaggedAddresses, Meta: o.Meta,
			Indexes: catalog.Indexes{ModifyIndex: o.ModifyIndex},
		}}
		return op, "node " + string(b.Node.Verb), o.Node, nil
	case b.Service != nil:
		s := b.Service.Service.record(scope, b.Service.Node)
		s.ModifyIndex = b.Service.Service.ModifyIndex
		if b.Service.Verb == catalog.RecordSet || b.Service.Verb == catalog.RecordCAS {
			err = CheckService(&s)
		}
		op.Service = &catalog.ServiceOp{Verb: b.Service.Verb, Service: s}
		return op, "service " + string(b.Service.Verb), s.Service, err
	case b.Check != nil:
		c := b.Check.Check.record(scope, b.Check.Check.Node)
		c.ModifyIndex = b.Check.Check.ModifyIndex
		if b.Check.Verb == catalog.RecordSet || b.Check.Verb == catalog.RecordCAS {
			err = CheckCheck(&c)
		}
		op.Check = &catalog.CheckOp{Verb: b.Check.Verb, Check: c}
		return op, "check " + string(b.Check.Verb), c.Node, err
	case b.Session != nil:
		op.Session = &catalog.DestroySession{Scope: command, ID: b.Session.Session.ID}
		return op, "session " + b.Session.Verb, b.Session.Session.ID, nil
	}
	return op, "", "", errors.New("the operation is empty: want one of KV, Node, Service, Check, Session")
}

// opView is a result in the API's form.
type opView struct {
	KV      *kvView        `json:",omitempty"`
	Node    *nodeView      `json:",omitempty"`
	Service *serviceView   `json:",omitempty"`
	Check   *api.CheckView `json:",omitempty"`
}

func viewOp(r *catalog.OpResult) opView {
	var v opView
	switch {
	case r.KV != nil:
		kv := viewKV(r.KV)
		if !r.Value {
			kv.Value = nil
		}
		v.KV = &kv
	case r.Node != nil:
		n := viewNode(r.Node)
		v.Node = &n
	case r.Service != nil:
		s := viewService(r.Service)
		v.Service = &s
	case r.Check != nil:
		c := api.ViewCheck(r.Check)
		v.Check = &c
	}
	return v
}

func (h *handlers) transaction(w http.ResponseWriter, r *api.Request) error {
	data, err := readBody(r, max(h.c.MaxTransaction, h.c.MaxValue), "limits.txn_max_req_len")
	if err != nil {
		return err
	}
	var body []opBody
	if err := decode.JSONValue(data, &body); err != nil {
		return &api.StatusError{Code: http.StatusBadRequest, Text: "Failed to parse body: " + err.Error(), Err: err}
	}
	if len(body) > maxOps {
		return &api.StatusError{
			Code: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf("Transaction contains too many operations (%d > %d)", len(body), maxOps),
		}
	}
	cmd, faults, err := h.operations(r, body)
	if err != nil {
		return err
	}
	var result catalog.TransactionResult
	switch {
	case len(faults) > 0:
		result.Errors = faults
	case cmd.ReadOnly():
		if !r.Options.Stale {
			if err := h.c.Cluster.Confirm(r.Context()); err != nil {
				return err
			}
		}
		t := h.c.Store.Read()
		result = t.Transaction(&cmd)
		w.Header().Set("X-Consul-KnownLeader", strconv.FormatBool(true))
		w.Header().Set("X-Consul-LastContact", "0")
	default:
		agreed, err := h.c.Cluster.Propose(r.Context(), cmd)
		if err != nil {
			return err
		}
		result = agreed.Value.(catalog.TransactionResult)
	}
	view := struct {
		Results []opView
		Errors  []catalog.OpError
	}{Errors: result.Errors}
	if len(result.Errors) > 0 {
		return api.WriteJSONStatus(w, http.StatusConflict, view)
	}
	view.Results = make([]opView, 0, len(result.Results))
	for i := range result.Results {
		view.Results = append(view.Results, viewOp(&result.Results[i]))
	}
	return api.WriteJSON(w, view)
}

// operations turns the body into a command. Faults are of single operations: what the subject may not do, or what is wrong with
// a record.
func (h *handlers) operations(r *api.Request, body []opBody) (catalog.Transaction, []catalog.OpError, error) {
	var cmd catalog.Transaction
	var faults []catalog.OpError
	for i := range body {
		if kv := body[i].KV; kv != nil && int64(len(kv.Value)) > h.c.MaxValue {
			return cmd, nil, &api.StatusError{
				Code: http.StatusRequestEntityTooLarge,
				Text: fmt.Sprintf("Value for key %q is too large (%d > %d bytes)", kv.Key, len(kv.Value), h.c.MaxValue),
			}
		}
		scope, err := body[i].scope(r)
		if err != nil {
			return cmd, nil, err
		}
		op, need, name, err := body[i].operation(scope, h.commandScope(scope))
		if err == nil {
			permission, ok := api.Operations[need]
			switch {
			case !ok:
				err = fmt.Errorf("unknown operation %q", need)
			case op.Session != nil:
				err = h.allowSession(r, permission, scope, op.Session.ID)
			default:
				if err = h.allowOp(r, permission, &op, scope, name); guard.Off("C100") {
					err = nil
				}
			}
		}
		if err != nil {
			faults = append(faults, catalog.OpError{OpIndex: i, What: err.Error()})
		}
		cmd.Ops = append(cmd.Ops, op)
	}
	return cmd, faults, nil
}

// allowSession asks for the permission on the session's node.
func (h *handlers) allowSession(r *api.Request, p api.Permission, scope catalog.Scope, id string) error {
	s, err := h.c.Store.Read().Session(scope, id)
	if err != nil || s == nil {
		return err
	}
	return r.In(scope.Namespace).Allow(p, s.Node)
}

// allowOp asks for the permission where the operation is. What has a service's ID is that service's too, whatever name the operation gives it;
// a check of a service in another namespace than the default one is of that namespace, of which a permission on its node says nothing.
func (h *handlers) allowOp(r *api.Request, p api.Permission, op *catalog.TransactionOp, scope catalog.Scope, name string) error {
	if err := r.In(scope.Namespace).Allow(p, name); err != nil {
		return err
	}
	var node, service, check string
	switch {
	case op.Service != nil:
		node, service = op.Service.Service.Node, op.Service.Service.ID
	case op.Check != nil && scope.Namespace != catalog.DefaultNamespace:
		node, service, check = op.Check.Check.Node, op.Check.Check.ServiceID, op.Check.Check.CheckID
	default:
		return nil
	}
	have, err := holdingsOf(h.c.Store.Read(), scope.Global().Name(node))
	if err != nil {
		return err
	}
	ofService, err := have.service(scope, service)
	if err != nil {
		return err
	}
	ofCheck, err := have.check(scope, check)
	if err != nil {
		return err
	}
	for _, service := range []string{ofService, ofCheck} {
		if service == "" {
			continue
		}
		if err := r.In(scope.Namespace).Allow(api.Permission{Resource: "service", Access: p.Access}, service); err != nil {
			return err
		}
	}
	return nil
}
