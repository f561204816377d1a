package gossip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

var update = flag.Bool("update", false, "rewrite golden bytes, only for a format that was never released, and tables in docs")

func golden(t testing.TB, file, title string, samples map[string][]byte) map[string][]byte {
	t.Helper()
	if *update {
		var b strings.Builder
		b.WriteString("# " + title + ": a name and the bytes. They never change.\n")
		for _, name := range slices.Sorted(maps.Keys(samples)) {
			fmt.Fprintf(&b, "%s %x\n", name, samples[name])
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	read := make(map[string][]byte)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, digits, ok := strings.Cut(lines.Text(), " ")
		if !ok || name == "#" {
			continue
		}
		if read[name], err = hex.DecodeString(digits); err != nil {
			t.Fatal(err)
		}
	}
	if len(read) != len(samples) {
		t.Errorf("%d golden samples in %s, want %d", len(read), file, len(samples))
	}
	for name, want := range samples {
		if !bytes.Equal(want, read[name]) {
			t.Errorf("%s is written as\n%x, want\n%x", name, want, read[name])
		}
	}
	return read
}

// noticesPacket is a packet as Spread packs it.
func noticesPacket(entries ...entry) []byte {
	b := beginPacket(nil, packetNotices)
	for i := range entries {
		entries[i].raw = invalidation.AppendNotice(nil, &entries[i].notice)
		b = appendEntry(b, &entries[i])
	}
	return sealPacket(b)
}

func samplePackets() map[string][]byte {
	applied := invalidation.Notice{
		Kind: invalidation.NoticeApplied, Namespace: "shop", Partition: 3,
		Stamp: soracache.Stamp{Epoch: 77, Position: 5}, From: "node-1:7070-3f9a2c01",
	}
	return map[string][]byte{
		"direct":  noticesPacket(entry{notice: record(1)}, entry{notice: applied}),
		"onwards": noticesPacket(entry{hops: 9, id: 0x1122334455667788, notice: record(2)}, entry{notice: record(3)}),
		"empty":   noticesPacket(),
		"status":  statusPacket("node-1:7070-3f9a2c01", draining),
	}
}

func goldenPackets(t testing.TB) map[string][]byte {
	return golden(t, "testdata/packet-v1.txt", "Packets between members, version 1", samplePackets())
}

func TestPacketGolden(t *testing.T) {
	read := goldenPackets(t)
	p, err := decodePacket(read["onwards"])
	if err != nil || len(p.entries) != 2 {
		t.Fatal(p, err)
	}
	if e := p.entries[0]; e.hops != 9 || e.id != 0x1122334455667788 || !reflect.DeepEqual(e.notice, record(2)) {
		t.Errorf("read as %+v", e)
	}
	if e := p.entries[1]; e.hops != 0 || e.id != 0 || !reflect.DeepEqual(e.notice, record(3)) {
		t.Errorf("read as %+v", e)
	}
	if p, err := decodePacket(read["status"]); err != nil || p.status != draining || p.name != "node-1:7070-3f9a2c01" {
		t.Errorf("read as %+v, %v", p, err)
	}
}

// TestDamagedPackets: a packet of which any bit is another is ignored, because
// a record with wrong targets would be applied.
func TestDamagedPackets(t *testing.T) {
	for name, b := range samplePackets() {
		for bit := range 8 * len(b) {
			damaged := bytes.Clone(b)
			damaged[bit/8] ^= 1 << (bit % 8)
			if p, err := decodePacket(damaged); err == nil {
				t.Fatalf("with bit %d changed, %s is read as %+v", bit, name, p)
			}
		}
		for size := range len(b) {
			if p, err := decodePacket(b[:size]); err == nil {
				t.Fatalf("%d of %d bytes of %s are read as %+v", size, len(b), name, p)
			}
		}
	}
}

// reseal makes a packet valid whose contents were changed.
func reseal(b []byte) []byte { return sealPacket(bytes.Clone(b)) }

func TestPacketsOfOtherVersions(t *testing.T) {
	for what, change := range map[string]func([]byte){
		"another version": func(b []byte) { b[0] = protocolVersion + 1 },
		"another kind":    func(b []byte) { b[1] = 99 },
	} {
		b := samplePackets()["direct"]
		change(b)
		s := NewSpread(SpreadConfig{Transport: silence{}})
		if got := s.Receive(reseal(b)); got != nil {
			t.Errorf("of %s, %v was delivered", what, got)
		}
		if got := s.Stats(); got.PacketsReceived != 1 || got.PacketsUnknown != 1 || got.PacketsMalformed != 0 {
			t.Errorf("of %s: counted %+v", what, got)
		}
	}
	s := NewSpread(SpreadConfig{Transport: silence{}})
	s.Receive([]byte{protocolVersion, 0})
	if got := s.Stats(); got.PacketsMalformed != 1 || got.PacketsUnknown != 0 {
		t.Errorf("counted %+v", got)
	}
}

// silence is a transport to nobody.
type silence struct{}

func (silence) Peers() []string           { return nil }
func (silence) Send(string, []byte) error { return errUnknownMember }

// FuzzDecodePacket: what can be read can be written, and is read as the same.
func FuzzDecodePacket(f *testing.F) {
	for _, b := range goldenPackets(f) {
		f.Add(b[:2], b[packetHeader:])
	}
	f.Fuzz(func(t *testing.T, head, body []byte) {
		if len(head) < 2 {
			_, _ = decodePacket(head)
			return
		}
		// The checksum is made right, or no input would come past it.
		b := sealPacket(append([]byte{head[0], head[1], 0, 0, 0, 0}, body...))
		p, err := decodePacket(b)
		if err != nil {
			if !errors.Is(err, errPacket) && !errors.Is(err, errPacketVersion) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		switch p.kind {
		case packetNotices:
			again := beginPacket(nil, packetNotices)
			for i := range p.entries {
				again = appendEntry(again, &p.entries[i])
			}
			if !bytes.Equal(sealPacket(again), b) {
				t.Fatalf("%x is passed on as %x", b, again)
			}
		case packetStatus:
			if again, err := decodePacket(statusPacket(p.name, p.status)); err != nil || again.name != p.name || again.status != p.status {
				t.Fatalf("%+v is read again as %+v, %v", p, again, err)
			}
		}
	})
}

func sampleMetas() map[string]meta {
	return map[string]meta{
		"serving": {
			Protocol: 1, Capabilities: 5, Bound: time.Second, RPC: "10.0.0.1:7070", Version: "v1.2.3",
		},
		"draining": {
			Status: draining, Protocol: 2, Capabilities: 1 << 63, Bound: 1500 * time.Microsecond, RPC: "[2001:db8::1]:7070", Version: "v0.0.0-dirty",
		},
		"nothing": {},
		"largest": {
			Status: 255, Protocol: 255, Capabilities: 1<<64 - 1, Bound: 24 * time.Hour,
			RPC: strings.Repeat("r", 255), Version: strings.Repeat("v", maxVersion),
		},
	}
}

func goldenMetas(t testing.TB) map[string][]byte {
	encoded := make(map[string][]byte)
	for name, m := range sampleMetas() {
		encoded[name] = m.encode()
	}
	return golden(t, "testdata/meta-v1.txt", "Metadata of members, version 1", encoded)
}

func TestMetaGolden(t *testing.T) {
	for name, b := range goldenMetas(t) {
		want := sampleMetas()[name]
		if want.Bound > maxBound {
			want.Bound = 0 // is not heard
		}
		for _, tail := range [][]byte{nil, {1, 2, 3}} { // of a later version
			if got, err := decodeMeta(append(bytes.Clone(b), tail...)); err != nil || got != want {
				t.Errorf("%s with %x is read as %+v, %v; want %+v", name, tail, got, err, want)
			}
		}
		for size := range len(b) {
			if got, err := decodeMeta(b[:size]); err == nil {
				t.Errorf("%d of %d bytes of %s are read as %+v", size, len(b), name, got)
			}
		}
		if len(b) > 512 {
			t.Errorf("%s has %d bytes, more than memberlist takes", name, len(b))
		}
	}
	if _, err := decodeMeta([]byte{protocolVersion + 1, 0, 0, 0, 0, 0, 0}); !errors.Is(err, errMeta) {
		t.Errorf("of another version: %v", err)
	}
	long := meta{Version: strings.Repeat("v", 300)}
	if got, err := decodeMeta(long.encode()); err != nil || got.Version != long.Version[:maxVersion] {
		t.Errorf("a long version is read as %q, %v", got.Version, err)
	}
	huge := binary.AppendUvarint([]byte{protocolVersion, 0, 0, 0}, 1<<63)
	if got, err := decodeMeta(append(huge, 0, 0)); err != nil || got.Bound != 0 {
		t.Errorf("a bound beyond belief is read as %v, %v", got.Bound, err)
	}
}

func FuzzDecodeMeta(f *testing.F) {
	for _, b := range goldenMetas(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		m.Version = strings.ToValidUTF8(m.Version[:min(len(m.Version), maxVersion)], "")
		if again, err := decodeMeta(m.encode()); err != nil || again != m {
			t.Fatalf("%+v is read again as %+v, %v", m, again, err)
		}
	})
}
