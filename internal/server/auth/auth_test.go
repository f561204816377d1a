package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server/auth"
)

func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func parse(t *testing.T, lines ...string) *auth.Tokens {
	t.Helper()
	tokens, err := auth.Parse(strings.NewReader(strings.Join(lines, "\n") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestPrincipalHasExactlyWhatItsLineNames(t *testing.T) {
	t.Parallel()
	tokens := parse(t,
		"# who may do what",
		"",
		digest("reader")+" web read shop,blog",
		"  "+strings.ToUpper(digest("operator"))+"\tops\tadmin,invalidate *  ",
	)
	if tokens.Len() != 2 {
		t.Fatalf("%d tokens, want 2", tokens.Len())
	}

	web, err := tokens.Authenticate([]string{"Bearer reader"})
	if err != nil {
		t.Fatal(err)
	}
	if web.Name != "web" {
		t.Errorf("name %q, want web", web.Name)
	}
	allowed(t, web.Allow(auth.Read))
	denied(t, web.Allow(auth.Write))
	denied(t, web.Allow(auth.Read|auth.Write))
	denied(t, web.Allow(auth.Invalidate))
	denied(t, web.Allow(auth.Admin))
	allowed(t, web.AllowNamespace("shop"))
	allowed(t, web.AllowNamespace("blog"))
	denied(t, web.AllowNamespace("default"))
	denied(t, web.AllowNamespace("sho"))

	ops, err := tokens.Authenticate([]string{"bearer  operator "})
	if err != nil {
		t.Fatal(err)
	}
	allowed(t, ops.Allow(auth.Admin|auth.Invalidate))
	denied(t, ops.Allow(auth.Read))
	allowed(t, ops.AllowNamespace("anything"))
}

func TestAuthenticateRefuses(t *testing.T) {
	t.Parallel()
	tokens := parse(t, digest("secret")+" web read *")
	for name, header := range map[string][]string{
		"no header":      nil,
		"two headers":    {"Bearer secret", "Bearer secret"},
		"other scheme":   {"Basic secret"},
		"no scheme":      {"secret"},
		"empty token":    {"Bearer "},
		"only scheme":    {"Bearer"},
		"unknown token":  {"Bearer secret2"},
		"prefix":         {"Bearer secre"},
		"the digest":     {"Bearer " + digest("secret")},
		"case of token":  {"Bearer Secret"},
		"empty value":    {""},
		"inner space":    {"Bearer secret secret"},
		"trailing bytes": {"Bearer secret\x00"},
	} {
		if _, err := tokens.Authenticate(header); !errors.Is(err, soracache.ErrUnauthenticated) {
			t.Errorf("%s: error %v, want ErrUnauthenticated", name, err)
		}
	}
}

func TestParseErrorsNameTheLineAndNeverItsContents(t *testing.T) {
	t.Parallel()
	good := digest("good") + " good read *"
	for name, c := range map[string]struct{ text, want string }{
		"empty file":        {"", "no token"},
		"only comments":     {"# nothing\n\n", "no token"},
		"too few fields":    {good + "\n" + digest("x") + " web read", "line 2"},
		"too many fields":   {digest("x") + " web read * more", "line 1"},
		"plain token":       {"hunter2-hunter2 web read *", "line 1"},
		"short digest":      {digest("x")[1:] + " web read *", "line 1"},
		"long digest":       {digest("x") + "00 web read *", "line 1"},
		"not hexadecimal":   {"zz" + digest("x")[2:] + " web read *", "line 1"},
		"empty token":       {digest("") + " web read *", "empty token"},
		"bad name":          {"#\n" + digest("x") + " we/b read *", "line 2"},
		"unknown scope":     {digest("x") + " web read,root *", "line 1"},
		"empty scope":       {digest("x") + " web read, *", "line 1"},
		"bad namespace":     {digest("x") + " web read Shop", "line 1"},
		"star in a list":    {digest("x") + " web read shop,*", "line 1"},
		"the same twice":    {good + "\n\n" + strings.ToUpper(digest("good")) + " other read *", "line 3: the same token as line 1"},
		"line without end":  {strings.Repeat("a", 1<<17), "line 1"},
		"binary":            {"\x7fELF\x00\x01\x02\n", "line 1"},
		"windows line ends": {digest("x") + " web read nope!\r\n", "line 1"},
	} {
		_, err := auth.Parse(strings.NewReader(c.text + "\n"))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
			continue
		}
		for _, secret := range []string{digest("x"), digest("x")[2:], "hunter2", "ELF"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error shows what the line holds: %v", name, err)
			}
		}
	}
}

// TestAHalfWrittenFileIsRefused: a file that is cut off anywhere but between two
// lines is refused, although what remains of its last line may look whole: here
// that would be a token for namespace shop, which nobody has granted.
func TestAHalfWrittenFileIsRefused(t *testing.T) {
	t.Parallel()
	text := digest("a") + " web read *\n# a remark\n" + digest("b") + " test read,write shop-test\n"
	for size := range len(text) + 1 {
		_, err := auth.Parse(strings.NewReader(text[:size]))
		switch {
		case size == 0: // another complaint
		case text[size-1] == '\n' && err != nil:
			t.Errorf("%d bytes, which end with a line: %v", size, err)
		case text[size-1] != '\n' && err == nil:
			t.Errorf("%d bytes are accepted, the last line of which is cut off", size)
		}
	}
	if _, err := auth.Parse(strings.NewReader(text[:len(text)-6])); !errors.Is(err, auth.ErrCutOff) || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("error %v, want that line 3 has no end", err)
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tokens")
	if _, err := auth.Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want one that wraps os.ErrNotExist", err)
	}
	if err := os.WriteFile(path, []byte("oops\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.Load(path); err == nil || !strings.Contains(err.Error(), path+": line 1") {
		t.Errorf("error %v, want the file and the line", err)
	}
	if err := os.WriteFile(path, []byte(digest("x")+" web read *\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.Load(path); err != nil {
		t.Error(err)
	}
}

func TestContextWithoutPrincipalMayDoNothing(t *testing.T) {
	t.Parallel()
	nobody := auth.FromContext(context.Background())
	denied(t, nobody.Allow(auth.Read))
	denied(t, nobody.AllowNamespace("default"))

	anyone := auth.FromContext(auth.NewContext(context.Background(), auth.Anyone()))
	allowed(t, anyone.Allow(auth.Read|auth.Write|auth.Invalidate|auth.Admin))
	allowed(t, anyone.AllowNamespace("default"))
}

func FuzzParse(f *testing.F) {
	f.Add(digest("x") + " web read,write shop,blog\n# end\n")
	f.Add("x y z *\n")
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := auth.Parse(strings.NewReader(text))
		if (err == nil) != (tokens != nil && tokens.Len() > 0) {
			t.Fatalf("tokens %v with error %v", tokens, err)
		}
	})
}

func allowed(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("denied: %v", err)
	}
}

func denied(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, soracache.ErrPermissionDenied) {
		t.Errorf("error %v, want ErrPermissionDenied", err)
	}
}
