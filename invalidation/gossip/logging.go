package gossip

import (
	"context"
	"log"
	"log/slog"
	"strings"
)

// logWriter takes memberlist's lines into slog.
type logWriter struct{ logger *slog.Logger }

func newLog(logger *slog.Logger) *log.Logger { return log.New(logWriter{logger}, "", 0) }

// Write takes one line, such as "[WARN] memberlist: Refuting a suspect message".
func (w logWriter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelDebug
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if name, message, ok := strings.Cut(rest, "] "); ok {
			level, text = levelOf(name), message
		}
	}
	w.logger.Log(context.Background(), level, "memberlist", "message", strings.TrimPrefix(text, "memberlist: "))
	return len(line), nil
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
