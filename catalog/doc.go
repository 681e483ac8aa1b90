// SPDX-License-Identifier: Apache-2.0

// Package catalog is what the mesh knows: nodes, services, checks, config entries and the CA, as immutable records in
// go-memdb tables. Commands change it in a total order (a server's state machine); the same tables hold an agent's
// partial copy (a replica), where what isn't covered is an error and never an empty answer.
//
// It is pure: no network, no clock, no randomness, no goroutine of its own. Everything a command needs to know (time,
// identifiers) was put into it before it was ordered.
//
// What is read is named by topics: a read transaction can record the topics it touched, and these same topics are what a
// blocking query waits on, what a feed subscribes to, and what a replica covers.
//
// Records that a transaction returns are shared by all readers: nobody may change them, or anything that they point to.
package catalog
