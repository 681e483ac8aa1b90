// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// Std returns a *log.Logger, as net/http's Server.ErrorLog wants one, that
// writes each line to l at the given level, with the line under the key
// "detail" of a record whose message is msg (a constant: "http server").
func Std(l *slog.Logger, level slog.Level, msg string) *log.Logger {
	return log.New(&lineWriter{log: l, level: level, msg: msg}, "", 0)
}

type lineWriter struct {
	log   *slog.Logger
	level slog.Level
	msg   string
}

// Write logs one line; log.Logger calls it once per record. It never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.log.Log(context.Background(), w.level, w.msg, slog.String("detail", string(bytes.TrimSpace(p))))
	return len(p), nil
}
