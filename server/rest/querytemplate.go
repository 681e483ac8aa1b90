// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// render fills a template in for the name that it was asked by: ${name.full}, ${name.prefix} (the template's own name), ${name.suffix}
// (the rest), ${match(N)} (the Nth group of the regular expression in the whole name; 0 is all of it), ${agent.segment} (always
// empty). $${ is a literal ${.
func render(q *catalog.PreparedQuery, name string) (*catalog.PreparedQuery, error) {
	suffix := ""
	if len(name) >= len(q.Name) {
		suffix = name[len(q.Name):]
	}
	t := template{full: name, prefix: q.Name, suffix: suffix}
	if q.Template.Regexp != "" {
		re, err := regexp.Compile(q.Template.Regexp)
		if err != nil {
			return nil, fmt.Errorf("Regexp: %w", err)
		}
		t.match = re.FindStringSubmatch(name)
	}
	out := *q
	s := &out.Service
	s.IgnoreCheckIDs, s.Tags = slices.Clone(s.IgnoreCheckIDs), slices.Clone(s.Tags)
	s.Failover.Datacenters, s.Failover.Targets = slices.Clone(s.Failover.Datacenters), slices.Clone(s.Failover.Targets)
	fields := []*string{&s.Service, &s.Near, &s.Peer, &s.SamenessGroup}
	for _, list := range [][]string{s.IgnoreCheckIDs, s.Tags, s.Failover.Datacenters} {
		for i := range list {
			fields = append(fields, &list[i])
		}
	}
	for i := range s.Failover.Targets {
		target := &s.Failover.Targets[i]
		fields = append(fields, &target.Peer, &target.Datacenter, &target.Partition, &target.Namespace)
	}
	var err error
	for _, f := range fields {
		if *f, err = t.fill(*f); err != nil {
			return nil, err
		}
	}
	for _, m := range []*map[string]string{&s.NodeMeta, &s.ServiceMeta} {
		filled := make(map[string]string, len(*m))
		for k, v := range *m {
			if k, err = t.fill(k); err != nil {
				return nil, err
			}
			if filled[k], err = t.fill(v); err != nil {
				return nil, err
			}
		}
		if *m != nil {
			*m = filled
		}
	}
	if q.Template.RemoveEmptyTags {
		s.Tags = slices.DeleteFunc(s.Tags, func(tag string) bool { return tag == "" || tag == "!" })
	}
	return &out, nil
}

type template struct {
	full, prefix, suffix string
	match                []string
}

// fill replaces what stands in ${…}.
func (t *template) fill(text string) (string, error) {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(text, "${")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		if escaped, ok := strings.CutSuffix(b.String(), "$"); ok {
			b.Reset()
			b.WriteString(escaped + "${")
			text = rest
			continue
		}
		variable, after, ok := strings.Cut(rest, "}")
		if !ok {
			return "", fmt.Errorf("%q: a ${ without its }", text)
		}
		value, err := t.value(strings.TrimSpace(variable))
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		text = after
	}
}

func (t *template) value(variable string) (string, error) {
	switch variable {
	case "name.full":
		return t.full, nil
	case "name.prefix":
		return t.prefix, nil
	case "name.suffix":
		return t.suffix, nil
	case "agent.segment":
		return "", nil
	}
	if arg, ok := strings.CutPrefix(variable, "match("); ok {
		if n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(arg, ")"))); err == nil && n >= 0 && strings.HasSuffix(arg, ")") {
			if n < len(t.match) {
				return t.match[n], nil
			}
			return "", nil
		}
	}
	return "", fmt.Errorf("${%s}: want one of name.full, name.prefix, name.suffix, match(N), agent.segment", variable)
}
