// Command soracached is a cache node, and the operator's tool for nodes that
// run. Without arguments it serves on 127.0.0.1:7070 with an embedded store in
// the user's cache folder.
//
// The package parses the command line, puts the parts of a node together, and
// prints answers. It holds no logic of the cache: see internal/server and
// internal/node for that.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

const description = `soracached is a distributed cache node, and the operator's tool for running nodes.

Without a command it serves. Every option of a command that has an environment variable shows it in that command's
help. Options given on the command line come before the environment, and the environment before the file of --config.

Exit codes: 0 success; 1 no such value; 2 wrong usage or input; 3 unavailable; 4 denied; 5 anything else.`

// cli is the grammar of the command line.
type cli struct {
	Serve       serveCmd       `cmd:"" default:"withargs" help:"Run a cache node (the default command)."`
	Get         getCmd         `cmd:"" help:"Print the value under a key."`
	Set         setCmd         `cmd:"" help:"Write a value under a key."`
	Rm          rmCmd          `cmd:"" help:"Invalidate keys."`
	Invalidate  invalidateCmd  `cmd:"" help:"Invalidate everything that carries a tag."`
	Clear       clearCmd       `cmd:"" help:"Invalidate everything in a namespace."`
	Keys        keysCmd        `cmd:"" help:"List the keys that carry a tag."`
	Explain     explainCmd     `cmd:"" help:"Tell why a key is a hit, a miss or stale."`
	Watch       watchCmd       `cmd:"" help:"Print invalidations as they happen."`
	Members     membersCmd     `cmd:"" help:"List the nodes of the cluster, as one of them knows it."`
	Stats       statsCmd       `cmd:"" help:"Print the running totals of a node, or of all nodes of its cluster."`
	Repartition repartitionCmd `cmd:"" help:"Change how many partitions a namespace has."`
	Dev         devCmd         `cmd:"" help:"Run a cluster on this machine, to try it."`
	GossipKey   gossipKeyCmd   `cmd:"" help:"Create a key by which the nodes of a cluster encrypt what they tell each other."`
	Token       tokenCmd       `cmd:"" help:"Create an access token, and its line for the tokens file."`
	Version     versionCmd     `cmd:"" help:"Print the version."`

	ShowVersion versionFlag `name:"version" help:"Print the version."`
}

// console is what a command reads from and writes to.
type console struct {
	in       io.Reader
	out, err io.Writer
	// terminal tells whether a person reads out.
	terminal bool
	// reload delivers the operator's wish that files be read again.
	reload <-chan os.Signal
}

func main() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
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
	}))
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run parses the arguments and runs the command that they name, and returns
// the exit code.
func run(ctx context.Context, args []string, con console) int {
	err := parseAndRun(ctx, args, &con)
	if err != nil && !errors.Is(err, errNoValue) && !errors.Is(err, errCachedFailure) {
		_, _ = fmt.Fprintf(con.err, "soracached: %s\n", strings.TrimSpace(message(err)))
	}
	return exitCode(err)
}

// helpShown is what the parser panics with once it has printed a help text.
type helpShown struct{}

func parseAndRun(ctx context.Context, args []string, con *console) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(helpShown); !ok {
				panic(p)
			}
		}
	}()
	for _, arg := range args {
		if !utf8.ValidString(arg) { // the parser would make another name of it
			return usage(fmt.Errorf("the argument %q is not UTF-8", arg))
		}
	}
	parser, err := newParser(&cli{}, con)
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if err != nil {
		return usage(fmt.Errorf("%w (see soracached --help)", err))
	}
	command.BindTo(ctx, (*context.Context)(nil))
	return command.Run(con)
}

func newParser(grammar *cli, con *console) (*kong.Kong, error) {
	return kong.New(grammar,
		kong.Name("soracached"),
		kong.Description(description),
		kong.Writers(con.out, con.err),
		kong.Exit(func(int) { panic(helpShown{}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, WrapUpperBound: 110}),
		kong.Resolvers(&fileResolver{}),
		kong.Vars{"store": defaultStoreText()},
	)
}
