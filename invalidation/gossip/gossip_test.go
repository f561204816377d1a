package gossip

import (
	"reflect"
	"testing"
	"time"

	"github.com/soracache/soracache/invalidation"
)

func TestEverybodyReceivesEveryNotice(t *testing.T) {
	const each = 300
	members := cluster(t, 5, nil)
	for i := range each {
		for k, m := range members {
			m.Publish(record(1 + i*len(members) + k))
		}
	}
	for _, m := range members {
		notices := m.until("all notices", func(n []invalidation.Notice) bool { return len(n) >= each*(len(members)-1) })
		seen := make(map[int]int)
		for _, n := range notices {
			seen[int(n.Record.Position)]++
			if want := record(int(n.Record.Position)); !reflect.DeepEqual(n, want) {
				t.Fatalf("received %+v, want %+v", n, want)
			}
		}
		if len(seen) != each*(len(members)-1) || len(notices) != len(seen) {
			t.Errorf("%s received %d notices of %d records, want %d of each once", m.Name(), len(notices), len(seen), each*4)
		}
	}
	for _, m := range members {
		s := m.Stats()
		if s.Published.Records != each || s.Sent.Records != each*4 || s.Received.Records != each*4 || s.PacketsFailed != 0 {
			t.Errorf("%s counted %+v", m.Name(), s)
		}
		t.Logf("%s sent %d notices in %d packets", m.Name(), s.Sent.Records, s.PacketsSent)
	}
}

func TestTell(t *testing.T) {
	members := cluster(t, 3, nil)
	applied := invalidation.Notice{Kind: invalidation.NoticeApplied, Namespace: "shop", Partition: 3, From: members[2].Name()}
	members[2].Tell(members[0].Name(), applied)
	members[2].Tell("nobody", applied)
	if got := members[0].until("what it is told", func(n []invalidation.Notice) bool { return len(n) > 0 })[0]; !reflect.DeepEqual(got, applied) {
		t.Errorf("told %+v, want %+v", got, applied)
	}
	// What comes after it to the third shows that it got nothing before.
	members[2].Publish(record(1))
	if got := members[1].until("a record", func(n []invalidation.Notice) bool { return len(n) > 0 })[0]; got.Kind != invalidation.NoticeRecord {
		t.Errorf("somebody else was told %+v", got)
	}
	if s := members[2].Stats(); s.Told.Applied != 2 || s.Sent.Applied != 1 || s.Dropped.Applied != 1 {
		t.Errorf("counted %+v", s)
	}
}

func TestMembersKnowEachOther(t *testing.T) {
	members := cluster(t, 3, func(c *Config) {
		c.Capabilities = 5
		if c.Name == "node-2" {
			c.Bound = 3 * time.Second
		}
	})
	for _, m := range members {
		for i, got := range m.Members() {
			want := Member{
				Name: members[i].Name(), Address: members[i].Address(), RPC: members[i].Name() + ":7070", Version: "v1.2.3",
				Capabilities: 5, Protocol: protocolVersion, State: StateAlive, Bound: time.Second, Self: got.Name == m.Name(),
				Since: got.Since, RTT: got.RTT,
			}
			if i == 2 {
				want.Bound = 3 * time.Second
			}
			if got != want {
				t.Errorf("%s knows\n%+v, want\n%+v", m.Name(), got, want)
			}
		}
		if m.Bound() != 3*time.Second {
			t.Errorf("the largest bound is %v", m.Bound())
		}
	}
}

func TestDrainAndLeave(t *testing.T) {
	members := cluster(t, 3, nil)
	if err := members[1].SetDraining(soon(t)); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		m.seesAs(members[1].Name(), StateDraining)
	}
	if err := members[1].Leave(soon(t)); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		m.seesAs(members[1].Name(), StateLeft)
	}
	if err := members[1].Leave(soon(t)); err != nil {
		t.Error("leaving twice:", err)
	}
	if err := members[1].Close(); err != nil {
		t.Error(err)
	}
	if err := members[1].Leave(soon(t)); err != nil {
		t.Error("leaving after the end:", err)
	}
	// Without draining first.
	if err := members[2].Leave(soon(t)); err != nil {
		t.Fatal(err)
	}
	members[0].seesAs(members[2].Name(), StateLeft)
	members[1].Publish(record(1)) // to nobody, and without harm
	if err := members[1].SetDraining(soon(t)); err == nil {
		t.Error("it drains after its end")
	}
}
