package l1

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/soracache/soracache/internal/racetest"
)

// fillingVar tells a child process of this test binary which of fillings to do.
const fillingVar = "SORACACHE_L1_FILLING"

// node is like what a cache node keeps: many small fields, a few strings, and
// the value.
type node struct {
	value                 []byte
	tags                  []string
	slots                 []uint32
	stamp                 [2]uint64
	mark                  uint64
	freshUntil, keepUntil int64
	encoding, etag        string
}

func (n *node) bytes() int {
	size := Footprint(int(unsafe.Sizeof(*n))) + Footprint(cap(n.value)) + Footprint(len(n.etag)) +
		Footprint(cap(n.tags)*int(unsafe.Sizeof(""))) + Footprint(cap(n.slots)*4)
	for _, tag := range n.tags {
		size += Footprint(len(tag))
	}
	return size
}

func newNode(i, size int) *node {
	n := &node{
		stamp: [2]uint64{1, uint64(i)}, mark: uint64(i), freshUntil: int64(i), keepUntil: int64(2 * i),
		value:    make([]byte, size),
		tags:     []string{"products", fmt.Sprintf("product:%d", i)},
		slots:    []uint32{uint32(i), uint32(i + 1), uint32(i + 2)},
		encoding: "json",
		etag:     fmt.Sprintf("%016x", i),
	}
	n.tags[0] = strings.Clone(n.tags[0]) // as decoded from bytes
	for j := 0; j < size; j += 512 {
		n.value[j] = byte(j) // touched, so that it is resident
	}
	return n
}

// filling is what a child process does: put values of one size after another,
// each until the cache has been filled by bytes several times over.
type filling struct {
	Name     string
	MaxBytes int64
	Sizes    []int
	Times    float64
	// Bounded says that the resident memory is promised. After a change of
	// sizes it is not: what small values leave free between others serves no
	// large one, until the collector has freed whole spans.
	Bounded bool
}

func fillings(small bool) []filling {
	limit := int64(256 << 20)
	if small {
		limit = 16 << 20
	}
	return []filling{
		{"100 B", limit, []int{100}, 1.6, true},
		{"10 KiB", limit, []int{10 << 10}, 4, true},
		{"100 B then 10 KiB", limit / 4, []int{100, 10 << 10}, 3, false},
	}
}

// report is what a child process tells at its end.
type report struct {
	Stats    Stats
	Live     int64 // heap after a collection
	Resident int64 // the most the process ever had in memory
}

// TestResidentMemory fills caches in processes of their own, collected as by
// default, and looks at the most memory that each ever took.
func TestResidentMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc/self/status")
	}
	t.Logf("%-18s %9s %9s %9s %9s %9s %6s", "values of", "entries", "cost MiB", "idle MiB", "heap MiB", "RSS MiB", "ratio")
	for i, f := range fillings(racetest.Enabled) {
		r := runFilling(t, i)
		const mib = 1 << 20
		t.Logf("%-18s %9d %9.1f %9.1f %9.1f %9.1f %6.2f", f.Name, r.Stats.Entries, float64(r.Stats.Bytes)/mib,
			float64(r.Stats.Idle)/mib, float64(r.Live)/mib, float64(r.Resident)/mib, float64(r.Resident)/float64(f.MaxBytes))
		if r.Stats.Bytes+r.Stats.Idle < uint64(f.MaxBytes)*9/10 {
			t.Errorf("%s: the cache is not full: %+v", f.Name, r.Stats)
		}
		if racetest.Enabled {
			continue // its shadow memory counts too
		}
		if r.Live > f.MaxBytes+8*mib {
			t.Errorf("%s: %d bytes live, of at most %d", f.Name, r.Live, f.MaxBytes)
		}
		if f.Bounded && r.Resident >= 2*f.MaxBytes+64*mib {
			t.Errorf("%s: %d bytes resident: not under twice the limit plus 64 MiB", f.Name, r.Resident)
		}
	}
}

// runFilling re-executes this test binary for one filling.
func runFilling(t *testing.T, i int) (r report) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fillingVar+"="+strconv.Itoa(i), "GOGC=", "GOMEMLIMIT=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		t.Fatalf("filling %d: %v\n%s", i, err, stderr.String())
	}
	return r
}

func fillAndReport(w io.Writer, which string) error {
	i, err := strconv.Atoi(which)
	if err != nil {
		return err
	}
	f := fillings(racetest.Enabled)[i]
	c, err := New(Config[*node]{MaxBytes: f.MaxBytes, Size: (*node).bytes})
	if err != nil {
		return err
	}
	defer c.Close()
	next := 0
	for _, size := range f.Sizes {
		next = fill(c, next, size, f.Times)
	}
	r := report{Stats: c.Stats(), Live: liveHeap()}
	if r.Resident, err = peakResident(); err != nil {
		return err
	}
	runtime.KeepAlive(c)
	return json.NewEncoder(w).Encode(r)
}

// fill puts new keys of values of one size until their cost is so many times
// the limit, in batches like those of a node's reads, and returns the key after
// the last.
func fill(c *Cache[*node], first, size int, times float64) (next int) {
	items := make([]Item[*node], 16)
	for put := int64(0); float64(put) < times*float64(c.limit); {
		for i := range items {
			n := newNode(first, size)
			items[i] = Item[*node]{name(first), n}
			put += c.overhead + int64(n.bytes())
			first++
		}
		c.PutMany(items)
	}
	return first
}

func peakResident() (int64, error) {
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		var kib int64
		if _, err := fmt.Sscanf(lines.Text(), "VmHWM: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("no VmHWM in %s", status.Name())
}
