// SPDX-License-Identifier: Apache-2.0

package catalog

import "time"

// HTTPRedirect answers with another place; what is empty stays as the request has it.
type HTTPRedirect struct {
	Scheme        string `json:",omitempty"`
	Host          string `json:",omitempty"`
	Port          int    `json:",omitempty"`
	Path          string `json:",omitempty"` // the whole
	PrefixRewrite string `json:",omitempty"` // in place of what the match's path is about
	StripQuery    bool   `json:",omitempty"`
	Status        int    `json:",omitempty"` // 301 (default), 302, 303, 307 or 308
}

// HTTPResponse answers without asking anybody.
type HTTPResponse struct {
	Status int
	Body   string `json:",omitempty"`
}

// RegexRewrite replaces what of a path Regex (RE2) matches by Substitution, in which \1 is the first group.
type RegexRewrite struct {
	Regex        string
	Substitution string `json:",omitempty"`
}

// Mirror sends a copy of requests to another service, whose answer nobody waits for.
type Mirror struct {
	Service       string   `json:",omitempty"`
	ServiceSubset string   `json:",omitempty"`
	Percent       *float64 `json:",omitempty"` // of the requests; all if nothing is said
}

// CORS answers browsers that ask from pages of other origins.
type CORS struct {
	AllowOrigins     []StringMatch
	AllowMethods     []string      `json:",omitempty"`
	AllowHeaders     []string      `json:",omitempty"`
	ExposeHeaders    []string      `json:",omitempty"`
	MaxAge           time.Duration `json:",omitempty"`
	AllowCredentials bool          `json:",omitempty"`
}

// BackOff is the wait before a retry: a random part of Base, then of twice as much, up to Max.
type BackOff struct {
	Base time.Duration
	Max  time.Duration `json:",omitempty"` // ten times Base if nothing is said
}

// RetryBudget bounds retries to a share of the requests that are under way.
type RetryBudget struct {
	Percent       *float64 `json:",omitempty"` // 18
	MinConcurrent *int     `json:",omitempty"` // so many are allowed in any case: 3
}

// Fault breaks requests on purpose.
type Fault struct {
	// Until is when it ends by itself.
	Until *time.Time `json:",omitempty"`
	// Header restricts it to requests whose headers match.
	Header    []ServiceRouteHTTPMatchHeader `json:",omitempty"`
	Delay     *FaultDelay                   `json:",omitempty"`
	Abort     *FaultAbort                   `json:",omitempty"`
	Bandwidth *FaultBandwidth               `json:",omitempty"`
}

// FaultDelay lets requests wait before they are passed on.
type FaultDelay struct {
	Duration time.Duration
	Percent  *float64 `json:",omitempty"` // all if nothing is said
}

// FaultAbort answers requests with an error, by exactly one of its forms.
type FaultAbort struct {
	Status     int      `json:",omitempty"` // of HTTP
	GRPCStatus *uint32  `json:",omitempty"`
	Reset      bool     `json:",omitempty"` // the caller's connection or stream
	Percent    *float64 `json:",omitempty"` // all if nothing is said
}

// FaultBandwidth slows responses down.
type FaultBandwidth struct {
	KiBPerSecond int
	Percent      *float64 `json:",omitempty"` // of the requests; all if nothing is said
}
