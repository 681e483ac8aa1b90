// SPDX-License-Identifier: Apache-2.0

// Package guard lets the tests of guards be seen to fail without them. A guard asks Off with the number of the bad input that it is against
// (C1 to C130, see security_test.go); in a program that is delivered the answer is a constant, and nothing of this is left.
// With the build tag weftunguarded, the environment variable WEFT_UNGUARDED names the one guard that is taken away.
package guard
