// SPDX-License-Identifier: Apache-2.0

//go:build weftunguarded

package ca

const unguarded = true
