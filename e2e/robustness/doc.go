// SPDX-License-Identifier: Apache-2.0

// Package robustness proves that servers lose nothing: real processes, each in a network namespace of its own, over links that a test
// can cut, slow down and confuse; clients whose whole history is checked for linearizability by porcupine; and faults as named rows. It
// has only tests; website/docs/servers.md says how to run them.
package robustness
