// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// Ask is another program that decides about requests.
type Ask struct {
	Cluster   string
	Authority string // what it is called
	GRPC      bool   // by envoy.service.auth.v3.Authorization; else by HTTP, where 200 allows
	Timeout   time.Duration
	Open      bool // requests pass while nobody decides
	Status    int  // else they are answered with it
	// Only are the requests that it is asked about; nil: all.
	Only *Policies
	// Send matches the headers of the request that it is told, but for those that Hide matches. Add are told besides.
	Send, Hide  []StringMatch
	Add         []HeaderValue
	Certificate bool // the caller's goes along
	MaxBody     int  // bytes of the request's body that go along; 0: none
	Partial     bool // a larger body is cut off; else it is refused
	PathPrefix  string
	// Pass matches the headers of an HTTP answer that allows which are set in the request, and Deny those of one that refuses which the
	// caller gets.
	Pass, Deny []StringMatch
}
