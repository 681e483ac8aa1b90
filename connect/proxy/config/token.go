// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto"
	"sync/atomic"
	"time"
)

// TokenProvider is who issues tokens (JWT, RFC 7519), where they are found, and by which keys they are verified.
type TokenProvider struct {
	Key           string // under which its tokens' claims are found
	Issuer        string // "" takes any
	Audiences     []string
	Keys          []TokenKey
	Remote        *RemoteKeys   // nil: none are fetched
	Headers       []TokenHeader // none of Headers, Params and Cookies: authorization's bearer, and the parameter access_token
	Params        []string
	Cookies       []string
	Forward       bool   // the token stays in the request
	PayloadHeader string // gets the payload, in base64
	Pad           bool
	Skew          time.Duration
	ClaimHeaders  []ClaimHeader
	Lists         []string // claims whose text is a list, divided by spaces
	Refuse        bool     // a request with a token that is wrong is refused
	Ends          bool     // a token without a time at which it ends (exp) isn't taken
}

// ClaimHeader is a header that gets a claim, by its path.
type ClaimHeader struct {
	Path   []string
	Header string
}

// TokenHeader is a header with a token after a prefix.
type TokenHeader struct{ Name, Prefix string }

// TokenKey is a key of a key set (JWK, RFC 7517).
type TokenKey struct {
	ID, Algorithm string // "" for any
	Public        crypto.PublicKey
}

// RemoteKeys are keys that are fetched. What was fetched last is the one thing of it that changes; it stays where fetching fails.
type RemoteKeys struct {
	URI      string
	Timeout  time.Duration
	CacheFor time.Duration
	Parse    func([]byte) ([]TokenKey, error)

	keys atomic.Pointer[[]TokenKey]
	next atomic.Int64 // when to fetch again, in Unix nanoseconds
	busy atomic.Bool
}

// Keys are those that were fetched last, nil before the first.
func (r *RemoteKeys) Keys() []TokenKey {
	if k := r.keys.Load(); k != nil {
		return *k
	}
	return nil
}

// Due says whether it is time to fetch, and nobody does. Fetched must follow where it is true.
func (r *RemoteKeys) Due(now time.Time) bool {
	return now.UnixNano() >= r.next.Load() && r.busy.CompareAndSwap(false, true)
}

// fetchAgain is how soon a fetch that has failed is tried again.
const fetchAgain = time.Second

// Fetched notes what was fetched; an error leaves the keys as they were.
func (r *RemoteKeys) Fetched(data []byte, err error, now time.Time) error {
	defer r.busy.Store(false)
	var keys []TokenKey
	if err == nil {
		keys, err = r.Parse(data)
	}
	if err != nil {
		r.next.Store(now.Add(fetchAgain).UnixNano())
		return err
	}
	r.keys.Store(&keys)
	r.next.Store(now.Add(r.CacheFor).UnixNano())
	return nil
}
