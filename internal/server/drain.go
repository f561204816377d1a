package server

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// finishGrace is how long requests in flight are left alone before the
	// node drains. It is for those that do something; those that are parked
	// would use up any grace.
	finishGrace = 250 * time.Millisecond
	// cutOffGrace is how long handlers may take to return once their
	// connections have been closed under them.
	cutOffGrace = time.Second
)

// drain ends the service in the order that loses nobody's request:
//
//  1. readiness goes off, the other nodes are told, and for the delay all goes
//     on as before, so that load balancers take notice;
//  2. the gate shuts, the streams end and the listener closes: whoever still
//     comes is told to go elsewhere, while what is in flight is finished;
//  3. what is not finished shortly is parked behind somebody's lease: the node
//     ends those waits with a miss, and hands back its leases;
//  4. at the deadline, what is left is cut off.
//
// It returns once no handler runs any more.
func (s *Server) drain(delay time.Duration) error {
	s.draining.Store(true)
	if s.hooks.Draining != nil {
		s.hooks.Draining()
	}
	s.log.Info("draining", "delay", delay, "timeout", s.cfg.DrainTimeout)
	time.Sleep(delay)

	s.gate.hold.Shut()
	s.streams.end()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.DrainTimeout)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- s.drainNode(ctx) }()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.cutOff()
	}
	if err = errors.Join(err, <-drained); err == nil {
		s.log.Info("drained")
	}
	return err
}

func (s *Server) drainNode(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, finishGrace)
	defer cancel()
	s.gate.wait(grace)
	if err := s.node.Drain(ctx); err != nil {
		return fmt.Errorf("draining the node: %w", err)
	}
	return nil
}

// cutOff closes every connection, which ends the contexts of the handlers, and
// waits for them a little.
func (s *Server) cutOff() error {
	left := int64(s.gate.working()) + s.gate.parked.Load() + int64(s.streams.count())
	_ = s.http.Close()
	ctx, cancel := context.WithTimeout(context.Background(), cutOffGrace)
	defer cancel()
	s.gate.wait(ctx)
	_ = s.streams.hold.Wait(ctx)
	if left == 0 {
		return nil
	}
	return fmt.Errorf("the drain ran out of time: %d requests were cut off", left)
}
