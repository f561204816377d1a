package server

import (
	"context"
	"os"
	"slices"
	"time"
)

// fileState is what shows that a file was written or replaced.
type fileState struct {
	modified time.Time
	size     int64
}

// watchFiles reloads the tokens and the certificates whenever a file of theirs
// has changed, until the context ends.
func (s *Server) watchFiles(ctx context.Context) {
	names := s.fileNames()
	if len(names) == 0 || s.cfg.ReloadEvery < 0 {
		return
	}
	tick := time.NewTicker(s.cfg.ReloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := fileStates(names)
		if slices.Equal(s.files, now) {
			continue
		}
		s.files = now
		if err := s.Reload(); err != nil {
			s.log.Error("a file has changed and cannot be used; going on with what was in it before", "error", err)
			continue
		}
		s.log.Info("tokens and certificates reloaded")
	}
}

func (s *Server) fileNames() []string {
	names := s.cfg.TLS.names()
	if s.cfg.AuthTokens != "" {
		names = append(names, s.cfg.AuthTokens)
	}
	return names
}

// fileStates returns the state of each file; a file that cannot be read has
// the zero state.
func fileStates(names []string) []fileState {
	states := make([]fileState, len(names))
	for i, name := range names {
		if info, err := os.Stat(name); err == nil {
			states[i] = fileState{info.ModTime(), info.Size()}
		}
	}
	return states
}
