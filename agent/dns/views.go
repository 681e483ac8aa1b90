// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// node is a node as the catalog's endpoints show it.
type node struct {
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string

	texts [][]string // Meta as the strings of TXT records
}

// instance is an instance as the health endpoints show it, and what follows from that.
type instance struct {
	Node    node
	Service struct {
		Service         string
		Kind            string
		Address         string
		Port            int
		Tags            []string
		TaggedAddresses map[string]struct {
			Address string
			Port    int
		}
		Weights struct{ Passing, Warning int }
	}
	Checks []struct{ Status string }

	status string // the worst of its checks
}

// result is a prepared query's.
type result struct {
	Service string
	Nodes   []*instance
	DNS     struct{ TTL string }
	ttl     time.Duration
	hasTTL  bool
	near    bool // the order of Nodes means something
}

func decodeView(what string, body []byte) (*view, error) {
	v := &view{}
	var err error
	switch what {
	case "nodes":
		var list []*node
		err = json.Unmarshal(body, &list)
		v.nodes, v.addresses = make(map[string]*node, len(list)), make(map[string]string, len(list))
		for _, n := range list {
			n.texts = texts(n.Meta)
			v.nodes[strings.ToLower(n.Node)] = n
			if addr, aerr := netip.ParseAddr(n.Address); aerr == nil {
				v.addresses[addr.Unmap().String()] = n.Node
			}
		}
	case "services":
		var names map[string]json.RawMessage
		err = json.Unmarshal(body, &names)
		v.names = make(map[string]bool, len(names))
		for n := range names {
			v.names[strings.ToLower(n)] = true
		}
	case "datacenters":
		var names []string
		err = json.Unmarshal(body, &names)
		v.names = make(map[string]bool, len(names))
		for _, n := range names {
			v.names[n] = true
		}
	default:
		err = json.Unmarshal(body, &v.instances)
		for _, i := range v.instances {
			i.settle()
			if i.status != "critical" {
				v.up = append(v.up, i)
			}
			if i.status == "passing" {
				v.passing = append(v.passing, i)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the servers' answer about %s: %w", what, err)
	}
	return v, nil
}

// settle works out what is asked for again and again.
func (i *instance) settle() {
	i.status = "passing"
	for _, c := range i.Checks {
		if c.Status == "critical" || c.Status == "warning" && i.status == "passing" {
			i.status = c.Status
		}
	}
	i.Node.texts = texts(i.Node.Meta)
}

// weight is the instance's share in SRV records.
func (i *instance) weight() uint16 {
	w := i.Service.Weights.Passing
	if i.status == "warning" {
		w = i.Service.Weights.Warning
	}
	return uint16(min(max(w, 0), 65535))
}

func (i *instance) tagged(tag string) bool {
	for _, t := range i.Service.Tags {
		if strings.EqualFold(t, tag) {
			return true
		}
	}
	return tag == ""
}

// texts are a node's meta data as TXT records: key=value by RFC 1464, in strings of at most 255 bytes; the value alone where
// the key begins with rfc1035-.
func texts(meta map[string]string) [][]string {
	out := make([][]string, 0, len(meta))
	for _, k := range sortedKeys(meta) {
		text := meta[k]
		if !strings.HasPrefix(strings.ToLower(k), "rfc1035-") {
			text = rfc1464.Replace(k) + "=" + text
		}
		var parts []string
		for len(text) > 255 {
			parts, text = append(parts, escapeTXT(text[:255])), text[255:]
		}
		out = append(out, append(parts, escapeTXT(text)))
	}
	return out
}

// rfc1464 escapes an attribute's name.
var rfc1464 = strings.NewReplacer("`", "``", "=", "`=")

// escapeTXT brings a string into the library's presentation form.
func escapeTXT(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}
