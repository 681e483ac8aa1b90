// SPDX-License-Identifier: Apache-2.0

// Package xds renders the configuration of one proxy: a plain function from what the catalog says, the proxy's registration
// and its certificate to Envoy's v3 resources. Envoy and weft's own proxy get the same. It reads through a transaction that
// knows what it covers; what isn't covered, or isn't there yet, is "not ready" and never less strict. No network, no
// clock, no goroutine.
//
// Two facts decide on the shape. HTTP authorisation stands in routes, so that a changed intention is a changed route
// configuration, which touches no connection. TCP authorisation can only stand in the filter chain, and Envoy takes a
// changed filter chain by draining the old one: its connections are closed after the drain time, the allowed ones too
// (weft's own proxy cuts only those that are denied now). Measured with Envoy 1.40: they are closed exactly --drain-time-s
// after the change, 600 s if nothing is said, whatever --drain-strategy is; 0 closes them at once. EnvoyArgs says 0: a denied
// caller must be gone within a second, and an HTTP listener changes only with its service's protocol or limits.
package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"sort"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// ErrNotReady says that something that the proxy needs isn't there yet: it keeps what it has.
var ErrNotReady = errors.New("not ready")

// The type URLs of what is rendered.
const (
	prefix       = "type.googleapis.com/envoy."
	ClusterType  = prefix + "config.cluster.v3.Cluster"
	EndpointType = prefix + "config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = prefix + "config.listener.v3.Listener"
	RouteType    = prefix + "config.route.v3.RouteConfiguration"
	SecretType   = prefix + "extensions.transport_sockets.tls.v3.Secret"
)

// Types lists them in the order in which a proxy must be told of additions: what is referred to before what refers to it, except
// that Envoy asks for endpoints, routes and secrets only once a cluster or listener has named them.
var Types = []string{SecretType, ClusterType, EndpointType, ListenerType, RouteType}

// Leaf is the proxy's certificate.
type Leaf struct {
	CertPEM string // with the intermediates
	KeyPEM  string
}

// Abilities are what the proxy at the other end can do, by its own word.
type Abilities struct {
	// Weft says that it is weft's own proxy.
	Weft bool
	// Version of the proxy, as "1.40.0"; "" if it said none.
	Version string
}

// Limits are what a proxy's listeners are held to.
type Limits struct {
	// Handshake bounds a TLS handshake, and Headers the wait for a request's head; 0 means 10 s.
	Handshake, Headers time.Duration
	// BufferBytes is how much is held for a connection whose other side is slow; 0 means 1 MiB.
	BufferBytes uint32
}

// Input is all that a rendering depends on.
type Input struct {
	Txn   *catalog.Txn
	Proxy *catalog.Service // its registration
	// NodeAddress is where the host is reached, for what has no address of its own.
	NodeAddress string
	Leaf        *Leaf
	// Leafless renders all but the certificate, for those who haven't got it and compare: see Output.ConfigHash.
	Leafless     bool
	Abilities    Abilities
	DefaultAllow bool // the answer where no intention speaks
	// DenyAll answers every caller no: what is known of who may call is too old to go by.
	DenyAll bool
	Limits  Limits
	Now     time.Time
	// Memo, if there is one, is what the same proxy's last rendering left: what hasn't changed since isn't rendered again. Shared is
	// what the renderings of all proxies of a host have in common. The output is the same as without.
	Memo   *Memo
	Shared *Shared
}

// Output is a proxy's whole configuration.
type Output struct {
	// Resources, by type URL, sorted by name.
	Resources map[string][]Resource
	// Deadline is when to render again even if nothing changes; zero for never.
	Deadline time.Time
	// Warnings name what was asked for and has no effect.
	Warnings []string
	// Expose is what config entries say of the proxy: that its registration must say too before its checks are exposed.
	Expose catalog.Expose
	// Hash is over all resources.
	Hash string
	// ConfigHash is over all but the certificate: whoever knows the catalog, the registration and the proxy's abilities comes
	// to the same. TypeHashes is the same by type URL, for the types of which there is something.
	ConfigHash string
	TypeHashes map[string]string
}

// Resource is one resource. Equal versions mean equal bytes.
type Resource struct {
	Name    string
	Version string
	Any     *anypb.Any
}

// Render makes a proxy's configuration. The same input gives the same bytes.
func Render(in Input) (*Output, error) {
	asked := in.own()
	own := in.Memo.ownPart(&in, asked)
	if own == nil {
		own = &ownPart{with: asked, as: in.Txn.Moment()}
		var err error
		own.topics = in.Txn.Reading(func(t *catalog.Txn) { own.g, err = gatherOwn(t, in.Proxy) })
		if own.g == nil {
			return nil, err
		}
		own.err = err
	}
	g := *own.g
	if err := errors.Join(own.err, g.upstreams(in.Txn, in.Proxy, in.DefaultAllow, in.Memo.begin(&in, &g))); err != nil {
		return nil, err
	}
	if in.DenyAll {
		g.Rules, in.DefaultAllow = nil, false
	}
	if g.CA == nil || len(g.CA.Roots) == 0 {
		return nil, fmt.Errorf("%w: there are no roots yet", ErrNotReady)
	}
	if in.Leaf == nil && !in.Leafless {
		return nil, fmt.Errorf("%w: the certificate of %s isn't there yet", ErrNotReady, g.Service)
	}
	r := &renderer{in: in, g: &g, out: &Output{Resources: map[string][]Resource{}}, td: identity.TrustDomain(g.CA.TrustDomain())}
	for _, step := range []func() error{func() error { return r.ownOnce(own) }, r.outbound, r.transparent} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("proxy %s: %w", in.Proxy.ID, err)
		}
	}
	r.out.Expose = r.defaults().Expose
	if g.Global != nil {
		r.out.Expose = r.out.Expose.Over(g.Global.Expose)
	}
	return r.finish(), nil
}

func short(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)[:12]) }

// renderer is one rendering.
type renderer struct {
	in  Input
	g   *Gathered
	td  identity.TrustDomain
	out *Output
	has map[resourceName]bool // of what was added
	// chains are what a transparent proxy's listener has for each upstream.
	chains map[*Upstream]outboundChains
}

type resourceName struct{ url, name string }

// validated is what every generated message has.
type validated interface {
	proto.Message
	ValidateAll() error
}

// add makes a resource and puts it out; one of the same name that is there already stays.
func (r *renderer) add(typeURL, name string, m validated) error {
	if r.has[resourceName{typeURL, name}] {
		return nil
	}
	res, err := made(typeURL, name, m)
	if err != nil {
		return err
	}
	r.put(typeURL, res)
	return nil
}

// put puts a resource out; one of the same name that is there already stays.
func (r *renderer) put(typeURL string, res Resource) {
	key := resourceName{typeURL, res.Name}
	if r.has[key] {
		return
	}
	if r.has == nil {
		r.has = map[resourceName]bool{}
	}
	r.has[key] = true
	r.out.Resources[typeURL] = append(r.out.Resources[typeURL], res)
}

// made is a message as a resource.
func made(typeURL, name string, m validated) (Resource, error) {
	if err := m.ValidateAll(); err != nil {
		return Resource{}, fmt.Errorf("%s %s can't be expressed: %w", typeURL, name, err)
	}
	a, err := pack(m)
	if err != nil {
		return Resource{}, err
	}
	sum := sha256.Sum256(a.GetValue())
	return Resource{Name: name, Version: hex.EncodeToString(sum[:12]), Any: a}, nil
}

// pack makes an Any of the same bytes for the same content.
func pack(m proto.Message) (*anypb.Any, error) {
	a := &anypb.Any{}
	return a, anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true})
}

// until notes a time at which what was rendered is over.
func (r *renderer) until(t time.Time) {
	if r.out.Deadline.IsZero() || t.Before(r.out.Deadline) {
		r.out.Deadline = t
	}
}

func (r *renderer) warn(format string, args ...any) {
	r.out.Warnings = append(r.out.Warnings, fmt.Sprintf(format, args...))
}

// finish sorts what was made, and hashes it.
func (r *renderer) finish() *Output {
	sum, config := sha256.New(), sha256.New()
	r.out.TypeHashes = map[string]string{}
	var line []byte
	for _, t := range Types {
		all := r.out.Resources[t]
		sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
		of, some := sha256.New(), false
		for _, res := range all {
			line = line[:0]
			for _, field := range [...]string{t, res.Name, res.Version} {
				line = append(append(line, field...), 0)
			}
			sum.Write(line)
			if t != SecretType || res.Name != LeafSecret {
				config.Write(line)
				of.Write(line)
				some = true
			}
		}
		if some {
			r.out.TypeHashes[t] = short(of)
		}
	}
	r.out.Hash, r.out.ConfigHash = short(sum), short(config)
	sort.Strings(r.out.Warnings)
	return r.out
}
