package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// repartitionCmd changes how many partitions a namespace has. It speaks to the
// store itself, with the options by which nodes reach it: which nodes run, and
// what they believe, plays no part.
type repartitionCmd struct {
	Config string

	Namespace  string
	Partitions int
	Patience   time.Duration

	storeOptions
}

func (c *repartitionCmd) declare(o *options) {
	o.text(&c.Config, "config", "", "FILE", "YAML file with options of this command")
	o.text(&c.Namespace, "namespace", "default", "TEXT", "The namespace")
	o.required().number(&c.Partitions, "partitions", "", "How many partitions it is to have")
	o.duration(&c.Patience, "patience", "5m", "How long to try while the store cannot be reached")
	c.storeOptions.declare(o.section("Store"))
}

// Run changes the number, and waits for as long as that takes.
func (c *repartitionCmd) Run(ctx context.Context, con *console) error {
	if err := l2.CheckPartitions(c.Namespace, c.Partitions); err != nil {
		return usage(err)
	}
	log := slog.New(slog.NewTextHandler(con.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	return errors.Join(c.change(ctx, con, store), store.Close())
}

func (c *repartitionCmd) change(ctx context.Context, con *console, store opened) error {
	told := false
	wait := func(left time.Duration) error {
		if !told {
			told = true
			if err := con.say("%s in %s is refused to all nodes until it has %d partitions, in %s.\nIf this command ends before, run it again.",
				c.Namespace, store.where, c.Partitions, left.Round(time.Second)); err != nil {
				return err
			}
		}
		return pause(ctx, left)
	}
	for tried := time.Now(); ; {
		err := l2.Repartition(ctx, store, c.Namespace, c.Partitions, wait)
		switch {
		case err == nil:
			return con.say("%s has %d partitions. Nodes that were told so serve it; the others refuse it until they are restarted with that number.", c.Namespace, c.Partitions)
		case !errors.Is(err, soracache.ErrUnavailable), ctx.Err() != nil, time.Since(tried) > c.Patience:
			if told {
				err = fmt.Errorf("%w (the change was begun: run this again)", err)
			}
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// pause lets time pass, or the context end.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
