package soracache_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// What the code once had words of its own for, and what it says now: see
// docs/glossary.md.
var oldWords = map[string]string{
	"vouch": "confirm", "vouches": "confirms", "vouched": "confirmed",
	"overtaken": "superseded", "overtook": "superseded", "overtakes": "supersedes",
	"forsake": "reset trust", "forsaken": "abandoned",
	"standby": "a stale value, or what was found",
	"untie":   "detach", "adrift": "detached",
	"blame": "wrap closed", "insistence": "fallback", "evenstale": "allow stale",
	"mutest": "first message timeout", "errand": "detached request", "effort": "retry policy",
}

// plain are places in which an old word is plain English: what somebody does in
// another order, or a name of a library's.
var plain = regexp.MustCompile(`(?i)overtook it|overtook each other|best.?effort`)

// No identifier and no comment uses a word that the glossary has replaced.
func TestOldWordsAreGone(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || path == "words_test.go":
			return nil
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		look := func(at token.Pos, text string) {
			if plain.MatchString(text) {
				return
			}
			for _, word := range wordsOf(text) {
				if now, old := oldWords[word]; old {
					t.Errorf("%s: %q: the word is %s", files.Position(at), word, now)
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				look(id.Pos(), id.Name)
			}
			return true
		})
		for _, group := range f.Comments {
			for _, c := range group.List {
				look(c.Pos(), c.Text)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wordsOf splits a text, and the names in it, into words in small letters.
func wordsOf(text string) (words []string) {
	var word []rune
	end := func() {
		if len(word) > 0 {
			words = append(words, strings.ToLower(string(word)))
			word = word[:0]
		}
	}
	for _, r := range text {
		switch {
		case !unicode.IsLetter(r):
			end()
			continue
		case unicode.IsUpper(r) && (len(word) > 0 && unicode.IsLower(word[len(word)-1])):
			end()
		}
		word = append(word, r)
	}
	end()
	return words
}
