// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"strings"
	"testing"
)

func TestSets(t *testing.T) {
	name := EntryHead{Name: "x"}
	permission := func(p IntentionPermission) Entry {
		return &ServiceIntentions{EntryHead: name, Sources: []SourceIntention{{Name: "a", Permissions: []IntentionPermission{p}}}}
	}
	route := func(r ServiceRoute) Entry { return &ServiceRouter{EntryHead: name, Routes: []ServiceRoute{r}} }
	h := &ServiceRouteHTTPMatch{PathPrefix: "/"}
	for _, c := range []struct {
		entry Entry
		want  string // "" for none
	}{
		{&IdentitySet{EntryHead: name, Services: []string{"a"}, Identities: []string{"spiffe://x/*"}}, ""},
		{&IdentitySet{EntryHead: name}, "has 1 to 1024 Services and Identities, not 0"},
		{&IdentitySet{EntryHead: name, Services: []string{"*"}}, "Services[0]: name services"},
		{&IdentitySet{EntryHead: name, Services: []string{"a*"}}, "Services[0]"},
		{&IdentitySet{EntryHead: name, Identities: []string{"web"}}, "want a SPIFFE ID"},
		{&IdentitySet{EntryHead: EntryHead{Name: "*"}, Services: []string{"a"}}, "wildcard"},
		{&MatchSet{EntryHead: name, Matches: []IntentionHTTPPermission{{PathPrefix: "/a"}, {Methods: []string{"get"}}}}, ""},
		{&MatchSet{EntryHead: name}, "Matches should not be empty"},
		{&MatchSet{EntryHead: name, Matches: []IntentionHTTPPermission{{PathRegex: "("}}}, "Matches[0].PathRegex"},
		{permission(IntentionPermission{Action: "allow", MatchSets: []string{"s", "t"}, Not: &IntentionHTTPPermission{PathExact: "/x"}}), ""},
		{permission(IntentionPermission{Action: "allow", MatchSets: []string{"s"}, HTTP: &IntentionHTTPPermission{PathExact: "/x"}}), "HTTP and MatchSets exclude each other"},
		{permission(IntentionPermission{Action: "allow", MatchSets: []string{"s", "s"}}), `MatchSets[1] "s": name each set once`},
		{&ServiceIntentions{EntryHead: name, Sources: []SourceIntention{{Name: "s", Type: KindIdentitySet, Action: "deny"}, {Name: "s", Action: "allow"}}}, ""},
		{&ServiceIntentions{EntryHead: name, Sources: []SourceIntention{{Name: "*", Type: KindIdentitySet, Action: "deny"}}}, "an identity-set has a name"},
		{&ServiceIntentions{EntryHead: name, Sources: []SourceIntention{{Name: "s", Type: "other", Action: "deny"}}}, "is none of consul, identity-set"},
		{route(ServiceRoute{MatchSets: []string{"s"}, Match: &ServiceRouteMatch{Source: &RouteSource{Sets: []string{"a"}}}}), ""},
		{route(ServiceRoute{MatchSets: []string{"s"}, Match: &ServiceRouteMatch{HTTP: h}}), "MatchSets stand in place of MatchAny and Match.HTTP"},
		{route(ServiceRoute{MatchSets: []string{"s"}, MatchAny: []ServiceRouteMatch{{HTTP: h}}}), "MatchSets stand in place of MatchAny and Match.HTTP"},
		{route(ServiceRoute{MatchSets: []string{"s"}, Destination: &ServiceRouteDestination{PrefixRewrite: "/"}}), "PrefixRewrite"},
		{route(ServiceRoute{Match: &ServiceRouteMatch{Source: &RouteSource{Sets: []string{"*"}}}}), "Source.Sets[0]"},
	} {
		c.entry.Normalize()
		err := c.entry.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.entry.EntryKind(), err, c.want)
		}
	}
	bad := &MatchSet{EntryHead: name, Matches: []IntentionHTTPPermission{{PathExact: "/a//b"}}}
	if err := bad.UnmatchedPath(); err == nil || !strings.Contains(err.Error(), "Matches[0].PathExact") {
		t.Error(err)
	}
}
