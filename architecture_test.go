package soracache_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tree is what there is in the repository by name.
type tree struct {
	paths    map[string]bool // of files and folders, and their last parts
	names    map[string]bool // packages, and all that is declared in them
	members  map[string]bool // "Type.method" and "Type.field"
	embedded map[string][]string
}

// The names that docs/architecture.md calls exist: files, packages, and what is
// declared in them.
func TestArchitectureNamesWhatThereIs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	there := plant(t)
	name := regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$`)
	called := 0
	for _, quoted := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(text), -1) {
		called++
		word := strings.NewReplacer("[T]", "", "()", "").Replace(quoted[1])
		switch {
		case strings.Contains(word, " "), strings.HasPrefix(word, "-"), word == "net/http": // a command, an option, another's
		case strings.Contains(word, "/"), path.Ext(word) == ".go", path.Ext(word) == ".lua", path.Ext(word) == ".md", path.Ext(word) == ".yml":
			if !there.paths[word] {
				t.Errorf("there is no %s", word)
			}
		case !name.MatchString(word) || !there.has(word):
			t.Errorf("nothing is called %s", word)
		}
	}
	if called < 100 {
		t.Errorf("only %d names", called)
	}
}

// has tells whether a name such as Type.method or package.Type.method exists.
func (tr tree) has(name string) bool {
	parts := strings.Split(name, ".")
	if len(parts) == 1 {
		return tr.names[name]
	}
	owner, last := parts[len(parts)-2], parts[len(parts)-1]
	if tr.member(owner, last) {
		return true
	}
	return tr.paths[owner] && tr.names[last] // package.Name
}

func (tr tree) member(owner, name string) bool {
	if tr.members[owner+"."+name] {
		return true
	}
	for _, e := range tr.embedded[owner] {
		if e != owner && tr.member(e, name) {
			return true
		}
	}
	return false
}

// plant reads the tree.
func plant(t *testing.T) tree {
	t.Helper()
	tr := tree{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string][]string{}}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && p != "." {
			return filepath.SkipDir
		}
		tr.paths[filepath.ToSlash(p)], tr.paths[d.Name()] = true, true
		if d.IsDir() {
			tr.names[d.Name()] = true
		}
		if filepath.Ext(p) == ".go" {
			file, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			tr.names[file.Name.Name], tr.paths[file.Name.Name] = true, true
			for _, decl := range file.Decls {
				tr.declare(decl)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func (tr tree) declare(decl ast.Decl) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		tr.names[d.Name.Name] = true
		if d.Recv != nil {
			tr.members[typeName(d.Recv.List[0].Type)+"."+d.Name.Name] = true
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				for _, n := range s.Names {
					tr.names[n.Name] = true
				}
			case *ast.TypeSpec:
				tr.names[s.Name.Name] = true
				tr.declareType(s)
			}
		}
	}
}

func (tr tree) declareType(s *ast.TypeSpec) {
	var fields *ast.FieldList
	switch typ := s.Type.(type) {
	case *ast.StructType:
		fields = typ.Fields
	case *ast.InterfaceType:
		fields = typ.Methods
	default:
		return
	}
	for _, f := range fields.List {
		if len(f.Names) == 0 {
			tr.embedded[s.Name.Name] = append(tr.embedded[s.Name.Name], typeName(f.Type))
		}
		for _, n := range f.Names {
			tr.members[s.Name.Name+"."+n.Name] = true
			tr.names[n.Name] = true
		}
	}
}

// typeName is the name of a type without what it points to or is made of.
func typeName(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.StarExpr:
		return typeName(x.X)
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.IndexExpr:
		return typeName(x.X)
	case *ast.IndexListExpr:
		return typeName(x.X)
	}
	return ""
}
