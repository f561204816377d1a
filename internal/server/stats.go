package server

import "github.com/soracache/soracache/internal/budget"

// Stats are the numbers of a server: what it holds now, and running totals of
// what it has refused for a limit's sake.
type Stats struct {
	Budget budget.Stats
	// Working are the requests that hold a place of MaxConcurrent, and Parked the
	// reads that wait for leases and hold none.
	Working, Parked int64
	// Refused came over MaxConcurrent, and ParkedRefused over MaxParked.
	Refused, ParkedRefused uint64
	Connections            int
	// ConnectionsClosed had to go because there were too many.
	ConnectionsClosed uint64
	Watches           int
	WatchesRefused    uint64
	// ScrapesRefused asked for metrics while others were being answered.
	ScrapesRefused uint64
	// QuestionsRefused asked for listings, explanations or totals while others were
	// being answered.
	QuestionsRefused uint64
	// HeadsEnded are connections that were closed because too much was there of
	// headers that do not end.
	HeadsEnded uint64
	// HealthChecksEnded and ReflectionsEnded had to go, or were refused, because there
	// were too many.
	HealthChecksEnded, ReflectionsEnded uint64
	// RefusalsEnded did not take in that they were refused, while others waited to.
	RefusalsEnded uint64
}

// Stats returns the numbers of now.
func (s *Server) Stats() Stats {
	return Stats{
		Budget:  s.budget.Stats(),
		Working: int64(s.gate.working()), Refused: s.gate.refused.Load(),
		Parked: s.gate.parked.Load(), ParkedRefused: s.gate.parkRefused.Load(),
		Connections:       s.connections.count() + s.adminConnections.count(),
		ConnectionsClosed: s.connections.refused.Load() + s.adminConnections.refused.Load(),
		Watches:           s.streams.places(), WatchesRefused: s.streams.refused.Load(),
		HeadsEnded:        s.heads.ended.Load(),
		QuestionsRefused:  s.questions.refused.Load(),
		ScrapesRefused:    s.scrapes.refused.Load(),
		HealthChecksEnded: s.healthChecks.ended.Load(), ReflectionsEnded: s.reflections.ended.Load(),
		RefusalsEnded: s.refusals.ended.Load(),
	}
}
