package auth

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/soracache/soracache"
)

// maxLine bounds a line of a tokens file, so that a wrong file (a core dump,
// a device) is refused early.
const maxLine = 64 << 10

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// Load reads a tokens file; see [Parse]. Errors name the file and the line.
func Load(path string) (*Tokens, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("tokens file: %w", err)
	}
	defer f.Close()
	tokens, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("tokens file %s: %w", path, err)
	}
	return tokens, nil
}

// Parse reads tokens, one a line, in four fields:
//
//	DIGEST NAME SCOPES NAMESPACES
//
// DIGEST is the SHA-256 of the token in hexadecimal, NAME is how logs call its
// bearer, SCOPES is a comma-separated list of read, write, invalidate and
// admin, and NAMESPACES a comma-separated list of namespaces, or * for all.
// Empty lines and lines that begin with # are skipped.
//
// A file without tokens is refused: it would lock everybody out, and is most
// likely one that is being written. So is one whose last line has no end: what
// remains of a line that was cut off may be whole in all but its meaning, such as
// one for namespace shop instead of shop-test. Errors name the line and never its
// contents, because people paste the token where the digest belongs.
func Parse(r io.Reader) (*Tokens, error) {
	tokens := &Tokens{}
	lines := map[[sha256.Size]byte]int{}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine)
	scanner.Split(WholeLines)
	n := 0
	for scanner.Scan() {
		n++
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		t, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if first, twice := lines[t.digest]; twice {
			return nil, fmt.Errorf("line %d: the same token as line %d", n, first)
		}
		lines[t.digest] = n
		tokens.list = append(tokens.list, t)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	if len(tokens.list) == 0 {
		return nil, errors.New("no token in it")
	}
	return tokens, nil
}

// ErrCutOff is a file whose last line has no end.
var ErrCutOff = errors.New("the last line has no end: the file is being written, or was cut off")

// WholeLines is [bufio.ScanLines] for files that may be read while they are
// written: the last line must have an end like all others, or the scanner's error
// is [ErrCutOff].
func WholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	advance, token, err = bufio.ScanLines(data, atEOF)
	if advance > 0 && data[advance-1] != '\n' {
		return 0, nil, ErrCutOff
	}
	return advance, token, err
}

func parseLine(line string) (token, error) {
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return token{}, fmt.Errorf("want 4 fields (digest, name, scopes, namespaces), found %d", len(fields))
	}
	var t token
	if n, err := hex.Decode(t.digest[:], digits(fields[0])); err != nil || n != len(t.digest) {
		return token{}, errors.New("the first field is not a SHA-256 digest: 64 hexadecimal digits")
	}
	if t.digest == sha256.Sum256(nil) {
		return token{}, errors.New("the digest is that of an empty token")
	}
	if !namePattern.MatchString(fields[1]) {
		return token{}, fmt.Errorf("the name (second field) must match %s", namePattern)
	}
	scopes, err := parseScopes(fields[2])
	if err != nil {
		return token{}, err
	}
	namespaces, err := parseNamespaces(fields[3])
	if err != nil {
		return token{}, err
	}
	t.principal = &Principal{Name: fields[1], scopes: scopes, namespaces: namespaces}
	return t, nil
}

// digits returns what hex.Decode may write into a digest: nothing that is too
// long for it.
func digits(field string) []byte {
	if len(field) != hex.EncodedLen(sha256.Size) {
		return nil
	}
	return []byte(field)
}

func parseScopes(field string) (Scope, error) {
	var scopes Scope
	for name := range strings.SplitSeq(field, ",") {
		i := slices.Index(scopeNames[:], name)
		if i < 0 {
			return 0, errors.New("unknown scope (third field): want a comma-separated list of read, write, invalidate, admin")
		}
		scopes |= 1 << i
	}
	return scopes, nil
}

func parseNamespaces(field string) ([]string, error) {
	if field == "*" {
		return nil, nil
	}
	namespaces := strings.Split(field, ",")
	for _, namespace := range namespaces {
		if soracache.CheckNamespace(namespace) != nil {
			return nil, errors.New("malformed namespace (fourth field): want * or a comma-separated list of namespaces")
		}
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces), nil
}
