package gossip

import (
	"net"
	"testing"
	"time"
)

// Who drains still serves what it has, and who is held to be dead may: only who
// says that it leaves need not be asked any more.
func TestOnlyWhoSaysThatItLeavesHasLeft(t *testing.T) {
	r := NewRoster("self", time.Second, time.Now)
	at := net.IPv4(10, 0, 0, 2)
	r.Meet("other", at, 3*time.Second, StateAlive)
	want := func(when string, left bool) {
		t.Helper()
		if r.Left("other") != left {
			t.Errorf("%s: left %t", when, !left)
		}
	}
	want("met", false)
	if err := r.Hear("other", StateDraining); err != nil {
		t.Fatal(err)
	}
	want("draining", false)
	r.Lose("other")
	want("drained and gone", false)
	r.Meet("other", at, 3*time.Second, StateDraining)
	want("there again", false)
	if got := r.Bound(); got != 3*time.Second {
		t.Errorf("the longest bound is %v", got)
	}
	if err := r.Hear("other", StateLeft); err != nil {
		t.Fatal(err)
	}
	want("leaving", true)
}
