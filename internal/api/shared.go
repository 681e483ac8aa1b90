// SPDX-License-Identifier: Apache-2.0

package api

import (
	"hash/maphash"
	"net/http"
	"sync"

	"github.com/weftmesh/weft/catalog"
)

// Shared keeps answers that many ask for, so that each is read and encoded once for as long as nothing of it changes: those who
// poll, and those whom one change wakes, get the same bytes. It is only for answers that depend on the catalog and the
// request's path and query, and of who asks on nothing but that they may read every node. The zero value is ready.
type Shared struct {
	mu    sync.Mutex // guards what follows, not the answers' own fields
	by    map[string]*sharedAnswer
	bytes int
	seed  maphash.Seed // of the answers' sums; made with the first
}

// summed is an encoded answer and its sum, by which one who waits tells whether it is another than before: of a shared one it is made
// once, and not by each of a thousand watchers.
type summed struct {
	body []byte
	sum  uint64
}

type sharedAnswer struct {
	mu   sync.Mutex // held while it is made, so that it is made once
	mark *catalog.Mark
	summed
}

// The bounds of what is kept. Beyond them everything is let go of: what is asked for often is soon there again.
const (
	sharedAnswers = 1024
	sharedBytes   = 64 << 20
)

// unshared are the parameters of a query that say nothing about what is asked for.
var unshared = []string{"index", "wait", "token", "stale", "consistent", "cached", "max_stale", "dc", "datacenter", "ns", "namespace", "partition", "peer"}

// AnswerShared is Answer for a read whose answer is shared by those who may read every node: to others the read shows less.
func AnswerShared[T any](w http.ResponseWriter, r *Request, store *catalog.Store, s *Shared, read func(*catalog.Txn) (T, error)) error {
	if r.Options.Near != "" { // it may be near the one who asks
		return Answer(w, r, store, read)
	}
	key := shareKey(w, r)
	answer, meta, err := query(r.Context(), store, r.Options, Asked(r, func(t *catalog.Txn) (summed, error) {
		encode := func() ([]byte, error) {
			out, err := read(t)
			if err != nil {
				return nil, err
			}
			return encodeJSON(w, out)
		}
		if !r.SeesAll("node") {
			return s.sum(encode())
		}
		return s.get(key, t, encode)
	}), func(a summed) uint64 { return a.sum })
	meta.Write(w.Header(), r.Options)
	if err != nil {
		return err
	}
	writeBody(w, http.StatusOK, answer.body)
	return nil
}

// shareKey is what is asked for, in the form that is answered.
func shareKey(w http.ResponseWriter, r *Request) string {
	form := "\x00"
	if a, ok := w.(*answer); ok && a.pretty {
		form = "\x00pretty"
	}
	sc := r.Options.Scope
	key := r.URL.Path + form + "\x00" + sc.Datacenter + "\x00" + sc.Partition + "\x00" + sc.Namespace + "\x00" + sc.Peer + "\x00"
	if r.URL.RawQuery == "" {
		return key
	}
	q := r.URL.Query()
	for _, name := range unshared {
		q.Del(name)
	}
	return key + q.Encode()
}

func (s *Shared) sum(body []byte, err error) (summed, error) {
	s.mu.Lock()
	if s.seed == (maphash.Seed{}) {
		s.seed = maphash.MakeSeed()
	}
	seed := s.seed
	s.mu.Unlock()
	return summed{body, maphash.Bytes(seed, body)}, err
}

func (s *Shared) get(key string, t *catalog.Txn, make func() ([]byte, error)) (summed, error) {
	a := s.answer(key)
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.Still(a.mark) {
		return a.summed, nil
	}
	made, err := s.sum(make())
	if err != nil {
		return summed{}, err
	}
	grown := len(made.body) - len(a.body)
	a.mark, a.summed = t.Mark(), made
	s.grow(grown)
	return made, nil
}

func (s *Shared) answer(key string) *sharedAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.by[key]
	if a == nil {
		if s.by == nil || len(s.by) >= sharedAnswers {
			s.by, s.bytes = map[string]*sharedAnswer{}, 0
		}
		a = &sharedAnswer{}
		s.by[key] = a
	}
	return a
}

func (s *Shared) grow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes += n; s.bytes > sharedBytes {
		s.by, s.bytes = nil, 0
	}
}
