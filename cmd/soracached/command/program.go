package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/soracache/soracache/l2"
)

const description = `soracached is a distributed cache node, and the operator's tool for running nodes.

Without a command it serves. An option that has an environment variable shows it in the help of its command. Options on
the command line come before the environment, and the environment before the file of --config.

Exit codes: 0 success; 1 no such value; 2 wrong usage or input; 3 unavailable; 4 denied; 5 anything else.`

// watchHelp tells what the lines of watch mean.
const watchHelp = `Print invalidations as they happen.

Each line names what was invalidated, with the time by the clock of L2. It goes on until it is interrupted, or until
the node drains. With --json it prints the messages of the service's contract, in which a tag, or everything, comes once
for each partition.`

// runner is a command: what it takes, and what it does then.
type runner interface {
	declare(o *options)
	Run(ctx context.Context, con *console) error
}

// program is the command line.
type program struct {
	root    *cobra.Command
	con     *console
	version bool // print the version, whatever else is given
	// begun: a command runs. An error before that is the operator's mistake.
	begun bool
	// run runs a command that has all that it takes. Tests look at it instead.
	run func(ctx context.Context, r runner) error
}

func newProgram(con *console, stores []l2.Scheme) *program {
	p := &program{con: con}
	p.run = func(ctx context.Context, r runner) error { return r.Run(ctx, con) }
	p.root = p.command("soracached", description, newServe(stores))
	p.root.SilenceErrors, p.root.SilenceUsage = true, true
	p.root.SuggestionsMinimumDistance = 2
	p.root.SetIn(con.in)
	p.root.SetOut(con.out)
	p.root.SetErr(con.err)
	p.root.SetUsageFunc(printUsage)
	p.root.PersistentFlags().BoolVar(&p.version, "version", false, "Print the version")
	p.root.AddCommand(
		p.command("serve", "Run a cache node (the default command).", newServe(stores)),
		p.command("get", "Print the value under a key.", &getCmd{}),
		p.command("set", "Write a value under a key: what is given, or for - standard input.", &setCmd{}),
		p.command("rm", "Invalidate keys.", &rmCmd{}),
		p.command("invalidate", "Invalidate everything that carries a tag.", &invalidateCmd{}),
		p.command("clear", "Invalidate everything in a namespace.", &clearCmd{}),
		p.command("keys", "List the keys that carry a tag.", &keysCmd{}),
		p.command("explain", "Tell why a key is a hit, a miss or stale.", &explainCmd{}),
		p.command("watch", watchHelp, &watchCmd{}),
		p.command("members", "List the nodes of the cluster, as one of them knows it.", &membersCmd{}),
		p.command("stats", "Print the running totals of a node, or of all nodes of its cluster.", &statsCmd{}),
		p.command("repartition", "Change how many partitions a namespace has.", &repartitionCmd{storeOptions: storeOptions{stores: stores}}),
		p.command("dev", "Run a cluster on this machine, to try it.", &devCmd{}),
		p.command("gossip-key", "Create a key by which the nodes of a cluster encrypt what they tell each other.", &gossipKeyCmd{}),
		p.command("token", "Create an access token, and its line for the tokens file.", &tokenCmd{}),
		p.command("man", "Write the manual pages into a folder.", &manCmd{root: p.root}),
		p.command("version", "Print the version.", &versionCmd{}),
	)
	return p
}

// command makes a command of what it takes and does. The first sentence of its help
// stands in the list of commands.
func (p *program) command(name, help string, r runner) *cobra.Command {
	short, _, _ := strings.Cut(help, "\n")
	c := &cobra.Command{Short: short, Long: help, ValidArgsFunction: cobra.NoFileCompletions}
	c.Flags().SortFlags = false
	o := newOptions(c.Flags())
	r.declare(o)
	c.Use = name + o.usage()
	c.Args = cobra.ArbitraryArgs // see take
	c.RunE = func(c *cobra.Command, args []string) error {
		if p.version {
			return (&versionCmd{}).Run(c.Context(), p.con)
		}
		if c == p.root && len(args) > 0 {
			return unknownCommand(c, args[0])
		}
		if err := o.take(args); err != nil {
			return err
		}
		if err := o.fill(); err != nil {
			return err
		}
		p.begun = true
		return p.run(c.Context(), r)
	}
	return c
}

// unknownCommand is the error of a command that is not there: soracached takes no
// arguments by itself.
func unknownCommand(root *cobra.Command, name string) error {
	err := fmt.Errorf("unknown command %s", strconv.Quote(name))
	if similar := root.SuggestionsFor(name); len(similar) > 0 {
		err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(similar, " or "))
	}
	return err
}

// execute parses the arguments and runs the command that they name.
func (p *program) execute(ctx context.Context, args []string) error {
	for _, arg := range args {
		if !utf8.ValidString(arg) { // what is printed of it would be another name
			return usage(fmt.Errorf("the argument %q is not UTF-8", arg))
		}
	}
	p.root.SetArgs(args)
	called, err := p.root.ExecuteContextC(ctx)
	if err != nil && !p.begun {
		return usage(fmt.Errorf("%w (see %s --help)", err, called.CommandPath()))
	}
	return err
}

// helpWidth is how long a line of help may be.
const helpWidth = 118

// printUsage writes how a command is used, its options under their headings.
func printUsage(c *cobra.Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s\n", c.UseLine())
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				fmt.Fprintf(&b, "  %-*s  %s\n", c.NamePadding(), sub.Name(), sub.Short)
			}
		}
	}
	under := map[string]*pflag.FlagSet{}
	var headings []string
	place := func(f *pflag.Flag) {
		if !c.HasParent() && f.Annotations != nil {
			return // an option of serve
		}
		heading := note(f, noteHeading)
		if under[heading] == nil {
			headings = append(headings, heading)
			under[heading] = pflag.NewFlagSet(heading, pflag.ContinueOnError)
			under[heading].SortFlags = false
		}
		under[heading].AddFlag(f)
	}
	c.LocalFlags().VisitAll(place)
	c.InheritedFlags().VisitAll(place)
	for _, heading := range headings {
		title := heading
		if title == "" {
			title = "Options"
		}
		fmt.Fprintf(&b, "\n%s:\n%s", title, under[heading].FlagUsagesWrapped(helpWidth))
	}
	if !c.HasParent() {
		fmt.Fprintf(&b, "\nA command says more: %s serve --help\n", c.Name())
	}
	_, err := io.WriteString(c.OutOrStderr(), b.String())
	return err
}

// manCmd writes manual pages.
type manCmd struct {
	root *cobra.Command
	dir  string
}

func (c *manCmd) declare(o *options) { o.argument(&c.dir, "DIR") }

// Run writes a page for each command.
func (c *manCmd) Run(context.Context, *console) error {
	if c.dir == "" {
		return usage(errors.New("DIR is empty"))
	}
	c.root.DisableAutoGenTag = true
	return doc.GenManTree(c.root, &doc.GenManHeader{Section: "1", Source: "soracache"}, c.dir)
}
