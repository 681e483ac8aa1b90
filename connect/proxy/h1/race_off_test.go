// SPDX-License-Identifier: Apache-2.0

//go:build !race

package h1

const underRace = false
