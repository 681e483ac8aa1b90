// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The rules of the house, as tests. ARCHITECTURE.md says why the arrows are as they are.

const module = "github.com/weftmesh/weft"

// arrows: what product code in a folder (and the folders in it) may import of ours, beside its own folder. The longest
// matching folder counts; "..." is everything.
var arrows = map[string][]string{
	".":                 {"cli"},
	"cli":               {"..."},
	"cli/apiclient":     {},
	"cli/demo":          {"cli/apiclient", "internal"},
	"agent":             {"agent", "catalog", "ca", "connect/chain", "connect/identity", "connect/intention", "connect/xds", "internal", "proto"},
	"agent/agenttest":   {"..."},
	"server":            {"server", "catalog", "ca", "connect/chain", "connect/identity", "connect/intention", "connect/xds", "internal", "proto"},
	"ca":                {"catalog", "connect/identity", "internal/guard"},
	"ca/vault":          {"ca", "connect/identity"},
	"ca/command":        {"ca"},
	"catalog":           {"internal/guard"},
	"connect/identity":  {"internal/guard"},
	"connect/chain":     {"catalog", "connect/identity", "proto"},
	"connect/intention": {"catalog", "connect/identity", "proto"},
	"connect/xds":       {"catalog", "connect/chain", "connect/identity", "connect/intention", "connect/xds", "internal/guard", "proto"},
	"connect/xds/ads":   {"catalog", "connect/xds", "internal", "proto"},
	"connect/proxy":     {"connect/identity", "connect/proxy", "internal/guard", "internal/listen", "internal/logs", "internal/memnet", "internal/nowait", "internal/records", "internal/run", "proto"},
	"internal":          {"internal", "proto"},
	"internal/api":      {"catalog", "ca", "internal", "proto"},
	"internal/wire":     {"catalog", "proto"},
	"proto":             {"proto"},
	"e2e":               {"..."},
	"bench":             {"..."},
}

// guests: libraries that only these folders may import in product code, because what they are good for is decided there.
var guests = map[string][]string{
	"github.com/go-jose/go-jose":             {"server/login"},
	"github.com/hashicorp/raft":              {"server"},
	"github.com/hashicorp/raft-wal":          {"server"},
	"github.com/hashicorp/raft-autopilot":    {"server"},
	"github.com/hashicorp/go-hclog":          {"server", "internal/logs"},
	"github.com/hashicorp/go-sockaddr":       {"agent/config"},
	"github.com/hashicorp/memberlist":        {"internal/gossip"},
	"github.com/hashicorp/serf":              {"internal/gossip"},
	"github.com/hashicorp/go-memdb":          {"catalog"},
	"github.com/fxamacker/cbor":              {"catalog"},
	"github.com/urfave/cli":                  {"cli"},
	"github.com/envoyproxy/go-control-plane": {"connect/xds", "connect/proxy/intake", "bench"},
	"github.com/hashicorp/hcl":               {"internal/decode"},
	"sigs.k8s.io/yaml":                       {"internal/decode"},
}

// clockless are the folders whose code takes time and randomness as arguments and starts no goroutine.
var clockless = []string{"catalog", "connect/chain", "connect/intention", "connect/xds"}

// clocked are the folders whose code is handed its clock: it calls no time.Now of its own. Timers it has.
var clocked = []string{"server"}

// injected are the folders whose clock is handed in: they have timers of their own, but ask nobody else what time it is.
var injected = []string{"agent", "server"}

const (
	maxFileLines     = 800
	maxFunctionLines = 100
)

// exceptions: a rule's name and a path (with ":function" for functions) → why it doesn't hold there.
var exceptions = map[string]string{
	"clockless connect/xds/ads":                 "the ADS server talks to proxies: it owns streams, deadlines and goroutines; what it sends is rendered without a clock",
	"clockless connect/xds/xdstest":             "worlds for tests: it makes keys and certificates; product code can't import it",
	"clock agent/dns":                           "deadlines of sockets are the system's time, and its tests move that (testing/synctest)",
	"function cli/cli_test.go:TestCommands":     "one table of commands, each row a case",
	"function server/server_test.go:TestRoutes": "one table of requests, each row a case, in the order in which they build on each other",
}

type sourceFile struct {
	path, dir string
	test      bool
	generated bool
	text      string
	ast       *ast.File
}

func (f *sourceFile) imports() map[string]string { // path → name in the file
	m := map[string]string{}
	for _, spec := range f.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		name := path.Base(p)
		if regexp.MustCompile(`^v\d+$`).MatchString(name) {
			name = path.Base(path.Dir(p))
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		m[p] = name
	}
	return m
}

func TestHouse(t *testing.T) {
	fset := token.NewFileSet()
	files := parseHouse(t, fset)
	h := &house{T: t, fset: fset, used: map[string]bool{}}
	comments := map[string][]string{} // folder → files with a package comment
	product := map[string]bool{}
	for i := range files {
		f := &files[i]
		if !strings.HasPrefix(f.text, "// SPDX-License-Identifier: Apache-2.0\n") && !f.generated {
			h.breaks("licence", f.path, "%s: the first line must be // SPDX-License-Identifier: Apache-2.0", f.path)
		}
		if !f.test {
			product[f.dir] = true
			if f.ast.Doc != nil {
				comments[f.dir] = append(comments[f.dir], f.path)
			}
			h.arrows(f)
		}
		if f.generated {
			continue
		}
		h.sizes(f)
		if f.test {
			h.sleeps(f)
			continue
		}
		h.errorTexts(f)
		if within(f.dir, clockless) {
			h.clockless(f)
		}
		if within(f.dir, injected) {
			h.ownClock(f)
		}
		if within(f.dir, clocked) {
			h.clocked(f)
		}
	}
	for dir := range product {
		if strings.HasPrefix(dir, "proto") {
			continue // generated
		}
		if got := comments[dir]; len(got) != 1 {
			h.breaks("comment", dir, "%s: a package has one package comment (its job, what it doesn't do, who owns its goroutines), this one has %d: %v", dir, len(got), got)
		}
	}
	for key := range exceptions {
		if !h.used[key] {
			t.Errorf("exception %q isn't needed any more: remove it", key)
		}
	}
}

func parseHouse(t *testing.T, fset *token.FileSet) []sourceFile {
	t.Helper()
	var files []sourceFile
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f := sourceFile{
			path: filepath.ToSlash(p), dir: filepath.ToSlash(filepath.Dir(p)), text: string(text),
			test: strings.HasSuffix(p, "_test.go"), generated: strings.HasSuffix(p, ".pb.go"),
		}
		mode := parser.ParseComments | parser.SkipObjectResolution
		if f.generated {
			mode |= parser.ImportsOnly
		}
		if f.ast, err = parser.ParseFile(fset, p, text, mode); err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

type house struct {
	*testing.T
	fset *token.FileSet
	used map[string]bool
}

// breaks reports a broken rule, unless there is an exception for the path or a folder above it.
func (h *house) breaks(rule, at, format string, args ...any) {
	h.Helper()
	for p := at; p != "." && p != ""; p = path.Dir(p) {
		if exceptions[rule+" "+p] != "" {
			h.used[rule+" "+p] = true
			return
		}
	}
	h.Errorf(format, args...)
}

func (h *house) line(n ast.Node) int { return h.fset.Position(n.Pos()).Line }

func within(dir string, folders []string) bool {
	for _, f := range folders {
		if f == "..." || dir == f || strings.HasPrefix(dir, f+"/") {
			return true
		}
	}
	return false
}

func (h *house) arrows(f *sourceFile) {
	rule := f.dir
	for arrows[rule] == nil && rule != "." {
		rule = path.Dir(rule)
	}
	if rule == "." && f.dir != "." {
		h.breaks("arrow", f.path, "%s: the table of arrows doesn't know the folder %s", f.path, f.dir)
		return
	}
	for imported := range f.imports() {
		if imported == "testing" || strings.HasPrefix(imported, "testing/") {
			h.breaks("testing", f.path, "%s: product code imports %s", f.path, imported)
		}
		for library, folders := range guests {
			if (imported == library || strings.HasPrefix(imported, library+"/")) && !within(f.dir, folders) && !strings.HasPrefix(f.dir, "proto") {
				h.breaks("guest", f.path, "%s imports %s, which only %v may", f.path, imported, folders)
			}
		}
		ours, ok := strings.CutPrefix(imported, module+"/")
		if !ok || ours == f.dir {
			continue
		}
		if strings.HasSuffix(ours, "test") && !strings.HasSuffix(f.dir, "test") {
			h.breaks("testing", f.path, "%s imports %s, which is for tests", f.path, ours)
		}
		if !within(ours, arrows[rule]) {
			h.breaks("arrow", f.path, "%s imports %s: from %s arrows go only to %v", f.path, ours, rule, arrows[rule])
		}
	}
}

func (h *house) sizes(f *sourceFile) {
	if n := strings.Count(f.text, "\n"); n > maxFileLines {
		h.breaks("file", f.path, "%s: %d lines, at most %d", f.path, n, maxFileLines)
	}
	for _, d := range f.ast.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := h.fset.Position(fn.End()).Line - h.line(fn) + 1; n > maxFunctionLines {
			h.breaks("function", f.path+":"+fn.Name.Name, "%s:%d: %s has %d lines, at most %d", f.path, h.line(fn), fn.Name.Name, n, maxFunctionLines)
		}
	}
}

// called gives the package's name and the function's of a call like time.Now().
func called(e ast.Expr) (pkg, name string) {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	if x, ok := sel.X.(*ast.Ident); ok {
		return x.Name, sel.Sel.Name
	}
	return "", sel.Sel.Name
}

func (h *house) sleeps(f *sourceFile) {
	imports := f.imports()
	if _, bubble := imports["testing/synctest"]; bubble || imports["time"] == "" {
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if pkg, name := called(call.Fun); pkg == imports["time"] && name == "Sleep" {
				h.breaks("sleep", f.path, "%s:%d: a test that sleeps, outside testing/synctest: wait for what should happen", f.path, h.line(n))
			}
		}
		return true
	})
}

func (h *house) clockless(f *sourceFile) {
	imports := f.imports()
	for _, random := range []string{"math/rand", "math/rand/v2", "crypto/rand"} {
		if imports[random] != "" {
			h.breaks("clockless", f.path, "%s imports %s: randomness is an argument here", f.path, random)
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			h.breaks("clockless", f.path, "%s:%d: a goroutine in a package that owns none", f.path, h.line(n))
		case *ast.CallExpr:
			pkg, name := called(n.Fun)
			switch name {
			case "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick":
				if pkg != "" && pkg == imports["time"] {
					h.breaks("clockless", f.path, "%s:%d: time.%s: time is an argument here", f.path, h.line(n), name)
				}
			}
		}
		return true
	})
}

func (h *house) clocked(f *sourceFile) {
	clock := f.imports()["time"]
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && clock != "" {
			switch pkg, name := called(call.Fun); name {
			case "Now", "Since", "Until":
				if pkg == clock {
					h.breaks("clocked", f.path, "%s:%d: time.%s: the clock is handed in here (Config.Now)", f.path, h.line(n), name)
				}
			}
		}
		return true
	})
}

// ownClock finds questions to the system's clock where one is handed in.
func (h *house) ownClock(f *sourceFile) {
	imports := f.imports()
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			switch pkg, name := called(call.Fun); {
			case pkg == "" || pkg != imports["time"]:
			case name == "Now", name == "Since", name == "Until":
				h.breaks("clock", f.path, "%s:%d: time.%s: the clock is handed in here (Config.Now)", f.path, h.line(n), name)
			}
		}
		return true
	})
}

// errorTexts finds error texts that are compared or searched.
func (h *house) errorTexts(f *sourceFile) {
	strs := f.imports()["strings"]
	found := func(n ast.Node) {
		h.breaks("errortext", f.path, "%s:%d: an error's text is compared: use errors.Is or errors.As", f.path, h.line(n))
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if (n.Op == token.EQL || n.Op == token.NEQ) && (errorText(n.X) || errorText(n.Y)) {
				found(n)
			}
		case *ast.SwitchStmt:
			if n.Tag != nil && errorText(n.Tag) {
				found(n)
			}
		case *ast.CallExpr:
			pkg, name := called(n.Fun)
			switch name {
			case "Contains", "HasPrefix", "HasSuffix", "Index", "EqualFold", "Cut", "CutPrefix", "CutSuffix":
				if pkg != "" && pkg == strs && len(n.Args) > 0 && errorText(n.Args[0]) {
					found(n)
				}
			}
		}
		return true
	})
}

func errorText(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return false
	}
	_, name := called(call.Fun)
	return name == "Error"
}

// ARCHITECTURE.md is the truth: each step of its spine is a function that exists, and each library that go.mod requires
// directly has its reason there.
func TestArchitecture(t *testing.T) {
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := regexp.MustCompile("(?m)^\\| \\d+ \\| `([^`]+)` \\| `([^`]+)` \\|").FindAllStringSubmatch(string(page), -1)
	if len(steps) < 10 {
		t.Errorf("%d steps in the spine", len(steps))
	}
	for _, step := range steps {
		f, err := parser.ParseFile(token.NewFileSet(), step[1], nil, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			continue
		}
		if !declares(f, step[2]) {
			t.Errorf("ARCHITECTURE.md names %s in %s, which isn't there", step[2], step[1])
		}
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`/]+\\.[a-z]+/[^`]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		if library := row[1]; !strings.Contains(string(mod), "\t"+library+" v") {
			t.Errorf("ARCHITECTURE.md gives a reason for %s, which go.mod doesn't require", library)
		}
	}
	uses := map[string]bool{} // module that go.mod requires directly → some file imports it
	for _, line := range strings.Split(string(mod), "\n") {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) == 2 && strings.HasPrefix(fields[1], "v") {
			uses[fields[0]] = false
		}
	}
	files := parseHouse(t, token.NewFileSet())
	for i := range files {
		for imported := range files[i].imports() {
			for ; imported != "."; imported = path.Dir(imported) {
				if _, ok := uses[imported]; ok {
					uses[imported] = true
					break
				}
			}
		}
	}
	for library, used := range uses {
		if !used {
			t.Errorf("go.mod requires %s, which nothing imports: go mod tidy", library)
		} else if !strings.Contains(string(page), "| `"+library+"` |") {
			t.Errorf("go.mod requires %s: ARCHITECTURE.md doesn't say why", library)
		}
	}
}

// declares says whether a file has this function, or method as Type.method.
func declares(f *ast.File, name string) bool {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		full := fn.Name.Name
		if fn.Recv != nil {
			recv := fn.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			if id, ok := recv.(*ast.Ident); ok {
				full = id.Name + "." + full
			}
		}
		if full == name {
			return true
		}
	}
	return false
}
