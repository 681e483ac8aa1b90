// SPDX-License-Identifier: Apache-2.0

// Package consul reads the state in a snapshot of Consul's servers and makes a catalog of it. The state is a stream of MessagePack
// values: a header with the last index, then records, each a byte that says which sort it is and a value with the fields' names. The sorts'
// numbers and that form are facts of the format as it stands in the versions that were published under the MPL (up to 1.16); the fields' names
// are those of the documented HTTP API. No code is from there. What isn't known from either (a sort, a kind, a field that a later version
// added) is skipped, and named in the report. The package owns no goroutine.
package consul

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"
)

// The sorts of records that are looked into.
const (
	sortRegister      = 0
	sortKV            = 2
	sortSession       = 3
	sortLegacyACL     = 4
	sortTombstone     = 5
	sortCoordinates   = 6
	sortQuery         = 7
	sortAutopilot     = 9
	sortBootstrap     = 11
	sortIntention     = 12
	sortRoot          = 13
	sortCAState       = 14
	sortCAConfig      = 15
	sortIndex         = 16
	sortToken         = 17
	sortPolicy        = 19
	sortEntry         = 22
	sortRole          = 23
	sortBindingRule   = 25
	sortAuthMethod    = 27
	sortMetadata      = 31
	sortVirtualIP     = 32
	sortFreeVirtualIP = 33
	sortKindNames     = 34
)

// names are the sorts as reports call them.
var names = map[byte]string{
	sortRegister: "nodes, services and checks", sortKV: "keys", sortSession: "sessions", sortLegacyACL: "legacy ACLs", sortTombstone: "deleted keys",
	sortCoordinates: "coordinates", sortQuery: "prepared queries", sortAutopilot: "autopilot", sortBootstrap: "ACL bootstrap", sortIntention: "legacy intentions",
	sortRoot: "CA roots", sortCAState: "CA state", sortCAConfig: "CA configuration", sortIndex: "indexes", sortToken: "ACL tokens", sortPolicy: "ACL policies",
	sortEntry: "config entries", sortRole: "ACL roles", sortBindingRule: "ACL binding rules", sortAuthMethod: "ACL auth methods", 29: "chunks", 30: "federation states",
	sortMetadata: "system metadata", sortVirtualIP: "virtual IPs", sortFreeVirtualIP: "free virtual IPs", sortKindNames: "service names by kind", 35: "peerings",
	38: "peering trust bundles", 40: "peering secrets",
}

func nameOf(sort byte) string {
	if n := names[sort]; n != "" {
		return n
	}
	return fmt.Sprintf("records of sort %d", sort)
}

// needless are the sorts that only helped Consul, or that weft finds out by itself.
var needless = map[byte]string{
	sortTombstone: "watchers begin anew", sortIndex: "made anew", sortCoordinates: "measured anew", sortKindNames: "made anew", sortFreeVirtualIP: "",
	sortMetadata: "about Consul's own upgrades", sortBootstrap: "follows from the tokens",
}

// Is says whether a state that begins so is Consul's.
func Is(head []byte) bool {
	const field = "LastIndex"
	return len(head) > 2+len(field) && head[0] == 0x81 && (string(head[2:2+len(field)]) == field || string(head[3:3+len(field)]) == field)
}

// state is what a snapshot holds, by sort.
type state struct {
	index   uint64
	records map[byte][]any
}

func read(r io.Reader) (*state, error) {
	u := &unpacker{bufio.NewReaderSize(r, 1<<16)}
	head, err := u.next()
	if err != nil {
		return nil, fmt.Errorf("the header: %w", cut(err))
	}
	s := &state{index: uint64(whole(field(head, "LastIndex"))), records: map[byte][]any{}}
	for n := 1; ; n++ {
		sort, err := u.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		var v any
		if err == nil {
			v, err = u.next()
		}
		if err != nil {
			return nil, fmt.Errorf("record %d (%s): %w", n, nameOf(sort), cut(err))
		}
		s.records[sort] = append(s.records[sort], v)
	}
}

func field(v any, name string) any {
	m, _ := v.(map[string]any)
	return m[name]
}

func text(v any, name string) string {
	s, _ := field(v, name).(string)
	return s
}

func whole(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return 0
}

// times are the fields that hold a time; Consul writes them as Go's binary form.
var times = map[string]bool{
	"CreateTime": true, "ExpirationTime": true, "LegacyCreateTime": true, "LegacyUpdateTime": true, "LastTransitionTime": true, "NotBefore": true, "NotAfter": true,
	"RotatedOutAt": true, "CreatedAt": true, "UpdatedAt": true,
}

// spelled gives times as text, and takes out what is empty anyway or another's.
func spelled(v any) any {
	switch t := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for name, value := range t {
			if s, ok := value.(string); ok && times[name] {
				var at time.Time
				if at.UnmarshalBinary([]byte(s)) == nil {
					if !at.IsZero() {
						out[name] = at.UTC().Format(time.RFC3339Nano)
					}
					continue
				}
			}
			if value != nil {
				out[name] = spelled(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i := range t {
			out[i] = spelled(t[i])
		}
		return out
	}
	return v
}
