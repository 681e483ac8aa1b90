// SPDX-License-Identifier: Apache-2.0

// Package logs builds the program's logger and adapts it to the logger types
// that libraries ask for: hashicorp's hclog.Logger and the standard library's
// *log.Logger.
//
// It doesn't decide what is logged, keeps no global logger, and starts no
// goroutine.
package logs

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// LevelTrace is below slog.LevelDebug; it is what "trace" parses to and what
// trace output of adapted libraries is logged at.
const LevelTrace = slog.Level(-8)

// Config describes a logger. The zero value of all but Writer is usable.
type Config struct {
	// Writer gets one write per record. Required. slog serialises the writes.
	Writer io.Writer
	// JSON selects JSON lines; otherwise records are key=value text.
	JSON bool
	// Level is the least level that is written; slog.LevelInfo if nil. Hand in
	// a *slog.LevelVar to change it while the program runs.
	Level slog.Leveler
}

// New returns a logger as cfg describes. It does no I/O.
func New(cfg Config) (*slog.Logger, error) {
	if cfg.Writer == nil {
		return nil, fmt.Errorf("logs: Config.Writer is not set")
	}
	opts := &slog.HandlerOptions{Level: cfg.Level, ReplaceAttr: nameTrace}
	if cfg.JSON {
		return slog.New(slog.NewJSONHandler(cfg.Writer, opts)), nil
	}
	return slog.New(slog.NewTextHandler(cfg.Writer, opts)), nil
}

// nameTrace writes LevelTrace as TRACE instead of DEBUG-4.
func nameTrace(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey {
		if l, ok := a.Value.Any().(slog.Level); ok && l <= LevelTrace {
			a.Value = slog.StringValue("TRACE")
		}
	}
	return a
}

// ParseLevel reads a level's name, in any case: trace, debug, info, warn (or
// warning), error (or err).
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "trace":
		return LevelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error", "err":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q is not known: use trace, debug, info, warn or error", s)
}

// Discard returns a logger that writes nothing.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
