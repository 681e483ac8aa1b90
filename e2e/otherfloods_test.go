// SPDX-License-Identifier: Apache-2.0

package e2e

// otherFloods are those after the handshake, of bodies, and of names.
func otherFloods() []flood { return nil }
