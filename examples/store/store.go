package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
)

// logName is the file, in the store's folder, with a line for each invalidation.
const logName = "invalidations.jsonl"

// Scheme is how programs are told of the store: its URLs are audit:DIR.
func Scheme() l2.Scheme {
	return l2.Scheme{
		Name: "audit",
		Open: func(_ context.Context, url string, o l2.OpenOptions) (l2.Store, error) {
			dir := strings.TrimPrefix(url, "audit:")
			if dir == "" {
				return nil, fmt.Errorf("%w: %s names no folder", soracache.ErrInvalid, url)
			}
			return open(embedded.Config{Dir: dir, Logger: o.Logger})
		},
	}
}

// audited is an embedded store that keeps a log of what was invalidated, and when. All
// but invalidations goes to the embedded store as it is.
type audited struct {
	l2.Store
	log *slog.Logger

	mu   sync.Mutex
	file io.WriteCloser // guarded by mu
}

func open(cfg embedded.Config) (l2.Store, error) {
	inner, err := embedded.Open(cfg)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(cfg.Dir, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(l2.Unavailable(err, "the log of invalidations cannot be opened"), inner.Close())
	}
	return &audited{Store: inner, log: cfg.Logger, file: file}, nil
}

// line is what is logged of an invalidation.
type line struct {
	Time      time.Time `json:"time"`
	Namespace string    `json:"namespace"`
	Partition uint16    `json:"partition"`
	Targets   []string  `json:"targets"`
}

// Invalidate logs what has been invalidated. That it cannot be logged does not make it
// fail: it has happened.
func (a *audited) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	answers := a.Store.Invalidate(ctx, reqs)
	for i, answer := range answers {
		if answer.Err != nil {
			continue
		}
		if err := a.note(reqs[i].Partition, answer.Record); err != nil && a.log != nil {
			a.log.Error("an invalidation is not in the log", "partition", reqs[i].Partition, "error", err)
		}
	}
	return answers
}

func (a *audited) note(at l2.Partition, r soracache.Record) error {
	// Positions are microseconds of the store's clock.
	l := line{Time: time.UnixMicro(int64(r.Position)).UTC(), Namespace: at.Namespace, Partition: at.Index} //nolint:gosec // times
	for _, target := range r.Targets {
		l.Targets = append(l.Targets, target.String())
	}
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err = a.file.Write(append(text, '\n'))
	return err
}

// Close closes the log after the store: nothing comes any more.
func (a *audited) Close() error {
	err := a.Store.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(err, a.file.Close())
}
