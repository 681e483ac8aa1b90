// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"strings"

	"github.com/weftmesh/weft/internal/decode"
	"github.com/weftmesh/weft/internal/plane"
)

// AutoConfig is Consul's way for a node to come in: here its intro token is a join token.
type AutoConfig struct {
	Enabled        bool
	IntroToken     string
	IntroTokenFile string
}

// Joining is what lets this node into a locked cluster: join_token, else auto_config's intro token; @path is a file that holds it, ""
// is none.
func (c *Config) Joining() string {
	if c.JoinToken != "" || !c.AutoConfig.Enabled {
		return c.JoinToken
	}
	file := ""
	if c.AutoConfig.IntroTokenFile != "" {
		file = "@" + c.AutoConfig.IntroTokenFile
	}
	return cmp.Or(c.AutoConfig.IntroToken, file)
}

// validateAutoConfig finds what contradicts itself in auto_config.
func (c *Config) validateAutoConfig(fault func(format string, args ...any)) {
	switch a := c.AutoConfig; {
	case !a.Enabled:
	case c.Server:
		fault("auto_config.enabled is for agents: a server joins by join_token, which a server of the cluster makes (weft plane token -server)")
	case c.JoinToken != "":
		fault("auto_config.enabled and join_token both let this node in: give one of them")
	case c.Joining() == "":
		fault("auto_config.enabled needs intro_token, intro_token_file or CONSUL_INTRO_TOKEN: a join token, which a server of the cluster makes (weft plane token)")
	case !strings.HasPrefix(c.Joining(), "@"):
		if _, err := plane.ParseToken(c.Joining()); err != nil {
			fault("auto_config.intro_token: %w; weft's servers take no JWTs, but join tokens (weft plane token)", err)
		}
	}
}

// otherwise are keys of Consul's whose purpose weft has another way for, with that way. They have no effect; a switch that is off needs
// none.
var otherwise = map[string]string{
	"auto_encrypt.tls":             "agents get their certificates by a join token: make one on the servers of a locked cluster (weft plane token), and give it as -join-token",
	"auto_encrypt.allow_tls":       "servers give certificates to nodes that bring a join token: start the first server with -locked, and make tokens with weft plane token",
	"auto_encrypt.dns_san":         "the certificate of a join has its node's name",
	"auto_encrypt.ip_san":          "the certificate of a join has its node's name",
	"auto_config.server_addresses": "the join token says where the servers are",
	"auto_config.dns_sans":         "the certificate of a join has its node's name",
	"auto_config.ip_sans":          "the certificate of a join has its node's name",
	"auto_config.authorization":    "servers let nodes in by join tokens, not by JWTs: make one with weft plane token, and give it as intro_token or -join-token",
}

// dropOtherwise takes those keys out of a document.
func dropOtherwise(doc *decode.Document, warn func(line int, format string, args ...any)) {
	for key, way := range otherwise {
		n, last := holder(doc, key)
		v := unwrapped(n.Field(last))
		off := v != nil && decode.Any(v) == false
		if line, ok := n.Remove(last); ok && !off {
			warn(line, "%s has no effect: %s", key, way)
		}
	}
}
