// Command soracached is a cache node, and the operator's tool for nodes that
// run. Without arguments it serves on 127.0.0.1:7070 with an embedded store in
// the user's cache folder.
package main

import "github.com/soracache/soracache/cmd/soracached/command"

func main() { command.Main() }
