// SPDX-License-Identifier: Apache-2.0

//go:build weftunguarded

package api

const unguarded = true
