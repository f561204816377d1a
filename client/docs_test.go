package client_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// quoted matches a block of a page that shows the body of a function:
//
//	<!-- ExampleCache_GetOrSet in client -->
//	```go
//	...
//	```
var quoted = regexp.MustCompile("<!-- (\\w+) in ([\\w/]+) -->\n+```go\n((?s:.*?))```\n")

// What the pages show is what go test compiles and runs. If this fails, the page
// is to be changed after the example, or the other way round.
func TestPagesShowTheExamples(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	shown := map[string]bool{}
	bodies := map[string]map[string]string{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := quoted.FindAllStringSubmatch(string(text), -1)
		if marks := strings.Count(string(text), "<!-- Example"); marks > len(blocks) {
			t.Errorf("%s: %d marks of examples, and %d blocks", page, marks, len(blocks))
		}
		for _, block := range blocks {
			name, folder, body := block[1], block[2], block[3]
			if bodies[folder] == nil {
				bodies[folder] = testBodies(t, "../"+folder)
			}
			if want := bodies[folder][name]; body != want {
				t.Errorf("%s shows another %s than is in %s; that is:\n%s", page, name, folder, want)
			}
			shown[name] = true
		}
	}
	for name := range testBodies(t, ".", "example_features_test.go") {
		if strings.HasPrefix(name, "Example") && !shown[name] {
			t.Errorf("no page shows %s", name)
		}
	}
}

// testBodies returns the bodies of all functions in the tests of a folder, or in
// some files of it, by their names, as they look when they are not indented.
func testBodies(t *testing.T, folder string, files ...string) map[string]string {
	t.Helper()
	if len(files) == 0 {
		files = []string{"*_test.go"}
	}
	bodies := map[string]string{}
	for _, pattern := range files {
		paths, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			addBodies(t, path, bodies)
		}
	}
	return bodies
}

func addBodies(t *testing.T, path string, bodies map[string]string) {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil || f.Recv != nil {
			continue
		}
		body := string(source[fset.Position(f.Body.Lbrace).Offset+1 : fset.Position(f.Body.Rbrace).Offset])
		bodies[f.Name.Name] = strings.TrimPrefix(strings.ReplaceAll(body, "\n\t", "\n"), "\n")
	}
}
