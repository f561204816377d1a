// Package ratelog keeps what others can cause at will from filling the log: it
// says whether a line may be written now, and takes the place of loggers that
// write one for everything that happens.
package ratelog

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Limit lets one line through in a time. The zero value lets one through every
// ten seconds. It is safe for concurrent use.
type Limit struct {
	// Every is how long must pass between two lines: 10 s by default.
	Every time.Duration

	mu sync.Mutex
	// Guarded by mu: when the last line was let through, and how many were not
	// since then.
	last    time.Time
	omitted int
}

const defaultEvery = 10 * time.Second

// Allow says whether a line may be written now, and how many were left out
// before it.
func (l *Limit) Allow() (omitted int, ok bool) {
	every := l.Every
	if every == 0 {
		every = defaultEvery
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.last.IsZero() || now.Sub(l.last) >= every {
		omitted, l.omitted, l.last = l.omitted, 0, now
		return omitted, true
	}
	l.omitted++
	return 0, false
}

// Logger returns a standard logger, as libraries ask for, that writes to logger
// at a level, under a message of its own, and no more than one line in ten
// seconds.
func Logger(logger *slog.Logger, level slog.Level, message string) *log.Logger {
	return log.New(&writer{logger: logger, level: level, message: message}, "", 0)
}

type writer struct {
	logger  *slog.Logger
	level   slog.Level
	message string
	limit   Limit
}

// Write takes one line.
func (w *writer) Write(line []byte) (int, error) {
	if omitted, ok := w.limit.Allow(); ok {
		w.logger.Log(context.Background(), w.level, w.message, "what", strings.TrimSpace(string(line)), "omitted", omitted) //nolint:sloglint // the caller's constant
	}
	return len(line), nil
}
