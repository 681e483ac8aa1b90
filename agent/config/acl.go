// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"time"

	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/catalog"
)

// ACL says whether tokens are asked for, and which the agent has.
type ACL struct {
	Enabled bool
	// DefaultPolicy is what holds where no rule speaks: "allow" (the default) or "deny".
	DefaultPolicy string
	// DownPolicy is what holds while no server can be asked: "extend-cache" (the default), "async-cache", "allow" or "deny".
	DownPolicy          string
	EnableKeyListPolicy bool
	// EnableTokenPersistence keeps the tokens that are set at run time in data_dir.
	EnableTokenPersistence bool
	// TokenTTL, PolicyTTL and RoleTTL are how long an agent uses what it was told of a token; the shortest holds.
	TokenTTL  time.Duration
	PolicyTTL time.Duration
	RoleTTL   time.Duration
	Tokens    ACLTokens
	// EnableTokenReplication is for several datacenters; tokens are of one yet.
	EnableTokenReplication bool
}

// ACLTokens are the agent's own tokens.
type ACLTokens struct {
	// InitialManagement is the secret of the management token that the first leader makes; Master is its old name.
	InitialManagement             string
	Master                        string
	Default                       string
	Agent                         string
	AgentRecovery                 string
	AgentMaster                   string // AgentRecovery's old name
	Replication                   string
	DNS                           string
	ConfigFileServiceRegistration string
}

// Own are the tokens by what they are for.
func (t ACLTokens) Own() map[tokens.Kind]string {
	recovery := t.AgentRecovery
	if recovery == "" {
		recovery = t.AgentMaster
	}
	return map[tokens.Kind]string{
		tokens.Default: t.Default, tokens.Agent: t.Agent, tokens.Recovery: recovery, tokens.Replication: t.Replication, tokens.DNS: t.DNS,
		tokens.ConfigFile: t.ConfigFileServiceRegistration,
	}
}

// Initial is the management token's secret, "" for none.
func (t ACLTokens) Initial() string {
	if t.InitialManagement != "" {
		return t.InitialManagement
	}
	return t.Master
}

// TTL is how long what is known of a token is used; 0 says nothing.
func (a *ACL) TTL() time.Duration {
	var ttl time.Duration
	for _, d := range []time.Duration{a.TokenTTL, a.PolicyTTL, a.RoleTTL} {
		if d > 0 && (ttl == 0 || d < ttl) {
			ttl = d
		}
	}
	return ttl
}

func (a *ACL) validate() error {
	switch a.DefaultPolicy {
	case "", "allow", "deny":
	default:
		return fmt.Errorf("acl.default_policy: %q is neither \"allow\" nor \"deny\"", a.DefaultPolicy)
	}
	switch tokens.DownPolicy(a.DownPolicy) {
	case "", tokens.Extend, tokens.Async, tokens.Allow, tokens.Deny:
	default:
		return fmt.Errorf("acl.down_policy: %q is none of \"extend-cache\", \"async-cache\", \"allow\", \"deny\"", a.DownPolicy)
	}
	return nil
}

// IntentionsAllow says whether a call is allowed where no intention speaks: default_intention_policy, else as acl.default_policy.
func (c *Config) IntentionsAllow() bool {
	if c.DefaultIntentionPolicy == "" && c.ACL.Enabled {
		return c.ACL.DefaultPolicy != "deny"
	}
	return c.DefaultIntentionPolicy != catalog.ActionDeny
}
