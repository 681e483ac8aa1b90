// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"strings"
)

// UpstreamNamesKey is the key of an upstream's Config under which it has the server names by which it is reached.
const UpstreamNamesKey = "sni"

// UpstreamNames are the server names, in lower case, by which an upstream is reached that shares its place with others; nil if
// it has none. A name may begin with "*." and is then for all names below.
func UpstreamNames(config Opaque) ([]string, error) {
	var given []any
	switch v := config[UpstreamNamesKey].(type) {
	case nil:
		if _, there := config[UpstreamNamesKey]; !there {
			return nil, nil
		}
	case string:
		given = []any{v}
	case []any:
		given = v
	case []string:
		for _, s := range v {
			given = append(given, s)
		}
	}
	if len(given) == 0 {
		return nil, invalidf("%s: want a server name or a list of them", UpstreamNamesKey)
	}
	var names []string
	for i, g := range given {
		s, ok := g.(string)
		if !ok || !serverName(s) {
			return nil, invalidf("%s[%d]: %s isn't a server name, as api.example.com or *.example.com", UpstreamNamesKey, i, fmt.Sprintf("%#v", g))
		}
		names = append(names, strings.ToLower(s))
	}
	return names, nil
}

func serverName(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}
