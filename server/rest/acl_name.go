// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/weftmesh/weft/catalog"
)

// nameMax bounds a token's name, in bytes.
const nameMax = 256

// What each auth method's TokenNameFormat may name beside what is known of who logs in.
const (
	methodType        = "auth_method_type"
	methodName        = "auth_method_name"
	defaultNameFormat = "${" + methodType + "}-${" + methodName + "}"
)

// CheckTokenNameFormat refuses a TokenNameFormat that names what is never known: vars are what may be known of who logs in.
func CheckTokenNameFormat(format string, vars ...string) error {
	vars = append([]string{methodType, methodName}, vars...)
	if len(format) > nameMax {
		return fmt.Errorf("TokenNameFormat has more than %d bytes", nameMax)
	}
	rest := variable.ReplaceAllStringFunc(format, func(m string) string {
		if slices.Contains(vars, m[2:len(m)-1]) {
			return ""
		}
		return m
	})
	if _, at, found := strings.Cut(rest, "${"); found {
		name, _, _ := strings.Cut(at, "}")
		return fmt.Errorf("TokenNameFormat: there is no ${%s}: want some of ${%s}", name, strings.Join(vars, "}, ${"))
	}
	return nil
}

// tokenName is the name of a token that comes of a login; what isn't known of this one is left out.
func tokenName(m *catalog.ACLAuthMethod, vars map[string]string) string {
	name := variable.ReplaceAllStringFunc(cmp.Or(m.TokenNameFormat, defaultNameFormat), func(v string) string {
		switch v = v[2 : len(v)-1]; v {
		case methodType:
			return m.Type
		case methodName:
			return m.Name
		}
		return vars[v]
	})
	for name = plainName(name); len(name) > nameMax; {
		_, last := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-last]
	}
	return name
}

// plainName leaves out what no terminal should be sent: who logs in may have chosen the name.
func plainName(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(name, ""))
}
