// SPDX-License-Identifier: Apache-2.0

package config

// Seal says by what this node's secrets on disk are sealed.
type Seal struct {
	// KeyFile has a key as `weft keygen` makes it, by which the file with the cluster's seal keys and the one with the agent's tokens are
	// sealed. "": the systemd credential weft-seal-key, where there is one.
	KeyFile string
}
