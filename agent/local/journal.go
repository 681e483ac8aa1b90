// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/weftmesh/weft/internal/durable"
)

// record is one line of the journal: a registration as it was given, or a removal.
type record struct {
	Service     *ServiceDefinition `json:",omitempty"`
	Check       *CheckDefinition   `json:",omitempty"`
	Token       string             `json:",omitempty"`
	SidecarPort int                `json:",omitempty"` // of the generated sidecar: others know it, so it stays over a restart
	DropService string             `json:",omitempty"`
	DropCheck   string             `json:",omitempty"`
	Of          string             `json:",omitempty"` // DropCheck's service: its registration may name the check
	Maintenance *maintenance       `json:",omitempty"`
	Configured  bool               `json:",omitempty"` // by a file of the configuration: goes when that doesn't name it any more
}

// maintenance is a service, or with "" the node, taken out of service or back in.
type maintenance struct {
	Of     string `json:",omitempty"`
	On     bool
	Reason string `json:",omitempty"`
}

// journal is an append-only file of records, one JSON object with its CRC-32 a line. Appends that arrive while the
// disk is busy share one write and one fsync.
type journal struct {
	path string
	file disk
	size int64 // of what is certainly in the file

	mu      sync.Mutex // guards all below; taken after the State's
	pending []byte
	waiting []appended
	wake    chan struct{}
	failed  error // nothing is certain any more: all later appends fail
}

// disk is what the journal does with its file.
type disk interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
	Seek(offset int64, whence int) (int64, error)
}

// appended is what waits for the disk, and who for its end.
type appended struct {
	steps []step
	done  chan error
}

// journalVersion is the first line; a higher one was written by a newer weft.
const journalVersion = 1

const journalHeader = "weft-local "

// openJournal reads the journal, or makes an empty one. A last line that was cut by a crash is dropped (it was never
// acknowledged); any other damage is an error. It writes what is still wanted into a new file, so that it doesn't grow.
func openJournal(path string) (*journal, []record, error) {
	kept, err := readJournal(path)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	kept = compact(kept)
	buf := []byte(journalHeader + strconv.Itoa(journalVersion) + "\n")
	for _, r := range kept {
		if buf, err = appendLine(buf, r); err != nil {
			return nil, nil, err
		}
	}
	if err := durable.Replace(path, buf); err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	return &journal{path: path, file: file, size: int64(len(buf)), wake: make(chan struct{}, 1)}, kept, nil
}

func readJournal(path string) ([]record, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<16)
	head, err := in.ReadString('\n')
	if errors.Is(err, io.EOF) {
		return nil, nil // made and never written to
	}
	version, verr := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(head, journalHeader), "\n"))
	if verr != nil || !strings.HasPrefix(head, journalHeader) {
		return nil, fmt.Errorf("journal %s isn't one of weft's: its first line is %q", path, head)
	}
	if version > journalVersion {
		return nil, fmt.Errorf("journal %s is of version %d, and this weft knows up to %d: start the newer weft, or remove the file and register again",
			path, version, journalVersion)
	}
	var all []record
	for n := 2; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return all, nil // without its end of line it was never acknowledged
		}
		if err != nil {
			return nil, fmt.Errorf("journal %s: %w", path, err)
		}
		r, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("journal %s, line %d: %w; restore the file or remove it and register again", path, n, err)
		}
		all = append(all, r)
	}
}

func appendLine(buf []byte, r record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	buf = fmt.Appendf(buf, "%08x ", crc32.ChecksumIEEE(body))
	return append(append(buf, body...), '\n'), nil
}

func parseLine(line []byte) (record, error) {
	var r record
	if len(line) < 10 || line[8] != ' ' {
		return r, errors.New("it is damaged")
	}
	want, err := strconv.ParseUint(string(line[:8]), 16, 32)
	body := line[9 : len(line)-1]
	if err != nil || uint32(want) != crc32.ChecksumIEEE(body) {
		return r, errors.New("its checksum doesn't agree")
	}
	return r, json.Unmarshal(body, &r)
}

// compact keeps the last record of each service and check, and none of what was removed or replaced since.
func compact(all []record) []record {
	last := map[string]int{}       // what a record is about → its place
	home := map[string]string{}    // the same → the service that it goes with
	about := map[string][]string{} // a service → what goes with it
	note := func(key, service string, i int) {
		last[key], home[key] = i, service
		if service != "" {
			about[service] = append(about[service], key)
		}
	}
	forget := func(service string) {
		for _, id := range []string{service, SidecarID(service)} {
			for _, key := range about[id] {
				if home[key] == id {
					delete(last, key)
				}
			}
			delete(about, id)
		}
	}
	for i, r := range all {
		switch {
		case r.Service != nil:
			forget(serviceID(r.Service))
			note(r.key(), "", i)
		case r.DropService != "":
			forget(r.DropService)
			delete(last, "s"+r.DropService)
			delete(last, "m"+r.DropService)
			delete(last, "m"+SidecarID(r.DropService))
		case r.Check != nil:
			delete(last, "d"+r.Check.ID)
			note(r.key(), r.Check.ServiceID, i)
		case r.DropCheck != "":
			delete(last, "c"+r.DropCheck)
			if r.Of != "" {
				note(r.key(), r.Of, i)
			}
		case r.Maintenance != nil && r.Maintenance.On:
			note(r.key(), "", i)
		case r.Maintenance != nil:
			delete(last, r.key())
		}
	}
	var kept []record
	for i, r := range all {
		if at, ok := last[r.key()]; ok && at == i {
			kept = append(kept, r)
		}
	}
	return kept
}

// key says what a record is about, "" for a removal that leaves nothing to remember.
func (r *record) key() string {
	switch {
	case r.Service != nil:
		return "s" + serviceID(r.Service)
	case r.Check != nil:
		return "c" + r.Check.ID
	case r.DropCheck != "":
		return "d" + r.DropCheck
	case r.Maintenance != nil:
		return "m" + r.Maintenance.Of
	}
	return ""
}

func serviceID(d *ServiceDefinition) string {
	if d.ID != "" {
		return d.ID
	}
	return d.Name
}

// append queues records; the channel says whether they are on disk, after the steps that they stand for are settled.
func (j *journal) append(records []record, steps []step) (done <-chan error, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return nil, j.failed
	}
	buf := j.pending
	for _, r := range records {
		if buf, err = appendLine(buf, r); err != nil {
			return nil, err
		}
	}
	j.pending = buf
	c := make(chan error, 1)
	j.waiting = append(j.waiting, appended{steps, c})
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return c, nil
}

// run writes until ctx ends, and then what is still queued. What became of each append is given to settle, in their order.
func (j *journal) run(ctx context.Context, settle func([]appended, error)) error {
	for {
		select {
		case <-j.wake:
			j.flush(settle)
		case <-ctx.Done():
			j.flush(settle)
			j.fail(errors.New("the agent is stopping"))
			j.flush(settle)
			return j.file.Close()
		}
	}
}

func (j *journal) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed == nil {
		j.failed = err
	}
}

func (j *journal) flush(settle func([]appended, error)) {
	j.mu.Lock()
	data, waiting, err := j.pending, j.waiting, j.failed
	j.pending, j.waiting = nil, nil
	j.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	if err == nil {
		err = j.write(data)
	}
	settle(waiting, err)
}

// takePending takes out of the queue what waits behind a failure.
func (j *journal) takePending() []appended {
	j.mu.Lock()
	defer j.mu.Unlock()
	waiting := j.waiting
	j.pending, j.waiting = nil, nil
	return waiting
}

// write brings data to the disk. What can't be written whole is taken back, so that a restart doesn't bring it about after
// its caller was refused; a disk that was full then goes on as soon as it has room. If that fails, or the fsync did, the
// kernel may have dropped pages without a trace, and nothing is appended any more.
func (j *journal) write(data []byte) error {
	_, err := j.file.Write(data)
	synced := false
	if err == nil {
		synced = true
		err = j.file.Sync()
	}
	if err == nil {
		j.size += int64(len(data))
		return nil
	}
	err = fmt.Errorf("journal %s: %w", j.path, err)
	back := j.file.Truncate(j.size)
	if back == nil {
		_, back = j.file.Seek(j.size, io.SeekStart)
	}
	if back == nil {
		back = j.file.Sync()
	}
	switch {
	case back != nil:
		j.fail(errors.Join(err, fmt.Errorf("and what was written can't be taken back: %w; a restart may find it", back)))
	case synced:
		j.fail(err)
	}
	return err
}

// replay brings back what the journal kept. A definition that this version refuses is reported and left out, not lost:
// it stays in the journal until it is removed.
func (s *State) replay(kept []record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.now
	t.recalled = s.recall()
	t.reserved = map[string]int{}
	for _, r := range kept {
		if r.Service != nil && r.SidecarPort > 0 {
			t.reserved[SidecarID(serviceID(r.Service))] = r.SidecarPort
		}
	}
	for _, proxies := range []bool{false, true} {
		for _, r := range kept {
			if r.Service == nil || (r.Service.Kind != "") != proxies {
				continue
			}
			err := s.scripts.allow(r.Configured, r.Service.allChecks()...)
			var main, sidecar *Service
			if err == nil {
				main, sidecar, _, err = s.build(t, *r.Service, r.Token)
			}
			if err != nil {
				s.log.Warn("registration from the journal is refused", "service", serviceID(r.Service), "error", err)
				continue
			}
			registration{main: main, sidecar: sidecar, configured: r.Configured}.apply(t)
		}
	}
	for _, r := range kept {
		if r.Check == nil || (r.Check.ServiceID != "" && t.services[r.Check.ServiceID] == nil) {
			continue
		}
		st, err := s.planCheck(t, *r.Check, r.Token, r.Configured)
		if err != nil {
			s.log.Warn("check from the journal is refused", "check", r.Check.ID, "error", err)
			continue
		}
		st.change.apply(t)
	}
	for _, r := range kept {
		if c, ok := t.checks[r.DropCheck]; ok && r.Of != "" && c.Record.ServiceID == r.Of {
			t.dropCheck(r.DropCheck)
		}
	}
	for _, r := range kept {
		m := r.Maintenance
		if m == nil {
			continue
		}
		c, err := s.planMaintenance(t, m.Of, m.On, m.Reason)
		if err != nil {
			s.log.Warn("maintenance from the journal is of nothing that is here", "service", m.Of, "error", err)
			continue
		}
		c.apply(t)
	}
	for id, c := range t.checks {
		t.checks[id] = t.recall(c)
	}
	t.reserved = nil
	s.next = t.clone()
	s.publishLocked()
}
