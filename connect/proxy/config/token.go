// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto"
	"time"
)

// TokenProvider is who issues tokens (JWT, RFC 7519), where they are found, and by which keys they are verified.
type TokenProvider struct {
	Key           string // under which its tokens' claims are found
	Issuer        string // "" takes any
	Audiences     []string
	Keys          []TokenKey
	Headers       []TokenHeader // none of Headers, Params and Cookies: authorization's bearer, and the parameter access_token
	Params        []string
	Cookies       []string
	Forward       bool   // the token stays in the request
	PayloadHeader string // gets the payload, in base64
	Pad           bool
	Skew          time.Duration
}

// TokenHeader is a header with a token after a prefix.
type TokenHeader struct{ Name, Prefix string }

// TokenKey is a key of a key set (JWK, RFC 7517).
type TokenKey struct {
	ID, Algorithm string // "" for any
	Public        crypto.PublicKey
}
