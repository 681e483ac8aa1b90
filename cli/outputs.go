// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"log/syslog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/logs"
)

// logOutput is where logs go: w, and what the configuration names beside it. Call the function when nothing is logged any more.
func logOutput(w io.Writer, s *config.Logging) (io.Writer, func(), error) {
	out, closers := []io.Writer{w}, []io.Closer{}
	end := func() {
		for _, c := range closers {
			_ = c.Close() // what was to be written, was
		}
	}
	if s.LogFile != "" {
		f, err := logs.OpenFile(logs.FileConfig{
			Path: s.LogFile, MaxBytes: s.LogRotateBytes, MaxAge: cmp.Or(s.LogRotateDuration, 24*time.Hour), Keep: s.LogRotateMaxFiles,
		})
		if err != nil {
			return nil, end, fmt.Errorf("log_file: %w", err)
		}
		out, closers = append(out, f), append(closers, f)
	}
	if s.EnableSyslog {
		facility, err := facilityOf(cmp.Or(s.SyslogFacility, "LOCAL0"))
		if err == nil {
			var l *syslog.Writer
			if l, err = syslog.New(facility|syslog.LOG_INFO, "weft"); err == nil {
				out, closers = append(out, l), append(closers, l)
			}
		}
		if err != nil {
			end()
			return nil, func() {}, fmt.Errorf("enable_syslog: %w", err)
		}
	}
	if len(out) == 1 {
		return w, end, nil
	}
	return io.MultiWriter(out...), end, nil
}

// newAudit opens the audit log; nil where there is none.
func newAudit(s *config.Config, log *slog.Logger) (*api.Audit, func(), error) {
	sink, on := s.AuditFile()
	if !on {
		return nil, func() {}, nil
	}
	if err := os.MkdirAll(filepath.Dir(sink.Path), 0o700); err != nil {
		return nil, func() {}, fmt.Errorf("audit: %w", err)
	}
	f, err := logs.OpenFile(logs.FileConfig{
		Path: sink.Path, Mode: 0o600, MaxBytes: sink.RotateBytes, MaxAge: sink.RotateDuration, Keep: sink.RotateMaxFiles,
	})
	if err != nil {
		return nil, func() {}, fmt.Errorf("audit: %w", err)
	}
	audit := api.NewAudit(api.AuditConfig{Writer: f, Node: s.NodeName, Now: time.Now, Log: log.With("part", "audit")})
	return audit, func() { _ = f.Close() }, nil // what was to be written, was
}

func facilityOf(name string) (syslog.Priority, error) {
	names := []string{
		"KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP", "", "", "", "",
		"LOCAL0", "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5", "LOCAL6", "LOCAL7",
	}
	for i, n := range names {
		if n != "" && strings.EqualFold(n, name) {
			return syslog.Priority(i << 3), nil
		}
	}
	return 0, fmt.Errorf("syslog_facility: %q isn't one, as LOCAL0", name)
}

// writePID writes the process's number to a file. Call the function to remove it.
func writePID(path string) (func(), error) {
	if path == "" {
		return func() {}, nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("pid_file: %w", err)
	}
	return func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(os.Stderr, "pid_file: "+err.Error())
		}
	}, nil
}
