package gossip

import (
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// Roster is what one member knows of the others, by itself: for simulations that
// carry between members what these hear of each other. All of it goes the way
// that it goes in a cluster, by its encodings.
type Roster struct{ table *table }

// NewRoster returns the roster of a member that has met nobody but itself, whose
// bound is this. A time is asked of now.
func NewRoster(self string, bound time.Duration, now func() time.Time) *Roster {
	r := &Roster{table: newTable(self, now)}
	r.Meet(self, net.IPv4(127, 0, 0, 1), bound, StateAlive)
	return r
}

// Meet tells of a member at an address, which is there, has this bound, and says
// of itself that it drains or leaves, or nothing of the kind.
func (r *Roster) Meet(name string, at net.IP, bound time.Duration, says State) {
	r.table.NotifyJoin(&memberlist.Node{
		Name: name, Addr: at, Meta: meta{Status: statusOf(says), Protocol: protocolVersion, Bound: bound}.encode(),
	})
}

// Hear takes in what a member says of itself.
func (r *Roster) Hear(name string, says State) error {
	p, err := decodePacket(statusPacket(name, statusOf(says)))
	if err != nil {
		return err
	}
	r.table.said(p.name, p.status)
	return nil
}

// Lose tells of a member that is not there any more, as far as others know.
func (r *Roster) Lose(name string) { r.table.NotifyLeave(&memberlist.Node{Name: name}) }

// Left is [Gossip.Left].
func (r *Roster) Left(name string) bool { return r.table.left(name) }

// Bound is [Gossip.Bound].
func (r *Roster) Bound() time.Duration { return r.table.bound() }

// Peers are those that notices are sent to which are for everybody.
func (r *Roster) Peers() []string { return r.table.peers().names }

// Reaches tells whether a notice can be sent to one member.
func (r *Roster) Reaches(name string) bool { return r.table.node(name) != nil }

func statusOf(s State) status {
	switch s {
	case StateDraining:
		return draining
	case StateLeft:
		return leaving
	case StateAlive, StateSuspect, StateDead:
	}
	return 0
}
