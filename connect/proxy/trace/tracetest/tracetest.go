// SPDX-License-Identifier: Apache-2.0

// Package tracetest is a collector for tests: it reads what OTLP sends over HTTP. It starts nothing.
package tracetest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// Span is a span as it came.
type Span struct {
	Service, Trace, ID, Parent, Name string // Trace, ID and Parent in hexadecimal
	Kind, Status                     int
	Attributes                       map[string]string
}

// Collector keeps spans. It is an http.Handler.
type Collector struct {
	mu    sync.Mutex
	spans []Span
}

// Spans are those that came so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil && (r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-protobuf") {
		err = fmt.Errorf("%s with %q is no export", r.Method, r.Header.Get("Content-Type"))
	}
	var spans []Span
	if err == nil {
		spans, err = Decode(body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.spans = append(c.spans, spans...)
	c.mu.Unlock()
}

// value is one field of a message.
type value struct {
	n     protowire.Number
	bytes []byte
	int   uint64
}

var errMalformed = errors.New("malformed protobuf")

func fields(b []byte) ([]value, error) {
	var out []value
	for len(b) > 0 {
		n, t, size := protowire.ConsumeTag(b)
		if size < 0 {
			return nil, errMalformed
		}
		b = b[size:]
		v := value{n: n}
		switch t {
		case protowire.BytesType:
			v.bytes, size = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			v.int, size = protowire.ConsumeVarint(b)
		default:
			size = protowire.ConsumeFieldValue(n, t, b)
		}
		if size < 0 {
			return nil, errMalformed
		}
		out, b = append(out, v), b[size:]
	}
	return out, nil
}

// inside gives the messages in field n of each message.
func inside(all [][]byte, n protowire.Number) ([][]byte, error) {
	var out [][]byte
	for _, m := range all {
		f, err := fields(m)
		if err != nil {
			return nil, err
		}
		for _, v := range f {
			if v.n == n {
				out = append(out, v.bytes)
			}
		}
	}
	return out, nil
}

// Decode reads an ExportTraceServiceRequest.
func Decode(body []byte) ([]Span, error) {
	resources, err := inside([][]byte{body}, 1)
	if err != nil {
		return nil, err
	}
	var out []Span
	for _, r := range resources {
		about, err1 := inside([][]byte{r}, 1)
		labels, err2 := inside(about, 1)
		scopes, err3 := inside([][]byte{r}, 2)
		spans, err4 := inside(scopes, 2)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return nil, err
		}
		service := ""
		for _, l := range labels {
			if k, v, err := attribute(l); err != nil {
				return nil, err
			} else if k == "service.name" {
				service = v
			}
		}
		for _, m := range spans {
			s, err := span(m)
			if err != nil {
				return nil, err
			}
			s.Service = service
			out = append(out, s)
		}
	}
	return out, nil
}

func span(m []byte) (Span, error) {
	s := Span{Attributes: map[string]string{}}
	all, err := fields(m)
	if err != nil {
		return s, err
	}
	for _, v := range all {
		switch v.n {
		case 1:
			s.Trace = hex.EncodeToString(v.bytes)
		case 2:
			s.ID = hex.EncodeToString(v.bytes)
		case 4:
			s.Parent = hex.EncodeToString(v.bytes)
		case 5:
			s.Name = string(v.bytes)
		case 6:
			s.Kind = int(v.int)
		case 9:
			k, text, err := attribute(v.bytes)
			if err != nil {
				return s, err
			}
			s.Attributes[k] = text
		case 15:
			status, err := fields(v.bytes)
			if err != nil {
				return s, err
			}
			for _, f := range status {
				if f.n == 3 {
					s.Status = int(f.int)
				}
			}
		}
	}
	return s, nil
}

func attribute(m []byte) (key, text string, err error) {
	all, err := fields(m)
	if err != nil {
		return "", "", err
	}
	for _, v := range all {
		if v.n == 1 {
			key = string(v.bytes)
			continue
		}
		in, err := fields(v.bytes)
		if err != nil {
			return "", "", err
		}
		for _, f := range in {
			switch f.n {
			case 1:
				text = string(f.bytes)
			case 3:
				text = strconv.FormatUint(f.int, 10)
			}
		}
	}
	return key, text, nil
}
