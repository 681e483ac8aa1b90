// SPDX-License-Identifier: Apache-2.0

// Package ads serves Envoy's aggregated discovery service: it carries what connect/xds rendered to a proxy, by the delta and
// by the state-of-the-world protocol, and reports what the proxy took and refused.
//
// Additions and changes go out in the order clusters, endpoints, listeners, routes, secrets, each type after the one before
// was answered; removals go last, in an order in which nothing refers to what is gone. While a proxy's configuration isn't
// ready nothing is sent: a proxy never learns that something is absent from a configuration that isn't there. What a proxy
// refused is not sent again until there is a newer configuration.
//
// The package renders nothing and doesn't decide who a proxy is: its Source does. Each stream is one goroutine of gRPC's,
// plus one that reads, which ends with the stream.
package ads
