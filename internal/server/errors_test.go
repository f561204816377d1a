package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/soracache/soracache/internal/server"
)

// TestErrorsAreShort: an error quotes little of what is wrong with a request. The
// memory that it takes is in no budget.
func TestErrorsAreShort(t *testing.T) {
	t.Parallel()
	const most = 2 << 10
	long := strings.Repeat("é", 1<<19)
	s := newServer(t, server.Config{}, newFakeNode(), server.Hooks{})
	for name, c := range map[string]struct{ procedure, body string }{
		"a field that there is not":    {"Set", `{"` + long + `":1}`},
		"a duration":                   {"Set", `{"key":"k","ttl":"` + long + `"}`},
		"a number":                     {"ListKeys", `{"tag":"t","pageSize":"` + long + `"}`},
		"bytes":                        {"Set", `{"key":"k","value":"` + long + `"}`},
		"a word":                       {"Set", `{"key":"k","kind":"` + long + `"}`},
		"no word of JSON":              {"Set", `{"key":` + long + `}`},
		"a field with what is no text": {"Get", `{"` + long + `":"` + "\xff" + `"}`},
		"a namespace":                  {"Get", `{"key":"k","namespace":"` + long + `"}`},
		"a schema":                     {"Get", `{"key":"k","schema":"` + long + `"}`},
		"a key":                        {"Get", `{"key":"` + long + `"}`},
		"a tag":                        {"Invalidate", `{"tags":["` + long + `"]}`},
		"a page token":                 {"ListKeys", `{"tag":"t","pageToken":"` + long[:4000] + `"}`},
		"a namespace in a batch":       {"BatchSet", `{"sets":[{"key":"k","ttl":"1s","namespace":"` + long + `"}]}`},
		"a key in a batch":             {"BatchGet", `{"keys":["` + long + `"]}`},
		"an encoding":                  {"Set", `{"key":"k","ttl":"1s","encoding":"` + long + `"}`},
		"an etag":                      {"Set", `{"key":"k","ttl":"1s","etag":"` + long + `"}`},
		"a lease":                      {"Fill", `{"key":"k","ttl":"1s","lease":"` + strings.Repeat("A", 1<<20) + `"}`},
		"a stamp":                      {"Get", `{"key":"k","minStamp":"` + strings.Repeat("A", 1<<20) + `"}`},
	} {
		for _, contentType := range []string{"application/json", "application/grpc+json"} {
			body := c.body
			if contentType != "application/json" {
				body = string(grpcFrame(0, []byte(body)))
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/soracache.v1.CacheService/"+c.procedure, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", contentType)
			got := handle(s, r)
			n := len(got.body)
			for _, values := range got.header {
				n += len(strings.Join(values, ""))
			}
			if n > most || got.status == 200 && got.header.Get("Grpc-Status") == "" && !strings.Contains(got.body, "error") {
				t.Errorf("%s, %s: an error of %d bytes: %.200s %.200v", name, contentType, n, got.body, got.header)
			}
		}
	}
}
