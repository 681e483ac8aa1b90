// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// HC returns an hclog.Logger, as hashicorp/raft wants one, that writes to l.
// Names (Named, ResetNamed) become the attribute "logger", joined by dots.
// SetLevel has no effect: the level is l's handler's.
func HC(l *slog.Logger, name string) hclog.Logger {
	return &hcLogger{log: l, name: name}
}

type hcLogger struct {
	log     *slog.Logger
	name    string
	implied []any
}

var _ hclog.Logger = (*hcLogger)(nil)

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return LevelTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	case hclog.NoLevel, hclog.Info, hclog.Off:
	}
	return slog.LevelInfo
}

// Log writes one record. Off writes none.
func (h *hcLogger) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.Off {
		return
	}
	h.write(slogLevel(level), msg, args)
}

func (h *hcLogger) Trace(msg string, args ...any) { h.write(LevelTrace, msg, args) }
func (h *hcLogger) Debug(msg string, args ...any) { h.write(slog.LevelDebug, msg, args) }
func (h *hcLogger) Info(msg string, args ...any)  { h.write(slog.LevelInfo, msg, args) }
func (h *hcLogger) Warn(msg string, args ...any)  { h.write(slog.LevelWarn, msg, args) }
func (h *hcLogger) Error(msg string, args ...any) { h.write(slog.LevelError, msg, args) }

func (h *hcLogger) write(level slog.Level, msg string, args []any) {
	ctx := context.Background()
	if !h.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 1+(len(h.implied)+len(args)+1)/2)
	if h.name != "" {
		attrs = append(attrs, slog.String("logger", h.name))
	}
	attrs = appendPairs(attrs, h.implied)
	attrs = appendPairs(attrs, args)
	h.log.LogAttrs(ctx, level, msg, attrs...)
}

// appendPairs turns hclog's alternating keys and values into attributes. Keys
// are written in snake case; a value without a key is called "extra".
func appendPairs(attrs []slog.Attr, args []any) []slog.Attr {
	if len(args)%2 == 1 {
		args = append(args[:len(args)-1:len(args)-1], "extra", args[len(args)-1])
	}
	for i := 0; i+1 < len(args); i += 2 {
		key, ok := args[i].(string)
		if !ok {
			key = fmt.Sprint(args[i])
		}
		attrs = append(attrs, slog.Attr{Key: snake.Replace(key), Value: hcValue(args[i+1])})
	}
	return attrs
}

var snake = strings.NewReplacer("-", "_", " ", "_")

func hcValue(v any) slog.Value {
	switch v := v.(type) {
	case hclog.Format:
		if len(v) > 0 {
			if f, ok := v[0].(string); ok {
				return slog.StringValue(fmt.Sprintf(f, v[1:]...))
			}
		}
	case hclog.Hex:
		return slog.StringValue(fmt.Sprintf("%#x", int(v)))
	case hclog.Octal:
		return slog.StringValue(fmt.Sprintf("%#o", int(v)))
	case hclog.Binary:
		return slog.StringValue(fmt.Sprintf("%#b", int(v)))
	case hclog.Quote:
		return slog.StringValue(string(v))
	case error:
		return slog.StringValue(v.Error())
	}
	return slog.AnyValue(v)
}

func (h *hcLogger) enabled(l slog.Level) bool { return h.log.Enabled(context.Background(), l) }

func (h *hcLogger) IsTrace() bool { return h.enabled(LevelTrace) }
func (h *hcLogger) IsDebug() bool { return h.enabled(slog.LevelDebug) }
func (h *hcLogger) IsInfo() bool  { return h.enabled(slog.LevelInfo) }
func (h *hcLogger) IsWarn() bool  { return h.enabled(slog.LevelWarn) }
func (h *hcLogger) IsError() bool { return h.enabled(slog.LevelError) }

func (h *hcLogger) ImpliedArgs() []any { return h.implied }
func (h *hcLogger) Name() string       { return h.name }

func (h *hcLogger) With(args ...any) hclog.Logger {
	n := *h
	n.implied = append(h.implied[:len(h.implied):len(h.implied)], args...)
	return &n
}

func (h *hcLogger) Named(name string) hclog.Logger {
	if h.name != "" {
		name = h.name + "." + name
	}
	return h.ResetNamed(name)
}

func (h *hcLogger) ResetNamed(name string) hclog.Logger {
	n := *h
	n.name = name
	return &n
}

func (h *hcLogger) SetLevel(hclog.Level) {}

// GetLevel returns the least level that the handler takes.
func (h *hcLogger) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		if h.enabled(slogLevel(l)) {
			return l
		}
	}
	return hclog.Off
}

// StandardLogger returns a *log.Logger that writes to the same place.
func (h *hcLogger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(opts), "", 0)
}

// StandardWriter returns a writer that logs each write as one record: at
// opts.ForceLevel if that is set, else by a "[WARN]" prefix of the line if
// opts.InferLevels is set, else at info.
func (h *hcLogger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	if opts == nil {
		opts = &hclog.StandardLoggerOptions{}
	}
	return &hcWriter{h: h, force: opts.ForceLevel, infer: opts.InferLevels}
}

type hcWriter struct {
	h     *hcLogger
	force hclog.Level
	infer bool
}

// Write logs p as one record. It never fails.
func (w *hcWriter) Write(p []byte) (int, error) {
	line := string(bytes.TrimSpace(p))
	level := hclog.Info
	if w.infer {
		if l, rest, ok := cutLevel(line); ok {
			level, line = l, rest
		}
	}
	if w.force != hclog.NoLevel {
		level = w.force
	}
	w.h.Log(level, line)
	return len(p), nil
}

func cutLevel(line string) (hclog.Level, string, bool) {
	tag, rest, ok := strings.Cut(strings.TrimPrefix(line, "["), "]")
	if !ok || !strings.HasPrefix(line, "[") {
		return 0, line, false
	}
	if tag == "ERR" {
		tag = "ERROR"
	}
	l := hclog.LevelFromString(tag)
	return l, strings.TrimSpace(rest), l != hclog.NoLevel
}
