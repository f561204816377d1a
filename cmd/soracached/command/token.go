package command

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/soracache/soracache/internal/server/auth"
)

// tokenCmd makes a token. The server keeps only its digest, so this is the one
// time that it can be seen.
type tokenCmd struct {
	Name       string
	Scopes     []string
	Namespaces []string
	JSON       bool
}

func (c *tokenCmd) declare(o *options) {
	call := o.perCall()
	o.argument(&c.Name, "NAME")
	call.list(&c.Scopes, "scopes", "read,write,invalidate", "NAME", "What it allows: read, write, invalidate, admin")
	call.list(&c.Namespaces, "namespaces", "*", "NAME", "The namespaces that it is for (all of them)")
	o.yes(&c.JSON, "json", "Print the token and the line as JSON")
}

// Run prints the token and the line for the file of --auth-tokens.
func (c *tokenCmd) Run(_ context.Context, con *console) error {
	token := "sora_" + rand.Text()
	digest := sha256.Sum256([]byte(token))
	line := strings.Join([]string{
		hex.EncodeToString(digest[:]), c.Name, strings.Join(c.Scopes, ","), strings.Join(c.Namespaces, ","),
	}, " ")
	if _, err := auth.Parse(strings.NewReader(line + "\n")); err != nil {
		return usage(fmt.Errorf("that makes no token: %w", err))
	}
	if c.JSON {
		return json.NewEncoder(con.out).Encode(map[string]string{"token": token, "line": line})
	}
	return con.say("The token, which cannot be shown again:\n\n%s\n\nThe line for the file of --auth-tokens:\n\n%s", token, line)
}
