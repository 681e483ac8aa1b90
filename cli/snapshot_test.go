// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftmesh/weft/server/archive"
)

// A snapshot is looked into: by tables, by the beginnings of keys, and row by row, as an archive and as a server's state.bin.
func TestSnapshotInside(t *testing.T) {
	url := realServer(t)
	for _, key := range []string{"app/web/a", "app/web/b", "app/db", "other"} {
		if r := runs(t.Context(), url, "", "kv", "put", key, "value"); r.code != 0 {
			t.Fatal(r)
		}
	}
	file := filepath.Join(t.TempDir(), "a.snap")
	if r := runs(t.Context(), url, "", "snapshot", "save", file); r.code != 0 {
		t.Fatal(r)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Read(strings.NewReader(string(data)), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	state, err := io.ReadAll(a.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "state.bin")
	if err := os.WriteFile(bin, state, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(bin), "meta.json"), []byte(`{"ID":"2-17-1","Index":17,"Term":2,"Version":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{"inspect " + file, "KV     4", 0},
		{"inspect " + bin, " ID           2-17-1\n", 0},
		{"inspect -kvdetails " + file, "app/web   2", 0},
		{"inspect -kvdetails " + file, "app/db    1", 0},
		{"inspect -kvdetails -kvdepth=1 " + bin, "app       3", 0},
		{"inspect -kvdetails -kvdepth=0 " + file, "app/web/a  1", 0},
		{"inspect -kvdetails -kvfilter=other " + file, "Key Name  Count  Size\nother     1", 0},
		{"inspect -format=json -kvdetails -kvfilter=app/ " + file, `"Name": "app/web",` + "\n" + `            "Count": 2`, 0},
		{"inspect -kvdepth=1 " + file, "", 1},
		{"inspect -kvdetails -kvdepth=-1 " + file, "", 1},
		{"decode " + file, `{"Type":"KV","Data":{`, 0},
		{"decode " + bin, `"Key":"other","Value":"dmFsdWU="`, 0},
		{"decode", "", 1},
		{"decode " + write(t, "no.snap", "no"), "", 1},
	} {
		if r := runs(t.Context(), url, "", append([]string{"snapshot"}, strings.Fields(c.args)...)...); r.code != c.code || !strings.Contains(r.out, c.want) {
			t.Errorf("%s: %d, want %q\n%s%s", c.args, r.code, c.want, r.out, r.errout)
		}
	}
	r := runs(t.Context(), url, string(data), "snapshot", "decode", "-")
	for line := range strings.Lines(r.out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	if r.code != 0 || strings.Count(r.out, `{"Type":"KV"`) != 4 {
		t.Errorf("from standard input: %d\n%s%s", r.code, r.out, r.errout)
	}
	// A row is printed before the end is seen: a file that is cut fails, all the same.
	if r := runs(t.Context(), url, string(state[:len(state)-1]), "snapshot", "decode", "-"); r.code != 1 {
		t.Errorf("cut: %d %s", r.code, r.errout)
	}
}
