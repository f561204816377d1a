package embedded

import (
	"time"

	"github.com/soracache/soracache/invalidation/gossip"
)

// Member is a node of the cluster, as this one knows it by gossip.
type Member struct {
	// Name is what the node is called, with something that tells this life of it from
	// others.
	Name string
	// Address is where it hears others: host:port.
	Address string
	// RPC is the URL by which clients reach it: empty for a node in an application.
	RPC string
	// Version is that of its program.
	Version string
	State   MemberState
	// Since is when it came to be in that state, as far as this node knows.
	Since time.Time
	// Bound is the longest that it trusts its memory without confirmation; zero: not
	// known.
	Bound time.Duration
	// Self marks this node.
	Self bool
}

// MemberState is what is known of a member. A node of a later version may have others
// than these.
type MemberState string

// The states of a member.
const (
	// MemberAlive answers.
	MemberAlive MemberState = "alive"
	// MemberSuspect did not answer, and is given a little time.
	MemberSuspect MemberState = "suspect"
	// MemberDead does not answer, which does not prove that it serves nobody.
	MemberDead MemberState = "dead"
	// MemberLeft has said that it leaves.
	MemberLeft MemberState = "left"
	// MemberDraining finishes what it has begun.
	MemberDraining MemberState = "draining"
)

// Members returns the nodes that this one knows of by gossip, itself among them:
// none without gossip.
func (n *Node) Members() []Member {
	if n.member == nil {
		return nil
	}
	known := n.member.Members()
	members := make([]Member, len(known))
	for i, m := range known {
		members[i] = Member{
			Name: m.Name, Address: m.Address, RPC: m.RPC, Version: m.Version, State: memberState(m.State),
			Since: m.Since, Bound: m.Bound, Self: m.Self,
		}
	}
	return members
}

func memberState(s gossip.State) MemberState {
	switch s {
	case gossip.StateAlive:
		return MemberAlive
	case gossip.StateSuspect:
		return MemberSuspect
	case gossip.StateDead:
		return MemberDead
	case gossip.StateLeft:
		return MemberLeft
	case gossip.StateDraining:
		return MemberDraining
	}
	return MemberState(s) // of a later version
}
