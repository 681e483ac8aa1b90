// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/weftmesh/weft/internal/api"
)

// translates says whether an answer may have addresses of another datacenter in it, which translate_wan_addrs is about. Only that datacenter
// and prepared queries tell of any.
func translates(r *http.Request) bool {
	path := r.URL.Path
	switch {
	case r.Method != http.MethodGet:
		return false
	case strings.HasPrefix(path, "/v1/query/"):
		return strings.HasSuffix(path, "/execute")
	}
	return r.URL.Query().Has("dc") && (strings.HasPrefix(path, "/v1/catalog/") || strings.HasPrefix(path, "/v1/health/"))
}

// translated has h answer, and in the answer nodes and instances of other datacenters than own by their "wan" addresses, where they have
// such, as DNS does.
func translated(h http.Handler, own string, w http.ResponseWriter, r *http.Request) {
	plain := r.Clone(r.Context())
	plain.Header.Del("Accept-Encoding") // it has to be read
	answer := api.Record(h, plain, 0)
	body := answer.Body.Bytes()
	if answer.Code == http.StatusOK {
		if other, ok := wanAddresses(body, own, r.URL.Query().Has("pretty")); ok {
			body = other
		}
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.Code)
	_, _ = w.Write(body) // the client may be gone
}

// wanAddresses is an answer with the addresses by which it is reached from own; false where nothing in it changes.
func wanAddresses(body []byte, own string, pretty bool) ([]byte, bool) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || !reached(v, own, own) {
		return nil, false
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if pretty {
		e.SetIndent("", "    ")
	}
	if e.Encode(v) != nil {
		return nil, false
	}
	return out.Bytes(), true
}

// reached replaces addresses in a value of JSON that is of datacenter dc unless it says otherwise; false if there were none to replace.
func reached(v any, dc, own string) (changed bool) {
	switch v := v.(type) {
	case []any:
		for _, each := range v {
			changed = reached(each, dc, own) || changed
		}
	case map[string]any:
		if node, ok := v["Node"].(map[string]any); ok {
			dc = of(node, dc)
		}
		dc = of(v, dc)
		for name, each := range v {
			if name != "TaggedAddresses" && name != "ServiceTaggedAddresses" {
				changed = reached(each, dc, own) || changed
			}
		}
		if dc != own {
			changed = toWAN(v, "TaggedAddresses", "Address", "Port") || changed
			changed = toWAN(v, "ServiceTaggedAddresses", "ServiceAddress", "ServicePort") || changed
		}
	}
	return changed
}

func of(v map[string]any, dc string) string {
	if own, ok := v["Datacenter"].(string); ok && own != "" {
		return own
	}
	return dc
}

// toWAN puts the "wan" address of some tagged ones, which are texts for nodes and have ports for instances, in place of the address.
func toWAN(v map[string]any, tagged, address, port string) bool {
	all, _ := v[tagged].(map[string]any)
	switch wan := all["wan"].(type) {
	case string:
		if wan == "" {
			return false
		}
		v[address] = wan
		return true
	case map[string]any:
		if to, _ := wan["Address"].(string); to == "" {
			return false
		}
		v[address] = wan["Address"]
		if n, ok := wan["Port"].(json.Number); ok && n.String() != "0" {
			v[port] = n
		}
		return true
	}
	return false
}
