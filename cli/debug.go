// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
)

// captures are what a debug bundle can hold, and by what it is asked for.
var captures = []string{"agent", "host", "members", "metrics", "logs", "pprof"}

func debugCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "debug", Usage: "collect what the agent says of itself into one file, for a person elsewhere",
		Flags: clientFlags(
			&ucli.DurationFlag{Name: "duration", Usage: "for how long", Value: 2 * time.Minute},
			&ucli.DurationFlag{Name: "interval", Usage: "how often metrics are taken", Value: 30 * time.Second},
			&ucli.StringSliceFlag{Name: "capture", Usage: "what (repeatable): " + strings.Join(captures, ", ") + "; all by default"},
			&ucli.StringFlag{Name: "output", Usage: "file, without .tar.gz; by default weft-debug-<time>"},
			&ucli.BoolFlag{Name: "archive", Value: true, Usage: "one archive; =false leaves a folder of files"},
		),
		Action: func(c *ucli.Context) error {
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			b := &bundle{client: cl, duration: c.Duration("duration"), interval: c.Duration("interval"), what: c.StringSlice("capture")}
			if err := b.check(); err != nil {
				return err
			}
			name := c.String("output")
			if name == "" {
				name = "weft-debug-" + time.Now().UTC().Format("20060102T150405Z")
			}
			name = strings.TrimSuffix(name, ".tar.gz") + ".tar.gz"
			fmt.Fprintf(env.Stderr, "Collecting %s for %v\n", strings.Join(b.what, ", "), b.duration)
			b.collect(c.Context)
			for _, fault := range b.faults {
				fmt.Fprintln(env.Stderr, "Warning: "+fault.Error())
			}
			if !c.Bool("archive") {
				name = strings.TrimSuffix(name, ".tar.gz")
				if err := b.writeFolder(name); err != nil {
					return err
				}
				fmt.Fprintln(env.Stdout, "Saved debug folder: "+name)
				return nil
			}
			if err := b.write(name); err != nil {
				return err
			}
			fmt.Fprintln(env.Stdout, "Saved debug archive: "+name)
			return nil
		},
	}
}

// bundle is what is collected, by file name.
type bundle struct {
	client             *apiclient.Client
	duration, interval time.Duration
	what               []string

	files  map[string][]byte
	faults []error
}

func (b *bundle) check() error {
	if len(b.what) == 0 {
		b.what = captures
	}
	for _, w := range b.what {
		if !slices.Contains(captures, w) {
			return usage("-capture %q: want one of %s", w, strings.Join(captures, ", "))
		}
	}
	if b.duration < time.Second || b.interval < time.Second || b.interval > b.duration {
		return usage("-duration and -interval must be a second at least, and the interval no longer than the duration")
	}
	b.files = map[string][]byte{}
	return nil
}

func (b *bundle) take(ctx context.Context, file, path string, query url.Values) {
	var data []byte
	if _, err := b.client.Do(ctx, http.MethodGet, path, query, nil, &data); err != nil {
		b.faults = append(b.faults, fmt.Errorf("%s isn't in it: %w", file, err))
		return
	}
	b.files[file] = data
}

// collect asks for everything. What can't be had is a fault, and the rest is there.
func (b *bundle) collect(ctx context.Context) {
	has := func(what string) bool { return slices.Contains(b.what, what) }
	whole, cancel := context.WithTimeout(ctx, b.duration)
	defer cancel()
	var log bytes.Buffer
	logged := make(chan error, 1)
	if has("logs") {
		go func() { // ends with the time
			_, err := b.client.Do(whole, http.MethodGet, "/v1/agent/monitor", url.Values{"loglevel": {"debug"}}, nil, &log)
			logged <- err
		}()
	}
	for what, path := range map[string]string{"agent": "/v1/agent/self", "host": "/v1/agent/host", "members": "/v1/agent/members"} {
		if has(what) {
			b.take(ctx, what+".json", path, nil)
		}
	}
	if has("pprof") {
		for _, name := range []string{"heap", "goroutine"} {
			b.take(ctx, name+".prof", "/debug/pprof/"+name, nil)
		}
		b.take(ctx, "profile.prof", "/debug/pprof/profile", url.Values{"seconds": {fmt.Sprint(int(b.interval.Seconds()))}})
	}
	tick := time.NewTicker(b.interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		if has("metrics") {
			b.take(ctx, fmt.Sprintf("metrics-%03d.txt", n), "/v1/agent/metrics", url.Values{"format": {"prometheus"}})
		}
		select {
		case <-tick.C:
			continue
		case <-whole.Done():
		}
		break
	}
	if has("logs") {
		if err := <-logged; err != nil && whole.Err() == nil {
			b.faults = append(b.faults, fmt.Errorf("the log is cut: %w", err))
		}
		if log.Len() == 0 { // an agent without work has nothing to say: that isn't a log that wasn't had
			fmt.Fprintf(&log, "nothing was logged within %s, debug level included\n", b.duration)
		}
		b.files["weft.log"] = log.Bytes()
	}
}

// write makes the archive, readable by its owner alone: a log may say more than everybody should read.
// writeFolder writes the files as they are.
func (b *bundle) writeFolder(name string) error {
	if err := os.Mkdir(name, 0o700); err != nil {
		return err
	}
	for file, data := range b.files {
		path := filepath.Join(name, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bundle) write(name string) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zip := gzip.NewWriter(f)
	out := tar.NewWriter(zip)
	folder := strings.TrimSuffix(filepath.Base(name), ".tar.gz")
	for _, file := range slices.Sorted(maps.Keys(b.files)) {
		data := b.files[file]
		if err := out.WriteHeader(&tar.Header{Name: folder + "/" + file, Mode: 0o600, Size: int64(len(data)), ModTime: time.Now()}); err != nil {
			return err
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
	}
	return errors.Join(out.Close(), zip.Close())
}
