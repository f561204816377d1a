// Package command is the program soracached: a cache node, and the operator's tool for
// nodes that run. A build of one's own, with stores of one's own, is a main of one line:
//
//	func main() { command.Main(mystore.Scheme()) }
//
// It parses the command line, puts the parts of a node together, and
// prints answers. It holds no logic of the cache: see internal/server and
// internal/node for that.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/soracache/soracache/l2"
)

// console is what a command reads from and writes to.
type console struct {
	in       io.Reader
	out, err io.Writer
	// terminal tells whether a person reads out.
	terminal bool
	// reload delivers the operator's wish that files be read again.
	reload <-chan os.Signal
}

// Main runs soracached with the arguments of the process, and ends the process. Where a
// store is given by its URL, as in --l2, it may be one of the stores' schemes besides
// those of soracached itself.
//
// An interrupt or a termination ends what runs in good order, and a second one at once.
// A hang-up has a node read its certificates, tokens and keys again.
func Main(stores ...l2.Scheme) {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals // the operator does not want to wait
		os.Exit(exitOther)
	}()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	os.Exit(run(ctx, os.Args[1:], console{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stdout), reload: reload,
	}, stores...))
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run parses the arguments and runs the command that they name, and returns
// the exit code.
func run(ctx context.Context, args []string, con console, stores ...l2.Scheme) int {
	err := newProgram(&con, stores).execute(ctx, args)
	if err != nil && !errors.Is(err, errNoValue) && !errors.Is(err, errCachedFailure) {
		_, _ = fmt.Fprintf(con.err, "soracached: %s\n", strings.TrimSpace(message(err)))
	}
	return exitCode(err)
}
