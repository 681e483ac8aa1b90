// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// The kinds of ACL objects.
const (
	ACLTokens       = "token"
	ACLPolicies     = "policy"
	ACLRoles        = "role"
	ACLBindingRules = "binding-rule"
	ACLAuthMethods  = "auth-method"
)

// ACLToken is what a secret stands for. The secret itself isn't kept: SecretHash is the hex form of its SHA-256.
type ACLToken struct {
	AccessorID        string
	SecretHash        string
	Name              string               `json:",omitempty"`
	Description       string               `json:",omitempty"`
	Policies          []ACLLink            `json:",omitempty"`
	Roles             []ACLLink            `json:",omitempty"`
	ServiceIdentities []ACLServiceIdentity `json:",omitempty"`
	NodeIdentities    []ACLNodeIdentity    `json:",omitempty"`
	TemplatedPolicies []ACLTemplatedPolicy `json:",omitempty"`
	Local             bool                 `json:",omitempty"`
	AuthMethod        string               `json:",omitempty"`
	ExpirationTime    *time.Time           `json:",omitempty"`
	CreateTime        time.Time
	Hash              []byte
	Namespace         string `json:",omitempty"`
	Partition         string `json:",omitempty"`
	Indexes
}

// Expired says whether the token's time is over.
func (t *ACLToken) Expired(now time.Time) bool {
	return t.ExpirationTime != nil && !now.Before(*t.ExpirationTime)
}

// ACLLink names a policy or role by its ID. Its name is looked up where it is shown.
type ACLLink struct {
	ID   string
	Name string `json:",omitempty"`
}

// ACLServiceIdentity grants what a service needs, in some datacenters or all.
type ACLServiceIdentity struct {
	ServiceName string
	Datacenters []string `json:",omitempty"`
}

// ACLNodeIdentity grants what a node's agent needs, in one datacenter.
type ACLNodeIdentity struct {
	NodeName   string
	Datacenter string
}

// ACLTemplatedPolicy grants what a template says of its variables.
type ACLTemplatedPolicy struct {
	TemplateName      string
	TemplateVariables *ACLTemplateVariables `json:",omitempty"`
	Datacenters       []string              `json:",omitempty"`
}

// ACLTemplateVariables are a template's variables.
type ACLTemplateVariables struct {
	Name string `json:",omitempty"`
}

// ACLPolicy is rules with a name.
type ACLPolicy struct {
	ID          string
	Name        string
	Description string `json:",omitempty"`
	Rules       string
	Datacenters []string `json:",omitempty"`
	Hash        []byte
	Namespace   string `json:",omitempty"`
	Partition   string `json:",omitempty"`
	Indexes
}

// ACLRole is policies and identities with a name.
type ACLRole struct {
	ID                string
	Name              string
	Description       string               `json:",omitempty"`
	Policies          []ACLLink            `json:",omitempty"`
	ServiceIdentities []ACLServiceIdentity `json:",omitempty"`
	NodeIdentities    []ACLNodeIdentity    `json:",omitempty"`
	TemplatedPolicies []ACLTemplatedPolicy `json:",omitempty"`
	Hash              []byte
	Namespace         string `json:",omitempty"`
	Partition         string `json:",omitempty"`
	Indexes
}

// ACLBindingRule says what somebody gets who logs in by an auth method and whom the selector selects.
type ACLBindingRule struct {
	ID          string
	Description string `json:",omitempty"`
	AuthMethod  string
	Selector    string                `json:",omitempty"`
	BindType    string                // service, node, role, policy or templated-policy
	BindName    string                `json:",omitempty"`
	BindVars    *ACLTemplateVariables `json:",omitempty"`
	Namespace   string                `json:",omitempty"`
	Partition   string                `json:",omitempty"`
	Indexes
}

// ACLAuthMethod is where people and programs log in from.
type ACLAuthMethod struct {
	Name          string
	Type          string
	DisplayName   string        `json:",omitempty"`
	Description   string        `json:",omitempty"`
	MaxTokenTTL   time.Duration `json:",omitempty"`
	TokenLocality string        `json:",omitempty"`
	// TokenNameFormat is what its tokens are named by, with ${…} of what is known of who logs in.
	TokenNameFormat string `json:",omitempty"`
	Config          Opaque `json:",omitempty"`
	Namespace       string `json:",omitempty"`
	Partition       string `json:",omitempty"`
	Indexes
}

// Secrets are the texts in Config that nobody else may know; servers seal them before they are proposed.
func (m *ACLAuthMethod) Secrets() []string {
	var out []string
	_, _ = m.ChangeSecrets(func(secret string) (string, error) {
		out = append(out, secret)
		return secret, nil
	})
	return out
}

// ChangeSecrets gives a method with another text in the place of each secret, none where change gives "". They are found as the configuration is
// read: at any depth, without regard to case, underscores and dashes in names.
func (m *ACLAuthMethod) ChangeSecrets(change func(string) (string, error)) (*ACLAuthMethod, error) {
	config, err := changeSecrets(map[string]any(m.Config), change)
	if err != nil {
		return nil, err
	}
	out := *m
	out.Config, _ = config.(map[string]any)
	return &out, nil
}

func changeSecrets(v any, change func(string) (string, error)) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v, nil
		}
		out := make(map[string]any, len(v))
		for name, inner := range v {
			var err error
			secret, _ := inner.(string)
			if secret == "" || !isSecret(name) {
				if out[name], err = changeSecrets(inner, change); err != nil {
					return nil, err
				}
				continue
			}
			if secret, err = change(secret); err != nil {
				return nil, err
			}
			if secret != "" {
				out[name] = secret
			}
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			var err error
			if out[i], err = changeSecrets(inner, change); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

func isSecret(name string) bool {
	switch strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name)) {
	case "serviceaccountjwt", "oidcclientsecret", "pemkey":
		return true
	}
	return false
}

// ACLObject is one of the kinds; exactly one field is set.
type ACLObject struct {
	Token       *ACLToken       `json:",omitempty"`
	Policy      *ACLPolicy      `json:",omitempty"`
	Role        *ACLRole        `json:",omitempty"`
	BindingRule *ACLBindingRule `json:",omitempty"`
	AuthMethod  *ACLAuthMethod  `json:",omitempty"`
	JoinToken   *JoinToken      `json:",omitempty"`
	PlaneCA     *PlaneCA        `json:",omitempty"`
	Namespace   *Namespace      `json:",omitempty"`
}

// Kind is the object's kind, "" if none is set.
func (o ACLObject) Kind() string {
	switch {
	case o.Token != nil:
		return ACLTokens
	case o.Policy != nil:
		return ACLPolicies
	case o.Role != nil:
		return ACLRoles
	case o.BindingRule != nil:
		return ACLBindingRules
	case o.AuthMethod != nil:
		return ACLAuthMethods
	case o.JoinToken != nil:
		return JoinTokens
	case o.PlaneCA != nil:
		return PlaneCAs
	case o.Namespace != nil:
		return Namespaces
	}
	return ""
}

// ID is what the object is found by: its accessor, ID, or an auth method's name.
func (o ACLObject) ID() string {
	switch {
	case o.Token != nil:
		return o.Token.AccessorID
	case o.Policy != nil:
		return o.Policy.ID
	case o.Role != nil:
		return o.Role.ID
	case o.BindingRule != nil:
		return o.BindingRule.ID
	case o.AuthMethod != nil:
		return o.AuthMethod.Name
	case o.JoinToken != nil:
		return o.JoinToken.ID
	case o.PlaneCA != nil:
		return PlaneCAID
	case o.Namespace != nil:
		return o.Namespace.Name
	}
	return ""
}

// unique is what no other object of the kind may have: a token's secret (of both kinds), a policy's or role's name; "" for nothing.
func (o ACLObject) unique() string {
	switch {
	case o.Token != nil:
		return o.Token.SecretHash
	case o.Policy != nil:
		return strings.ToLower(o.Policy.Name)
	case o.Role != nil:
		return strings.ToLower(o.Role.Name)
	case o.JoinToken != nil:
		return o.JoinToken.SecretHash
	}
	return ""
}

// method is the auth method that the object came of, "" for none.
func (o ACLObject) method() string {
	switch {
	case o.Token != nil:
		return o.Token.AuthMethod
	case o.BindingRule != nil:
		return o.BindingRule.AuthMethod
	}
	return ""
}

func (o ACLObject) indexes() *Indexes {
	switch {
	case o.Token != nil:
		return &o.Token.Indexes
	case o.Policy != nil:
		return &o.Policy.Indexes
	case o.Role != nil:
		return &o.Role.Indexes
	case o.BindingRule != nil:
		return &o.BindingRule.Indexes
	case o.JoinToken != nil:
		return &o.JoinToken.Indexes
	case o.PlaneCA != nil:
		return &o.PlaneCA.Indexes
	case o.Namespace != nil:
		return &o.Namespace.Indexes
	}
	return &o.AuthMethod.Indexes
}

// SetACL writes ACL objects, which were completed and validated before: all of them or none. Create says that none of them may
// exist; otherwise all must. A name or secret that another object of the kind has is ErrExists, an object that isn't there
// ErrNotFound. The result has no value.
type SetACL struct {
	Create  bool `json:",omitempty"`
	Objects []ACLObject
}

// DeleteACL removes ACL objects of one kind; what isn't there is no error. With an auth method go the tokens and binding rules
// that came of it. Before, if it isn't zero, keeps tokens that don't end before it. The result's value is how many went, an int.
type DeleteACL struct {
	Kind   string
	IDs    []string
	Before time.Time `json:",omitzero"`
}

// BootstrapACL makes the first management token, once. A second time is ErrConflict, unless Reset is the index at which it was
// done last. The result has no value.
type BootstrapACL struct {
	Token ACLToken
	Reset uint64 `json:",omitempty"`
}

func (SetACL) commandType() string       { return "set-acl" }
func (DeleteACL) commandType() string    { return "delete-acl" }
func (BootstrapACL) commandType() string { return "bootstrap-acl" }

// TopicACL is all ACL objects: they are few, read rarely, and what a token grants depends on many of them.
const TopicACL TopicKind = "acl"

// TopicACLChanged is the ACL objects that were there before: what a token grants changes only with it.
const TopicACLChanged TopicKind = "acl-changed"

var aclTopic = Topic{Kind: TopicACL}

// ACLChangedTopic is the one topic of its kind.
func ACLChangedTopic() Topic { return Topic{Kind: TopicACLChanged} }

// aclRow is an object under its keys. It is not changed.
type aclRow struct{ ACLObject }

func (r *aclRow) key() string { return aclString(r.Kind(), r.ID()) }

func aclString(kind, id string) string { return join(kind, strings.ToLower(id)) }

func (u *unit) setACL(c *SetACL) (any, error) {
	for _, o := range c.Objects {
		if err := u.putACL(o, c.Create); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (u *unit) putACL(o ACLObject, create bool) error {
	kind := o.Kind()
	if kind == "" || o.ID() == "" {
		return invalidf("an ACL object without a kind or ID")
	}
	s := u.acl.at(u.w, aclString(kind, o.ID()))
	switch {
	case create && s.new != nil:
		return faultf(ErrExists, "ACL %s %q exists", kind, o.ID())
	case !create && s.new == nil:
		return faultf(ErrNotFound, "ACL %s %q doesn't exist", kind, o.ID())
	}
	if u.takenACL(s.key, o) {
		return faultf(ErrExists, "an ACL %s with this name or secret exists", kind)
	}
	if m := o.method(); m != "" && u.acl.at(u.w, aclString(ACLAuthMethods, m)).new == nil {
		return faultf(ErrNotFound, "auth method %q doesn't exist", m)
	}
	row := &aclRow{cloneACL(o)}
	since := uint64(0)
	if s.new != nil {
		since = s.new.indexes().CreateIndex
	}
	u.stamp(row.indexes(), since)
	s.new = row
	return nil
}

// takenACL says whether another object has what must be this one's alone.
func (u *unit) takenACL(key string, o ACLObject) bool {
	unique := o.unique()
	if unique == "" {
		return false
	}
	each(u.w.txn, tableACL, "unique", join(o.Kind(), unique), func(r *aclRow) { u.acl.put(r.key(), r) })
	return slices.ContainsFunc(u.acl.list, func(s *slot[*aclRow]) bool {
		return s.key != key && s.new != nil && s.new.Kind() == o.Kind() && s.new.unique() == unique
	})
}

// cloneACL copies the object itself, so that its indexes can be set.
func cloneACL(o ACLObject) ACLObject {
	switch {
	case o.Token != nil:
		c := *o.Token
		o.Token = &c
	case o.Policy != nil:
		c := *o.Policy
		o.Policy = &c
	case o.Role != nil:
		c := *o.Role
		o.Role = &c
	case o.BindingRule != nil:
		c := *o.BindingRule
		o.BindingRule = &c
	case o.AuthMethod != nil:
		c := *o.AuthMethod
		o.AuthMethod = &c
	case o.JoinToken != nil:
		c := *o.JoinToken
		o.JoinToken = &c
	case o.PlaneCA != nil:
		c := *o.PlaneCA
		o.PlaneCA = &c
	case o.Namespace != nil:
		c := *o.Namespace
		o.Namespace = &c
	}
	return o
}

func (u *unit) deleteACL(c *DeleteACL) (any, error) {
	n := 0
	drop := func(key string) {
		s := u.acl.at(u.w, key)
		if s.new == nil || !c.Before.IsZero() && !s.new.endsBefore(c.Before) {
			return
		}
		s.new = nil
		n++
	}
	for _, id := range c.IDs {
		drop(aclString(c.Kind, id))
		if c.Kind != ACLAuthMethods {
			continue
		}
		var of []string
		each(u.w.txn, tableACL, "method", join(strings.ToLower(id)), func(r *aclRow) { of = append(of, r.key()) })
		for _, key := range of {
			drop(key)
		}
	}
	return n, nil
}

func (r *aclRow) endsBefore(t time.Time) bool {
	if r.JoinToken != nil {
		return r.JoinToken.Expires.Before(t)
	}
	return r.Token == nil || r.Token.ExpirationTime != nil && r.Token.ExpirationTime.Before(t)
}

func (u *unit) bootstrapACL(c *BootstrapACL) (any, error) {
	if done := u.w.meta.bootstrap; done != 0 && c.Reset != done {
		return nil, faultf(ErrConflict, "ACL bootstrap no longer allowed (reset index: %d)", done)
	}
	u.bootstrapped = true
	return nil, u.putACL(ACLObject{Token: &c.Token}, true)
}

func (u *unit) flushACL(s *slot[*aclRow]) {
	if s.new != nil {
		insert(u.w.txn, tableACL, s.new)
	} else {
		remove(u.w.txn, tableACL, s.old)
	}
	if s.old != nil && s.old.Namespace != nil || s.new != nil && s.new.Namespace != nil {
		u.w.touch(namespacesTopic) // no token grants more or less by it
		return
	}
	u.w.touch(aclTopic)
	if s.old != nil {
		u.w.touch(ACLChangedTopic())
	}
}

// ACL gives an object by its kind and ID; the zero ACLObject if there is none.
func (t *Txn) ACL(kind, id string) (ACLObject, error) {
	if err := t.use(aclTopic); err != nil {
		return ACLObject{}, err
	}
	if r := first[*aclRow](t.db, tableACL, aclString(kind, id)); r != nil {
		return r.ACLObject, nil
	}
	return ACLObject{}, nil
}

// ACLUnique gives the token with a secret's hash, or the policy or role of a name; the zero ACLObject if there is none.
func (t *Txn) ACLUnique(kind, unique string) (ACLObject, error) {
	var out ACLObject
	if err := t.use(aclTopic); err != nil {
		return out, err
	}
	each(t.db, tableACL, "unique", join(kind, strings.ToLower(unique)), func(r *aclRow) { out = r.ACLObject })
	return out, nil
}

// ACLList lists the objects of a kind by ID.
func (t *Txn) ACLList(kind string) ([]ACLObject, error) {
	if err := t.use(aclTopic); err != nil {
		return nil, err
	}
	out := []ACLObject{}
	each(t.db, tableACL, "id_prefix", join(kind), func(r *aclRow) { out = append(out, r.ACLObject) })
	return out, nil
}

// ACLOfMethod lists the tokens and binding rules of an auth method.
func (t *Txn) ACLOfMethod(name string) ([]ACLObject, error) {
	if err := t.use(aclTopic); err != nil {
		return nil, err
	}
	out := []ACLObject{}
	each(t.db, tableACL, "method", join(strings.ToLower(name)), func(r *aclRow) { out = append(out, r.ACLObject) })
	return out, nil
}

// ACLChanged is the last change or removal of an ACL object that was there before.
func (t *Txn) ACLChanged() uint64 { return t.topicIndex(ACLChangedTopic()) }

// ACLRevision is ACLChanged for who waits for the next one.
func (t *Txn) ACLRevision() (uint64, error) { return t.ACLChanged(), t.use(ACLChangedTopic()) }

// ACLBootstrapped is the index at which the first management token was made, 0 if it wasn't yet.
func (t *Txn) ACLBootstrapped() uint64 { return t.meta.bootstrap }

// Grants says whether the link list names an ID.
func Grants(links []ACLLink, id string) bool {
	return slices.ContainsFunc(links, func(l ACLLink) bool { return l.ID == id })
}

// UnmarshalJSON takes a policy's or role's link also as a plain name, as the older API has it.
func (l *ACLLink) UnmarshalJSON(data []byte) error {
	var name string
	if json.Unmarshal(data, &name) == nil {
		l.Name = name
		return nil
	}
	type plain ACLLink
	return json.Unmarshal(data, (*plain)(l))
}
