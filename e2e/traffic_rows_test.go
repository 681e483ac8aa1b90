// SPDX-License-Identifier: Apache-2.0

package e2e

import "slices"

// trafficRows are the rows of website/docs/traffic.md.
var trafficRows = slices.Concat(acceptanceRows, matchRows, sendRows, endureRows, balanceRows, holdRows, keepRows, protectRows)

// trafficNames are the behaviours of which none may be missing.
var trafficNames = []string{
	"tester to v2 else ninety to ten with limits and ejection", "match path", "match header", "match query", "match method",
	"match authority port and scheme", "match source", "match order and alternatives", "match grpc service and method", "explain a request",
	"send header changes", "send rewrite", "send redirect and direct response", "send mirror", "send cors", "send sticky split",
	"send tcp split", "send failover", "endure timeouts", "endure retries", "endure retry budget", "break delay and abort", "break grpc",
	"break reset", "break bandwidth", "break until", "balance by turns by chance and by load", "balance peak ewma", "balance by hash",
	"balance session persistence", "balance slow start", "balance panic threshold", "balance locality",
	"protect by path header and method", "protect by token", "protect by host and by exception", "protect by token of fetched keys", "protect by claims in headers and refuse what is wrong", "protect in audit mode",
	"protect by mutual tls strict permissive and off", "protect by mutual tls of a port",
	"send weighted split", "send redirect to another service", "balance by hash of query and address", "endure hedging", "endure retry after",
	"endure retries by grpc status and reset", "endure limits of requests and retries", "endure ejection by gateway and local failures",
	"endure ejection by success rate and failure percentage", "endure ejection by statuses of one of few", "endure ejection with probation", "hold connections of an upstream", "hold connections of callers", "hold tunnels and say who calls", "endure fallback", "endure adaptive concurrency",
	"limit of a path and of an instance", "limit of a caller", "limit of all instances together",
}
