// SPDX-License-Identifier: Apache-2.0

//go:build !weftunguarded

package ca

// unguarded is set by the build tag weftunguarded, which takes guards away to see their tests fail.
const unguarded = false
