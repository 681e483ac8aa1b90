// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// fields goes through a message's fields; number is the value of those that are numbers, of others it is 0. Fields of other forms
// are passed over.
func fields(m []byte, f func(field protowire.Number, data []byte, number uint64) error) error {
	for len(m) > 0 {
		field, kind, n := protowire.ConsumeTag(m)
		if n < 0 {
			return errNoDecision
		}
		m = m[n:]
		var data []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(m)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(m)
		default:
			if n = protowire.ConsumeFieldValue(field, kind, m); n >= 0 {
				m = m[n:]
				continue
			}
		}
		if n < 0 {
			return errNoDecision
		}
		m = m[n:]
		if err := f(field, data, number); err != nil {
			return err
		}
	}
	return nil
}

// parseCheck reads a CheckResponse of envoy.service.auth.v3. Without a status, or with the status 0, it allows; its oneof's last field
// counts.
func parseCheck(m []byte) (*decision, error) {
	var code uint64
	var denied, ok, failed []byte
	err := fields(m, func(field protowire.Number, data []byte, _ uint64) error {
		switch field {
		case 1:
			return fields(data, func(field protowire.Number, _ []byte, n uint64) error {
				if field == 1 {
					code = n
				}
				return nil
			})
		case 2:
			denied, ok, failed = data, nil, nil
		case 3:
			denied, ok, failed = nil, data, nil
		case 5:
			denied, ok, failed = nil, nil, data
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case failed != nil:
		return nil, errFailed
	case code == 0 && denied == nil:
		return parseOK(ok)
	}
	return parseDenied(denied)
}

func parseDenied(m []byte) (*decision, error) {
	d := &decision{status: 403}
	err := fields(m, func(field protowire.Number, data []byte, _ uint64) error {
		switch field {
		case 1:
			return fields(data, func(field protowire.Number, _ []byte, n uint64) error {
				if field == 1 && n >= 200 && n <= 599 {
					d.status = int(n)
				}
				return nil
			})
		case 2:
			e, err := parseOption(data)
			d.fields = append(d.fields, e)
			return err
		case 3:
			d.body = data
		}
		return nil
	})
	return d, err
}

func parseOK(m []byte) (*decision, error) {
	d := &decision{allowed: true}
	err := fields(m, func(field protowire.Number, data []byte, _ uint64) error {
		switch field {
		case 2:
			e, err := parseOption(data)
			d.edits = append(d.edits, e)
			return err
		case 5:
			d.remove = append(d.remove, string(data))
		case 6:
			e, err := parseOption(data)
			d.response = append(d.response, e)
			return err
		case 7:
			p, err := parsePair(data)
			d.setQuery = append(d.setQuery, p)
			return err
		case 8:
			d.delQuery = append(d.delQuery, string(data))
		}
		return nil
	})
	return d, err
}

// The ways of a HeaderValueOption's append_action.
const (
	addIfAbsent = 1
	onlyPresent = 3
)

// parseOption reads a HeaderValueOption: append says whether a field is added; without it append_action does, and without that the field is set.
func parseOption(m []byte) (edit, error) {
	var e edit
	said := false
	err := fields(m, func(field protowire.Number, data []byte, n uint64) error {
		switch field {
		case 1:
			p, err := parsePair(data)
			e.name, e.value = p.Name, p.Value
			return err
		case 2:
			said = true
			return fields(data, func(field protowire.Number, _ []byte, n uint64) error {
				e.add = field == 1 && n != 0
				return nil
			})
		case 3:
			if !said {
				e.absent, e.present = n == addIfAbsent, n == onlyPresent
			}
		}
		return nil
	})
	return e, err
}

// parsePair reads a HeaderValue, whose value may stand in raw_value, or a QueryParameter.
func parsePair(m []byte) (p config.HeaderValue, err error) {
	err = fields(m, func(field protowire.Number, data []byte, _ uint64) error {
		switch field {
		case 1:
			p.Name = string(data)
		case 2:
			p.Value = string(data)
		case 3:
			p.Value = string(data)
		}
		return nil
	})
	return p, err
}
