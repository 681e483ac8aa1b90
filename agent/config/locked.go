// SPDX-License-Identifier: Apache-2.0

package config

// validateLocked finds what contradicts a locked cluster.
func (c *Config) validateLocked(fault func(format string, args ...any)) {
	c.validateAutoConfig(fault)
	if !c.Locked && c.Joining() == "" {
		return
	}
	switch {
	case c.DataDir == "":
		fault("locked and join_token need data_dir: certificates and keys are kept there")
	case c.DisableKeyringFile:
		fault("locked and join_token keep the gossip keys in data_dir: leave disable_keyring_file out")
	case c.TLS.RPCFiles() != TLSPart{}:
		fault("locked and join_token give this node a certificate of the cluster's own CA: leave out tls.internal_rpc (or tls.defaults), or them")
	case c.Locked && c.JoinToken != "":
		fault("locked founds a cluster, and join_token joins one: give one of them")
	case c.Locked && !c.Server:
		fault("locked is for the first server of a cluster: an agent joins by join_token")
	case c.Locked && len(c.Joins(false)) > 0:
		fault("locked founds a cluster alone: leave out retry_join, and have the other servers join by the token that this one prints")
	}
}
