package deptest_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "flotilla"

// allowed says for each package, by its directory, which packages of the project its code may import. "a/…" stands for
// a and what is below it. A package that is not here may not exist; an arrow that is not here may not be drawn.
var allowed = map[string][]string{
	// Leaves: they know nothing of agents nor of each other.
	"blockdev":              {"blockdev/loop", "blockdev/usage"},
	"blockdev/loop":         {},
	"blockdev/usage":        {"blockdev/loop"},
	"blockdev/blockdevtest": {"blockdev"},
	"blockdev/faulty":       {"blockdev"},
	"nbd":                   {"nbd/internal/proto"},
	"nbd/internal/proto":    {},
	"nbd/nbdclient":         {"nbd", "nbd/internal/proto"},
	"nbd/kernel":            {},
	"wire":                  {},
	"wire/identity":         {"wire"},

	// The protocol: pure.
	"agent/core/cluster": {"wire"},
	"agent/core":         {"agent/core/cluster", "wire"},
	"agent/sim":          {"agent/core/…", "wire"},

	// What shells stand on.
	"agent/loop":        {"agent/core"},
	"agent/vfs":         {},
	"agent/vfs/crashfs": {"agent/vfs"},
	"agent/journal":     {"agent/vfs", "wire"},
	"agent/export":      {"blockdev", "nbd"},
	"agent/apply":       {"wire"},
	"agent/device":      {"nbd/…"},

	// The shells know the core and the loop, and none of them another.
	"agent/control":   {"agent/core/…", "wire"},
	"agent/peers":     {"agent/core/…", "agent/loop", "agent/apply", "wire/…"},
	"agent/primary":   {"agent/core/…", "agent/loop", "agent/vfs", "agent/export", "blockdev", "nbd", "wire"},
	"agent/backup":    {"agent/core/…", "agent/loop", "agent/vfs", "agent/journal", "agent/apply", "wire"},
	"agent/secondary": {"agent/core/…", "agent/loop", "agent/vfs", "agent/export", "agent/apply", "blockdev", "nbd", "wire"},

	// Puts shells together for their tests.
	"agent/backup/shelltest": {"agent/…", "blockdev/…", "nbd/…", "wire/…"},

	// The daemon and its command line.
	"agent/api":         {},
	"agent":             {"agent/…", "blockdev", "nbd/…", "wire/…"},
	"internal/fleet":    {"agent/api", "nbd/nbdclient"},
	"internal/workload": {"nbd/nbdclient"},
	"internal/demo":     {"agent/api", "blockdev", "internal/fleet", "internal/workload", "nbd/nbdclient"},
	"cmd/flotilla":      {"agent", "agent/api", "agent/device", "agent/vfs", "blockdev", "internal/demo", "nbd/…"},
	"internal/nettest":  {"agent/api", "internal/fleet", "internal/workload"},
	"internal/deptest":  {},

	"internal/fio":          {},
	"internal/judge":        {},
	"internal/pages":        {},
	"internal/vm":           {},
	"internal/vmtest":       {"internal/vm"},
	"internal/vmtest/guest": {"agent/api", "internal/fleet", "internal/vm", "nbd/kernel", "nbd/nbdclient"},
	"scripts/bench":         {"agent/api", "internal/fio", "internal/judge"},
	"scripts/benchvm":       {"agent/api", "internal/fio", "internal/fleet", "internal/judge", "internal/pages", "internal/vm"},
	"scripts/measure":       {"agent/api", "internal/fleet", "internal/judge", "internal/pages", "nbd/nbdclient"},
}

// testOnly are packages that only tests, and each other, may import.
var testOnly = []string{"agent/sim", "agent/vfs/crashfs", "agent/backup/shelltest", "blockdev/blockdevtest", "blockdev/faulty"}

// leaves may not know the rest of the project in their tests either.
var leaves = []string{"blockdev", "nbd", "wire"}

// impure are packages that do I/O or draw randomness, which no part of the protocol does.
var impure = []string{"os", "net", "io/fs", "io/ioutil", "syscall", "math/rand", "crypto/rand", "path/filepath", "golang.org/x/sys", "go.etcd.io/bbolt"}

// clocks are the functions of package time that look at a clock or wait for it.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// file is one Go file of the project.
type file struct {
	path string // from the module's root
	dir  string
	test bool
	ast  *ast.File
	fset *token.FileSet
}

func (f *file) imports() []string {
	var out []string
	for _, i := range f.ast.Imports {
		out = append(out, strings.Trim(i.Path.Value, `"`))
	}
	return out
}

// own returns the directory of an import of the project's own.
func own(imported string) (dir string, ok bool) {
	if imported == module {
		return ".", true
	}
	return strings.CutPrefix(imported, module+"/")
}

func matches(patterns []string, dir string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if above, ok := strings.CutSuffix(p, "/…"); ok {
			return within(above, dir)
		}
		return p == dir
	})
}

func within(above, dir string) bool { return dir == above || strings.HasPrefix(dir, above+"/") }

func load(t *testing.T) []*file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var files []*file
	err = fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || (p != "." && strings.HasPrefix(d.Name(), "."))):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, ".go"):
			return nil
		}
		f := &file{path: p, dir: path.Dir(p), test: strings.HasSuffix(p, "_test.go"), fset: token.NewFileSet()}
		f.ast, err = parser.ParseFile(f.fset, filepath.Join(root, p), nil, parser.SkipObjectResolution)
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 100 {
		t.Fatalf("found only %d Go files below %s", len(files), root)
	}
	return files
}

// complaints returns what is wrong with a file's imports.
func complaints(f *file) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, f.path+": "+fmt.Sprintf(format, args...)) }
	may, known := allowed[f.dir]
	if !known {
		say("package %s is not in the table of this test: put it where its arrows point down", f.dir)
	}
	for _, imported := range f.imports() {
		dir, ours := own(imported)
		if !ours {
			continue
		}
		if within("cmd", dir) {
			say("imports %s: nobody imports a command", dir)
		}
		for _, leaf := range leaves {
			if within(leaf, f.dir) && !within(leaf, dir) {
				say("imports %s: %s knows nothing outside itself", dir, leaf)
			}
		}
		if f.test || !known {
			continue
		}
		if !matches(may, dir) {
			say("imports %s, which the table does not allow to %s", dir, f.dir)
		}
		if slices.Contains(testOnly, dir) && !slices.Contains(testOnly, f.dir) {
			say("imports %s, which is for tests only", dir)
		}
	}
	return append(out, impurities(f)...)
}

// impurities returns where the protocol's code would touch the world.
func impurities(f *file) []string {
	if f.test || !within("agent/core", f.dir) {
		return nil
	}
	var out []string
	for _, imported := range f.imports() {
		for _, bad := range impure {
			if within(bad, imported) {
				out = append(out, fmt.Sprintf("%s: imports %s: the protocol is pure", f.path, imported))
			}
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, sel.Sel.Name) {
			out = append(out, fmt.Sprintf("%v: time.%s: the protocol takes time as an argument", f.fset.Position(n.Pos()), sel.Sel.Name))
		}
		return true
	})
	return out
}

func TestDependenciesPointOneWay(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range load(t) {
		seen[f.dir] = true
		for _, c := range complaints(f) {
			t.Error(c)
		}
	}
	for _, dir := range slices.Sorted(func(yield func(string) bool) {
		for dir := range allowed {
			if !yield(dir) {
				return
			}
		}
	}) {
		if !seen[dir] {
			t.Errorf("package %s is in the table of this test and nowhere else: take it out", dir)
		}
	}
}

// The test itself must be able to fail.
func TestComplaints(t *testing.T) {
	for name, tc := range map[string]struct {
		path, source, want string
	}{
		"leaf":        {"wire/x.go", `import "flotilla/agent/core"`, "wire knows nothing outside itself"},
		"leaf's test": {"nbd/x_test.go", `import "flotilla/blockdev"`, "nbd knows nothing outside itself"},
		"sideways":    {"agent/primary/x.go", `import "flotilla/agent/backup"`, "does not allow"},
		"upward":      {"agent/peers/x.go", `import "flotilla/agent"`, "does not allow"},
		"command":     {"agent/x_test.go", `import "flotilla/cmd/flotilla"`, "nobody imports a command"},
		"for tests":   {"agent/x.go", `import "flotilla/agent/vfs/crashfs"`, "for tests only"},
		"new":         {"agent/util/x.go", ``, "not in the table"},
		"files":       {"agent/core/x.go", `import "os"`, "the protocol is pure"},
		"sockets":     {"agent/core/cluster/x.go", `import "net/http"`, "the protocol is pure"},
		"random":      {"agent/core/x.go", `import "math/rand/v2"`, "the protocol is pure"},
		"clock":       {"agent/core/x.go", "import \"time\"\nvar _ = time.Now()", "takes time as an argument"},
		"fine":        {"agent/core/x.go", "import (\"time\"; \"flotilla/wire\")\nvar _ = time.Second", ""},
		"fine test":   {"agent/primary/x_test.go", `import "flotilla/agent/vfs/crashfs"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := &file{path: tc.path, dir: path.Dir(tc.path), test: strings.HasSuffix(tc.path, "_test.go"), fset: token.NewFileSet()}
			var err error
			if f.ast, err = parser.ParseFile(f.fset, tc.path, "package x\n"+tc.source, parser.SkipObjectResolution); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(complaints(f), "\n")
			if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
				t.Errorf("complaints %q, want %q", got, tc.want)
			}
		})
	}
}
