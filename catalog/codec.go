// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"

	"github.com/fxamacker/cbor/v2"
)

// MaxCommandBytes bounds an encoded command, and each record of a snapshot.
const MaxCommandBytes = 16 << 20

// The one encoding of records: deterministic CBOR, maps by field name, times as UTC text. The one decoding is strict: an
// unknown field, a doubled key, a tag, an indefinite length or text that isn't UTF-8 is an error.
var (
	encMode = must(cbor.EncOptions{
		Sort: cbor.SortCoreDeterministic, ShortestFloat: cbor.ShortestFloat16, NaNConvert: cbor.NaNConvert7e00,
		InfConvert: cbor.InfConvertFloat16, Time: cbor.TimeRFC3339NanoUTC, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden,
	}.UserBufferEncMode())
	decMode = must(decOptions(cbor.ExtraDecErrorUnknownField).DecMode())
	// laxMode reads feed items: what a newer server added is skipped.
	laxMode = must(decOptions(cbor.ExtraDecErrorNone).DecMode())
)

// mostNested is how many levels values are nested at most.
const mostNested = 64

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func decOptions(extra cbor.ExtraDecErrorCond) cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: extra, FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		DefaultMapType: reflect.TypeFor[map[string]any](), IntDec: cbor.IntDecConvertSignedOrFail,
		MaxNestedLevels: mostNested, MaxArrayElements: 1 << 18, MaxMapPairs: 1 << 16,
	}
}

func encode(v any) ([]byte, error) { return encMode.Marshal(v) }

func decode(data []byte, v any) error {
	if len(data) > MaxCommandBytes {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrInvalid, len(data), MaxCommandBytes)
	}
	return decMode.Unmarshal(data, v)
}

// MarshalCBOR encodes the values in the forms that Opaque promises; a value of another sort is an error.
func (o Opaque) MarshalCBOR() ([]byte, error) {
	if len(o) == 0 {
		return encode(nil)
	}
	v, err := plain(map[string]any(o), 0)
	if err != nil {
		return nil, err
	}
	return encode(v)
}

// UnmarshalCBOR decodes what MarshalCBOR encoded.
func (o *Opaque) UnmarshalCBOR(data []byte) error {
	var m map[string]any
	if err := decode(data, &m); err != nil {
		return err
	}
	if err := checkPlain(m); err != nil {
		return err
	}
	if len(m) == 0 {
		m = nil
	}
	*o = m
	return nil
}

// Plain gives the value with all that it holds in the forms of JSON that Opaque promises: whole numbers as int64, others as
// float64, maps as map[string]any, lists as []any. Other sorts are an error that wraps ErrInvalid.
func Plain(v any) (any, error) { return plain(v, 0) }

func plain(v any, depth int) (any, error) {
	if depth > 32 {
		return nil, fmt.Errorf("%w: configuration is nested more than 32 levels deep", ErrInvalid)
	}
	switch v := v.(type) {
	case nil, string, bool, int64:
		return v, nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%w: %v is no number that configuration can hold", ErrInvalid, v)
		}
		return v, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, fmt.Errorf("%w: number %q", ErrInvalid, v.String())
		}
		return f, nil
	}
	return plainReflect(reflect.ValueOf(v), depth)
}

func plainReflect(r reflect.Value, depth int) (any, error) {
	switch r.Kind() {
	case reflect.String:
		return r.String(), nil
	case reflect.Bool:
		return r.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if r.Uint() > math.MaxInt64 {
			return float64(r.Uint()), nil
		}
		return int64(r.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return plain(r.Float(), depth)
	case reflect.Slice, reflect.Array:
		list := make([]any, r.Len())
		for i := range list {
			v, err := plain(r.Index(i).Interface(), depth+1)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	case reflect.Map:
		m := make(map[string]any, r.Len())
		for it := r.MapRange(); it.Next(); {
			k := it.Key()
			if k.Kind() == reflect.Interface {
				k = k.Elem()
			}
			if k.Kind() != reflect.String {
				return nil, fmt.Errorf("%w: configuration has a key of type %s; only text can be one", ErrInvalid, k.Type())
			}
			v, err := plain(it.Value().Interface(), depth+1)
			if err != nil {
				return nil, err
			}
			m[k.String()] = v
		}
		return m, nil
	}
	return nil, fmt.Errorf("%w: configuration can't hold a %s", ErrInvalid, r.Type())
}

// checkPlain refuses what decoded CBOR can hold and JSON can't.
func checkPlain(v any) error {
	switch v := v.(type) {
	case nil, string, bool, int64:
		return nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return errors.New("a float that is no number")
		}
		return nil
	case []any:
		for _, e := range v {
			if err := checkPlain(e); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		for _, e := range v {
			if err := checkPlain(e); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("a value of type %T", v)
}

// EntryBox carries an entry of any kind through an encoding: as {Kind, Entry}.
type EntryBox struct{ Entry Entry }

type boxForm struct {
	Kind  string
	Entry cbor.RawMessage
}

// MarshalCBOR encodes the kind and the entry.
func (b EntryBox) MarshalCBOR() ([]byte, error) {
	if b.Entry == nil {
		return nil, fmt.Errorf("%w: no config entry", ErrInvalid)
	}
	data, err := encode(b.Entry)
	if err != nil {
		return nil, err
	}
	return encode(boxForm{b.Entry.EntryKind(), data})
}

// UnmarshalCBOR decodes strictly: an unknown kind or field is an error.
func (b *EntryBox) UnmarshalCBOR(data []byte) error { return b.unmarshal(data, decMode) }

func (b *EntryBox) unmarshal(data []byte, mode cbor.DecMode) error {
	var f boxForm
	if err := mode.Unmarshal(data, &f); err != nil {
		return err
	}
	e, err := NewEntry(f.Kind)
	if err != nil {
		return err
	}
	if len(f.Entry) == 0 {
		return errors.New("config entry without content")
	}
	if err := mode.Unmarshal(f.Entry, e); err != nil {
		return fmt.Errorf("%s: %w", f.Kind, err)
	}
	b.Entry = e
	return nil
}

// NewEntry makes an empty entry of a kind. An unknown kind is an error that wraps ErrInvalid.
func NewEntry(kind string) (Entry, error) {
	switch kind {
	case KindServiceDefaults:
		return &ServiceDefaults{}, nil
	case KindProxyDefaults:
		return &ProxyDefaults{}, nil
	case KindServiceIntentions:
		return &ServiceIntentions{}, nil
	case KindServiceRouter:
		return &ServiceRouter{}, nil
	case KindServiceSplitter:
		return &ServiceSplitter{}, nil
	case KindServiceResolver:
		return &ServiceResolver{}, nil
	case KindMesh:
		return &Mesh{}, nil
	case KindIngressEntry:
		return &IngressGateway{}, nil
	case KindTerminatingEntry:
		return &TerminatingGateway{}, nil
	case KindAPIGatewayEntry:
		return &APIGateway{}, nil
	case KindBoundAPIGateway:
		return &BoundAPIGateway{}, nil
	case KindHTTPRoute:
		return &HTTPRoute{}, nil
	case KindTCPRoute:
		return &TCPRoute{}, nil
	case KindInlineCertificate:
		return &InlineCertificate{}, nil
	case KindFileCertificate:
		return &FileCertificate{}, nil
	case KindJWTProvider:
		return &JWTProvider{}, nil
	case KindExportedServices:
		return &ExportedServices{}, nil
	case KindSamenessGroup:
		return &SamenessGroup{}, nil
	case KindRequestLimit:
		return &RequestLimit{}, nil
	case KindIdentitySet:
		return &IdentitySet{}, nil
	case KindMatchSet:
		return &MatchSet{}, nil
	}
	return nil, fmt.Errorf("%w config entry kind: %s", ErrInvalid, kind)
}

// EntryKinds lists the kinds that NewEntry knows, in a fixed order.
func EntryKinds() []string {
	return []string{
		KindServiceDefaults, KindProxyDefaults, KindServiceIntentions, KindServiceRouter,
		KindServiceSplitter, KindServiceResolver, KindMesh,
		KindIngressEntry, KindTerminatingEntry, KindAPIGatewayEntry, KindBoundAPIGateway, KindHTTPRoute, KindTCPRoute,
		KindInlineCertificate, KindFileCertificate, KindJWTProvider, KindExportedServices, KindSamenessGroup, KindRequestLimit,
		KindIdentitySet, KindMatchSet,
	}
}
