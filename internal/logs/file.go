// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// FileConfig describes a File.
type FileConfig struct {
	// Path is the file; where it ends in a slash, a file named after the program in that folder.
	Path string
	// MaxBytes and MaxAge are what a file becomes at most before a new one is begun; 0: no bound.
	MaxBytes int64
	MaxAge   time.Duration
	// Keep is how many old files are kept: 0 all, -1 none.
	Keep int
	Mode os.FileMode      // 0: 0640
	Now  func() time.Time // nil: the system's clock
}

// File is a log file that begins anew when it has become long or old; the old one is kept under a name with its time. It is safe for
// several goroutines.
type File struct {
	c FileConfig

	mu    sync.Mutex // guards all below
	f     *os.File
	size  int64
	begun time.Time
}

// OpenFile opens, or makes, a log file. Close it.
func OpenFile(c FileConfig) (*File, error) {
	if strings.HasSuffix(c.Path, "/") {
		c.Path = filepath.Join(c.Path, "weft.log")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	l := &File{c: c}
	return l, l.openLocked()
}

func (l *File) openLocked() error {
	f, err := os.OpenFile(l.c.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, cmp.Or(l.c.Mode, 0o640))
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.f, l.size, l.begun = f, info.Size(), l.c.Now()
	return nil
}

// Write appends a record, to a new file where it is time for one. What can't be rotated is written on in the old file.
func (l *File) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	long := l.c.MaxBytes > 0 && l.size > 0 && l.size+int64(len(p)) > l.c.MaxBytes
	old := l.c.MaxAge > 0 && l.c.Now().Sub(l.begun) >= l.c.MaxAge
	if long || old {
		if err := l.rotateLocked(); err != nil {
			return 0, err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

func (l *File) rotateLocked() error {
	ext := filepath.Ext(l.c.Path)
	stem := strings.TrimSuffix(l.c.Path, ext)
	kept := stem + "-" + strconv.FormatInt(l.c.Now().UnixNano(), 10) + ext
	if err := os.Rename(l.c.Path, kept); err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	err := l.f.Close()
	if err = errors.Join(err, l.openLocked()); err != nil || l.c.Keep == 0 {
		return err
	}
	files, err := filepath.Glob(stem + "-*" + ext)
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, f := range files[:max(0, len(files)-max(l.c.Keep, 0))] {
		if _, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(f, stem+"-"), ext), 10, 64); err == nil {
			_ = os.Remove(f) // the next rotation tries again
		}
	}
	return nil
}

// Close closes the file.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
