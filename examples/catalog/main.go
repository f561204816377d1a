// Command catalog is an HTTP application over a SQLite database of 100,000
// products that keeps the results of its queries in soracache.
//
// It is an example of how an application uses the client, and the project's own
// test that this works on a real database. catalog.go is the part to read: what
// is cached under which tags, and what an update invalidates. debts.go shows
// what an application owes to its cache when that was down during an update.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "catalog:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// options are the command line.
type options struct {
	listen, db, cache string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("catalog", flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` to serve on")
	flags.StringVar(&o.db, "db", "", "database `file`, created on first run (default: catalog.db in the user's cache folder)")
	flags.StringVar(&o.cache, "cache", "http://127.0.0.1:7070", "`URL` of soracached")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.db == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("no folder for the database, name one with --db: %w", err)
		}
		o.db = filepath.Join(dir, "soracache-catalog", "catalog.db")
	}
	return o, nil
}

// run serves until ctx ends, then finishes what is in flight.
func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	begun := time.Now()
	db, created, err := openDatabase(ctx, o.db)
	if err != nil {
		return err
	}
	defer func() { _ = db.close() }()
	if created {
		_, _ = fmt.Fprintf(out, "created %d products in %s in %s\n", catalogSize, o.db, time.Since(begun).Round(time.Millisecond))
	}
	a, err := newCatalog(ctx, db, o.cache, defaultPatience())
	if err != nil {
		return err
	}
	defer func() { _ = a.close() }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "catalog listens on http://%s with the cache at %s\n", listener.Addr(), o.cache)
	return serve(ctx, listener, a.handler())
}

// shutdownTimeout is how long requests in flight may take once the process was
// told to end. It is more than any request may take at all.
const shutdownTimeout = 10 * time.Second

// serve serves until ctx ends, and then until every request is answered.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return server.Shutdown(ending)
}
