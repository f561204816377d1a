package command

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/soracache/soracache/internal/server/auth"
)

// gossipKeyCmd makes a key for the nodes of a cluster.
type gossipKeyCmd struct {
	JSON bool
}

func (c *gossipKeyCmd) declare(o *options) {
	o.yes(&c.JSON, "json", "Print the key as JSON")
}

// Run prints the key, as a line for the file of --gossip-key-file.
func (c *gossipKeyCmd) Run(_ context.Context, con *console) error {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	text := base64.StdEncoding.EncodeToString(key)
	if c.JSON {
		return json.NewEncoder(con.out).Encode(map[string]string{"key": text})
	}
	return con.say("%s", text)
}

// readKeys reads a file of keys.
func readKeys(name string) ([][]byte, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	keys, err := parseKeys(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}

// parseKeys reads keys, one a line, in base64 or hexadecimal; what follows a #
// is a remark. The last line must have an end: a key that was cut off may be a
// shorter one. Errors name a line and never show what stands there.
func parseKeys(in io.Reader) ([][]byte, error) {
	var keys [][]byte
	lines := bufio.NewScanner(in)
	lines.Split(auth.WholeLines)
	for number := 1; lines.Scan(); number++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		key, err := parseKey(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

func parseKey(text string) ([]byte, error) {
	key, err := hex.DecodeString(text)
	if err != nil {
		key, err = base64.StdEncoding.DecodeString(text)
	}
	if err != nil || len(key) != 16 && len(key) != 24 && len(key) != 32 {
		return nil, errors.New("want a key of 16, 24 or 32 bytes in base64 or hexadecimal")
	}
	return key, nil
}
