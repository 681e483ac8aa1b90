// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// JWTProvider is who issues tokens, where they are found in a request, and how they are checked.
type JWTProvider struct {
	EntryHead
	Issuer           string         `json:",omitempty"`
	Audiences        []string       `json:",omitempty"`
	JSONWebKeySet    *JSONWebKeySet `json:",omitempty"`
	Locations        []JWTLocation  `json:",omitempty"`
	Forwarding       *JWTForwarding `json:",omitempty"`
	ClockSkewSeconds int            `json:",omitempty"`
	CacheConfig      *JWTCache      `json:",omitempty"`
	// ClaimHeaders is weft's: what a verified token claims is handed on in headers. What callers send in these is taken out.
	ClaimHeaders []JWTClaimHeader `json:",omitempty"`
	// SpaceDelimitedClaims is weft's: claims of which the text is a list, its parts divided by spaces, as often scope.
	SpaceDelimitedClaims []string `json:",omitempty"`
	// RefuseInvalid is weft's: a request with tokens, of which none is right for a provider that says so, is answered with 401, whatever
	// the intentions say; one without a token goes on to them. Of several such providers the first that takes a token counts. Otherwise a wrong token claims nothing, as none does.
	RefuseInvalid bool `json:",omitempty"`
}

// JWTClaimHeader is a claim ("sub", or "user.name" within another) and the header that gets it: text, numbers and yes or no as they are, a
// list or an object as JSON in base64 (URL alphabet).
type JWTClaimHeader struct {
	Claim  string
	Header string
}

// JSONWebKeySet is the issuer's keys. Local beside Remote is weft's: these count too, whether the others can be fetched or not.
type JSONWebKeySet struct {
	Local  *LocalJWKS  `json:",omitempty"`
	Remote *RemoteJWKS `json:",omitempty"`
}

// LocalJWKS is keys in base64, or in a file.
type LocalJWKS struct {
	JWKS     string `json:",omitempty"`
	Filename string `json:",omitempty"`
}

// RemoteJWKS is keys that are fetched.
type RemoteJWKS struct {
	URI                 string           `json:",omitempty"`
	RequestTimeoutMs    int              `json:",omitempty"`
	CacheDuration       time.Duration    `json:",omitempty"`
	FetchAsynchronously bool             `json:",omitempty"`
	UseSNI              bool             `json:",omitempty"`
	RetryPolicy         *JWKSRetryPolicy `json:",omitempty"`
	JWKSCluster         *JWKSCluster     `json:",omitempty"`
}

func (r *RemoteJWKS) validate(f string) error {
	switch {
	case r == nil:
		return nil
	case r.URI == "":
		return invalidf("%s.URI is required", f)
	case r.RequestTimeoutMs < 0 || r.CacheDuration < 0:
		return invalidf("%s: RequestTimeoutMs and CacheDuration must not be negative", f)
	}
	u, err := url.Parse(r.URI)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil {
		return invalidf("%s.URI %q: want http:// or https://, a host, and a path", f, r.URI)
	}
	return nil
}

// JWKSRetryPolicy says how fetching is tried again.
type JWKSRetryPolicy struct {
	NumRetries         int           `json:",omitempty"`
	RetryPolicyBackOff *RetryBackOff `json:",omitempty"`
}

// RetryBackOff bounds the time between tries.
type RetryBackOff struct {
	BaseInterval time.Duration `json:",omitempty"`
	MaxInterval  time.Duration `json:",omitempty"`
}

// JWKSCluster is how the key server is reached.
type JWKSCluster struct {
	DiscoveryType   string        `json:",omitempty"`
	TLSCertificates *JWKSTLS      `json:",omitempty"`
	ConnectTimeout  time.Duration `json:",omitempty"`
}

// JWKSTLS is whom the key server must be certified by.
type JWKSTLS struct {
	CaCertificateProviderInstance *JWKSProviderInstance `json:",omitempty"`
	TrustedCA                     *JWKSTrustedCA        `json:",omitempty"`
}

// JWKSProviderInstance names a certificate that the proxy has.
type JWKSProviderInstance struct {
	InstanceName    string `json:",omitempty"`
	CertificateName string `json:",omitempty"`
}

// JWKSTrustedCA is a CA's certificate.
type JWKSTrustedCA struct {
	Filename            string `json:",omitempty"`
	EnvironmentVariable string `json:",omitempty"`
	InlineString        string `json:",omitempty"`
	InlineBytes         string `json:",omitempty"` // base64
}

// JWTLocation is where a token stands; one field is set.
type JWTLocation struct {
	Header     *JWTHeader `json:",omitempty"`
	QueryParam *JWTName   `json:",omitempty"`
	Cookie     *JWTName   `json:",omitempty"`
}

// JWTHeader is a header with a token.
type JWTHeader struct {
	Name        string
	ValuePrefix string `json:",omitempty"`
	Forward     bool   `json:",omitempty"`
}

// JWTName is a parameter or cookie with a token.
type JWTName struct{ Name string }

// JWTForwarding hands the token's payload on.
type JWTForwarding struct {
	HeaderName              string
	PadForwardPayloadHeader bool `json:",omitempty"`
}

// JWTCache bounds the cache of checked tokens.
type JWTCache struct{ Size int }

// EntryKind is KindJWTProvider.
func (*JWTProvider) EntryKind() string { return KindJWTProvider }

// Normalize fills in the clock's skew.
func (e *JWTProvider) Normalize() {
	e.normalize()
	if e.ClockSkewSeconds == 0 {
		e.ClockSkewSeconds = 30
	}
}

// Validate checks that there is one key set, and the locations.
func (e *JWTProvider) Validate() error {
	if err := firstError(e.validate(), e.exactName(), notNegative("ClockSkewSeconds", e.ClockSkewSeconds)); err != nil {
		return err
	}
	set := e.JSONWebKeySet
	if set == nil || set.Local == nil && set.Remote == nil {
		return invalidf("JSONWebKeySet must have Local or Remote")
	}
	if l := set.Local; l != nil && (l.JWKS == "") == (l.Filename == "") {
		return invalidf("JSONWebKeySet.Local must have exactly one of JWKS and Filename")
	}
	if err := set.Remote.validate("JSONWebKeySet.Remote"); err != nil {
		return err
	}
	for i, l := range e.Locations {
		n := 0
		for _, set := range []bool{l.Header != nil, l.QueryParam != nil, l.Cookie != nil} {
			if set {
				n++
			}
		}
		if n != 1 {
			return invalidf("Locations[%d] must have exactly one of Header, QueryParam and Cookie", i)
		}
	}
	for i, c := range e.ClaimHeaders {
		f := fmt.Sprintf("ClaimHeaders[%d]", i)
		if slices.Contains(strings.Split(c.Claim, "."), "") {
			return invalidf("%s.Claim %q: want a claim's name, or names divided by dots", f, c.Claim)
		}
		if !headerName(c.Header) {
			return invalidf("%s.Header %q is no name of a header", f, c.Header)
		}
	}
	if i := slices.Index(e.SpaceDelimitedClaims, ""); i >= 0 {
		return invalidf("SpaceDelimitedClaims[%d] must name a claim", i)
	}
	if e.Forwarding != nil && e.Forwarding.HeaderName == "" {
		return invalidf("Forwarding.HeaderName is required")
	}
	return nil
}

// headerName says whether a name can be a header's (RFC 9110 §5.6.2), of those that a proxy may set.
func headerName(s string) bool {
	lower := strings.ToLower(s)
	return s != "" && !slices.Contains([]string{"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade"}, lower) &&
		!strings.ContainsFunc(lower, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
		})
}
