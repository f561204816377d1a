package command

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/soracache/soracache/internal/server/auth"
)

func TestTokenFitsItsLine(t *testing.T) {
	got := invoke(t, "", "token", "ci", "--scopes", "read,admin", "--namespaces", "shop,blog", "--json")
	var made struct{ Token, Line string }
	if err := json.Unmarshal([]byte(got.out), &made); err != nil || got.code != 0 {
		t.Fatal(got, err)
	}
	tokens, err := auth.Parse(strings.NewReader(made.Line + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	who, err := tokens.Authenticate([]string{"Bearer " + made.Token})
	if err != nil {
		t.Fatal(err)
	}
	if who.Name != "ci" || who.Allow(auth.Read|auth.Admin) != nil || who.Allow(auth.Write) == nil ||
		who.AllowNamespace("shop") != nil || who.AllowNamespace("other") == nil {
		t.Errorf("got %+v", who)
	}
	if strings.Contains(made.Line, made.Token) {
		t.Error("the line holds the token itself")
	}
	text := invoke(t, "", "token", "ci")
	if again := invoke(t, "", "token", "ci"); again.out == text.out || !strings.Contains(text.out, "sora_") {
		t.Errorf("not a new token: %s", text.out)
	}
}
