// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/catalog"
)

var errDisk = errors.New("no space left on device")

// brokenDisk is a journal's file that fails on demand. Its calls wait for the gate while there is one.
type brokenDisk struct {
	disk
	mu                    sync.Mutex
	write, sync, truncate error // what the calls fail with
	half                  bool  // a failing write leaves half of it
	gate                  chan struct{}
	writes                int
}

func (d *brokenDisk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *brokenDisk) Write(p []byte) (int, error) {
	d.mu.Lock()
	gate, err, half := d.gate, d.write, d.half
	d.writes++
	d.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if err == nil {
		return d.disk.Write(p)
	}
	if half {
		n, _ := d.disk.Write(p[:len(p)/2])
		return n, err
	}
	return 0, err
}

func (d *brokenDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.sync, d.disk.Sync())
}

func (d *brokenDisk) Truncate(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.truncate != nil {
		return d.truncate
	}
	return d.disk.Truncate(size)
}

// broken is a running state whose disk can be made to fail.
func broken(t *testing.T, path string, f func(s *State, d *brokenDisk)) {
	t.Helper()
	s := newState(t, path)
	d := &brokenDisk{disk: s.journal.file}
	s.journal.file = d
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	f(s, d)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Every change that a failing disk refuses is in force nowhere: not now, not for those that come after, not after a restart.
func TestDiskFails(t *testing.T) {
	ttl := CheckDefinition{ID: "new", Name: "new", TTL: time.Minute}
	changes := map[string]func(s *State) error{
		"register": func(s *State) error { _, err := s.Register(ServiceDefinition{Name: "new"}, "", false); return err },
		"replace": func(s *State) error {
			_, err := s.Register(ServiceDefinition{Name: "web", Port: 81, Checks: []CheckDefinition{ttl}}, "", false)
			return err
		},
		"register all": func(s *State) error {
			_, err := s.RegisterAll([]ServiceDefinition{{Name: "x"}, {Name: "y"}}, "", false)
			return err
		},
		"deregister":       func(s *State) error { return s.Deregister("web") },
		"check":            func(s *State) error { return s.RegisterCheck(ttl, "") },
		"deregister check": func(s *State) error { return s.DeregisterCheck("disk") },
		"maintenance":      func(s *State) error { return s.SetMaintenance("web", true, "") },
		"configure":        func(s *State) error { _, err := s.Configure([]ServiceDefinition{{Name: "c"}}, nil, ""); return err },
	}
	faults := map[string]func(d *brokenDisk){
		"write":                  func(d *brokenDisk) { d.write = errDisk },
		"half a write":           func(d *brokenDisk) { d.write, d.half = errDisk, true },
		"sync":                   func(d *brokenDisk) { d.sync = errDisk },
		"write, and no way back": func(d *brokenDisk) { d.write, d.truncate = errDisk, errDisk },
	}
	for change, do := range changes {
		for fault, with := range faults {
			t.Run(change+"/"+fault, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "journal")
				var before string
				broken(t, path, func(s *State, d *brokenDisk) {
					register(t, s, ServiceDefinition{Name: "web", Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}}})
					if err := s.RegisterCheck(CheckDefinition{ID: "disk", Name: "disk", TTL: time.Minute}, ""); err != nil {
						t.Fatal(err)
					}
					before = names(s)
					version := func() uint64 { w, _ := s.Wanted(); return w.Version }
					was := version()
					d.set(func() { with(d) })
					if err := do(s); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), path) {
						t.Errorf("got %v, want the disk's fault with the file", err)
					}
					if got := names(s); got != before || version() != was {
						t.Errorf("in force: %s\nwant %s", got, before)
					}
					if w, _ := s.Wanted(); w.Services["web"].Record.Port != 80 {
						t.Error("the old registration is replaced")
					}
				})
				live(t, path, func(s *State) {
					if got := names(s); got != before {
						t.Errorf("after a restart: %s\nwant %s", got, before)
					}
				})
			})
		}
	}
}

// A disk that was full goes on when it has room; one whose fsync failed is not trusted again.
func TestDiskRecovers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	try := func(s *State, name string) error {
		_, err := s.Register(ServiceDefinition{Name: name}, "", false)
		return err
	}
	broken(t, path, func(s *State, d *brokenDisk) {
		d.set(func() { d.write, d.half = errDisk, true })
		for range 3 {
			if err := try(s, "lost"); !errors.Is(err, errDisk) {
				t.Errorf("full: %v", err)
			}
		}
		d.set(func() { d.write = nil })
		if err := try(s, "kept"); err != nil {
			t.Errorf("room again: %v", err)
		}
		d.set(func() { d.sync = errDisk })
		if err := try(s, "unsure"); !errors.Is(err, errDisk) {
			t.Errorf("sync: %v", err)
		}
		d.set(func() { d.sync = nil })
		if err := try(s, "after"); !errors.Is(err, errDisk) {
			t.Errorf("after a failed fsync: %v", err)
		}
		if err := s.SetCheck("none", catalog.HealthPassing, ""); !errors.Is(err, ErrUnknown) {
			t.Errorf("results need no disk: %v", err)
		}
		if got := names(s); got != "kept" {
			t.Errorf("in force: %s, want kept", got)
		}
	})
	live(t, path, func(s *State) {
		if got := names(s); got != "kept" {
			t.Errorf("after a restart: %s, want kept", got)
		}
	})
}

// What waits behind a write that fails was validated against what isn't to be: it fails too. Nothing is seen before its write ends,
// and a result that comes meanwhile isn't lost.
func TestGroupFailsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "journal")
		broken(t, path, func(s *State, d *brokenDisk) {
			check := CheckDefinition{ID: "c", TTL: time.Minute}
			register(t, s, ServiceDefinition{Name: "web", Checks: []CheckDefinition{check}})
			begin := func(what func() error) <-chan error {
				end := make(chan error, 1)
				go func() { end <- what() }()
				synctest.Wait()
				return end
			}
			for _, fault := range []error{nil, errDisk} {
				gate := make(chan struct{})
				d.set(func() { d.gate, d.write, d.writes = gate, fault, 0 })
				api := begin(func() error { _, err := s.Register(ServiceDefinition{Name: "api"}, "", false); return err })
				behind := begin(func() error { return s.RegisterCheck(CheckDefinition{Name: "of api", ServiceID: "api", TTL: 1}, "") })
				again := begin(func() error {
					_, err := s.Register(ServiceDefinition{Name: "web", Port: 82, Checks: []CheckDefinition{check}}, "", false)
					return err
				})
				if got := names(s); got != "check c, web" {
					t.Errorf("seen before it is on disk: %s", got)
				}
				if err := s.SetCheck("c", catalog.HealthPassing, "meanwhile"); err != nil {
					t.Fatal(err)
				}
				close(gate)
				for _, end := range []<-chan error{api, behind, again} {
					if err := <-end; !errors.Is(err, fault) {
						t.Errorf("got %v, want %v", err, fault)
					}
				}
				d.set(func() {
					if want := map[bool]int{true: 2, false: 1}[fault == nil]; d.writes != want {
						t.Errorf("%d writes, want %d: three changes that arrive together share them", d.writes, want)
					}
					d.gate, d.write = nil, nil
				})
				if c := s.Check("c"); c.Record.Output != "meanwhile" {
					t.Errorf("a result that came during the write is lost: %+v", c.Record)
				}
				if s.Service("api") != nil {
					if err := s.Deregister("api"); err != nil {
						t.Fatal(err)
					}
				}
				register(t, s, ServiceDefinition{Name: "web", Checks: []CheckDefinition{check}})
			}
		})
	})
}

// Many registrations in one request are all taken or none.
func TestRegisterAll(t *testing.T) {
	s := newState(t, "")
	proxy := ServiceDefinition{Name: "p", Kind: catalog.KindConnectProxy, Port: 1, Proxy: &catalog.Proxy{DestinationServiceName: "web", DestinationServiceID: "web"}}
	bad := []ServiceDefinition{proxy, {Name: "web"}, {Name: "web"}}
	for i := range 20 {
		bad = append(bad, ServiceDefinition{Name: fmt.Sprint("s", i), Port: -1})
	}
	_, err := s.RegisterAll(bad, "", false)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `two services have this ID`) ||
		!strings.Contains(err.Error(), `service "s3": Invalid Port`) || !strings.Contains(err.Error(), "and 11 more") {
		t.Errorf("%v", err)
	}
	if got := names(s); got != "" {
		t.Errorf("half applied: %s", got)
	}
	if _, err := s.RegisterAll(bad[:2], "t", false); err != nil {
		t.Fatal(err)
	}
	if got := names(s); got != "p, web" || s.Service("web").Token != "t" {
		t.Errorf("%s", got)
	}
}

// Sidecars that are registered in one request have a port each.
func TestRegisterAllPorts(t *testing.T) {
	s := newState(t, "")
	mesh := &ConnectDefinition{SidecarService: &ServiceDefinition{}}
	if _, err := s.RegisterAll([]ServiceDefinition{{Name: "a", Port: 80, Connect: mesh}, {Name: "b", Port: 80, Connect: mesh}}, "", false); err != nil {
		t.Fatal(err)
	}
	if a, b := s.Service("a-sidecar-proxy").Record.Port, s.Service("b-sidecar-proxy").Record.Port; a != 21000 || b != 21001 {
		t.Errorf("ports %d and %d, want 21000 and 21001", a, b)
	}
}
