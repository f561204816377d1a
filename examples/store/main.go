// Command store is a soracached with a store of one's own, which is all of its code:
//
//	go run ./examples/store --l2 audit:/var/lib/cache
//
// It takes whatever soracached does. See docs/stores.md.
package main

import "github.com/soracache/soracache/cmd/soracached/command"

func main() { command.Main(Scheme()) }
