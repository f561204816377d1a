package encrypt_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"
	"slices"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
	"github.com/soracache/soracache/client/encrypt"
)

// Keys rotate while the application runs: what the former key encrypted is read as long
// as that is known.
func ExampleAESGCM() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	c := clienttest.New(t, client.NoNear())
	july := encrypt.Key{ID: "2026-07", Secret: fromVault("2026-07")}
	october := encrypt.Key{ID: "2026-10", Secret: fromVault("2026-10")}

	keys, err := encrypt.NewKeys(july)
	if err != nil {
		panic(err)
	}
	codec := encrypt.AESGCM(client.JSON{}, keys)
	products := client.NewCache[product](c, client.Default(), client.WithCodec(codec))
	read := func() {
		p, err := products.GetOrSet(ctx, "product:7", func(context.Context) (product, error) {
			fmt.Print("loads ")
			return product{7, "a lamp"}, nil
		})
		fmt.Println(p.Name, err)
	}

	read()
	_ = keys.Replace(july, october) // in all processes, and then
	_ = keys.Replace(october, july) // in all processes
	read()
	_ = keys.Replace(october) // too early: that entry cannot be read any more
	read()
	read()
	fmt.Println(codec.Name())
	// Output:
	// loads a lamp <nil>
	// a lamp <nil>
	// loads a lamp <nil>
	// a lamp <nil>
	// json+xaes256gcm
}

// fromVault stands for what keeps an application's secrets.
func fromVault(string) []byte {
	secret := make([]byte, encrypt.SecretBytes)
	_, _ = rand.Read(secret)
	return secret
}

// exampleT stands for the *testing.T that a test has.
type exampleT struct{ cleanups []func() }

func (t *exampleT) Helper()                   { _ = t }
func (t *exampleT) Cleanup(f func())          { t.cleanups = append(t.cleanups, f) }
func (t *exampleT) Output() io.Writer         { return io.Discard }
func (t *exampleT) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (t *exampleT) Fatalf(f string, a ...any) { log.Panicf(f, a...) }

func (t *exampleT) end() {
	for _, cleanup := range slices.Backward(t.cleanups) {
		cleanup()
	}
}
