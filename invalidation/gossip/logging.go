package gossip

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logLines is how many lines of memberlist a second go into the log. It writes
// one for every packet that it cannot read, and anybody may send those.
const logLines = 20

// logWriter takes memberlist's lines into slog.
type logWriter struct {
	logger *slog.Logger
	now    func() time.Time

	mu sync.Mutex
	// Guarded by mu: the second that is counted, what was written in it, and
	// what was left out since something was.
	second  time.Time
	written int
	omitted int
}

func newLog(logger *slog.Logger) *log.Logger {
	return log.New(&logWriter{logger: logger, now: time.Now}, "", 0)
}

// Write takes one line, such as "[WARN] memberlist: Refuting a suspect message".
func (w *logWriter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelDebug
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if name, message, ok := strings.Cut(rest, "] "); ok {
			level, text = levelOf(name), message
		}
	}
	ctx := context.Background()
	if !w.logger.Enabled(ctx, level) {
		return len(line), nil
	}
	omitted, ok := w.admit()
	if !ok {
		return len(line), nil
	}
	args := []any{"message", strings.TrimPrefix(text, "memberlist: ")}
	if omitted > 0 {
		args = append(args, "omitted", omitted)
	}
	w.logger.Log(ctx, level, "memberlist", args...)
	return len(line), nil
}

// admit says whether a line may be written, and how many were not before it.
func (w *logWriter) admit() (omitted int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if second := w.now().Truncate(time.Second); !second.Equal(w.second) {
		w.second, w.written = second, 0
	}
	if w.written == logLines {
		w.omitted++
		return 0, false
	}
	w.written++
	omitted, w.omitted = w.omitted, 0
	return omitted, true
}

// levelOf is one lower than memberlist's: what it calls errors, such as a
// packet that it cannot read or a member that does not answer, are things that
// happen.
func levelOf(name string) slog.Level {
	switch name {
	case "ERR", "ERROR":
		return slog.LevelWarn
	case "WARN":
		return slog.LevelInfo
	}
	return slog.LevelDebug
}
