// Command outbox is a shop of twenty products with their prices in SQLite and in
// soracache. Whoever changes a price, and whatever crashes at which moment, the
// cache does not go on serving the old one.
//
// shop.go is the part to read.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	db := flag.String("db", "shop.db", "database `file`, created on first run")
	cache := flag.String("cache", "http://127.0.0.1:7070", "`URL` of soracached")
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	flag.Parse()
	if err := run(ctx, *db, *cache, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "outbox:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// run serves until ctx ends.
func run(ctx context.Context, db, cache, listen string) error {
	s, err := openShop(ctx, db, cache)
	if err != nil {
		return err
	}
	defer func() { _ = s.close() }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("the shop is on http://%s/prices/1\n", listener.Addr())

	// The relay runs as long as the application does.
	var relay sync.WaitGroup
	relay.Go(func() { s.box.Run(ctx) })
	defer relay.Wait()

	server := &http.Server{Handler: handler(s), ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// handler answers GET /prices/{id} and PUT /prices/{id}?cents=N.
func handler(s *shop) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /prices/{id}", func(w http.ResponseWriter, r *http.Request) {
		cents, err := s.price(r.Context(), r.PathValue("id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintln(w, cents) //nolint:gosec // a number
	})
	mux.HandleFunc("PUT /prices/{id}", func(w http.ResponseWriter, r *http.Request) {
		cents, err := strconv.ParseInt(r.FormValue("cents"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		told, err := s.setPrice(r.Context(), r.PathValue("id"), cents)
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case !told:
			// The change is committed, and its invalidation is too: the relay
			// carries it out as soon as the cache can be reached.
			w.WriteHeader(http.StatusAccepted)
		}
	})
	return mux
}
