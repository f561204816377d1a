package compress_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/compress"
	"github.com/soracache/soracache/client/encrypt"
	"github.com/soracache/soracache/client/internal/fake"
	"github.com/soracache/soracache/internal/racetest"
)

type product struct {
	ID   int
	Name string
}

// random are bytes that cannot be made smaller.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// marshal encodes, or ends the test.
func marshal(t testing.TB, c client.Codec, value any) []byte {
	t.Helper()
	data, err := c.Marshal(value)
	if err != nil {
		t.Fatalf("%s: %v", c.Name(), err)
	}
	return data
}

// roundTrip encodes a value and decodes it again, and returns what was stored.
func roundTrip[T any](t *testing.T, c client.Codec, value T, same func(a, b T) bool) []byte {
	t.Helper()
	data := marshal(t, c, value)
	stored := bytes.Clone(data)
	var back T
	if err := c.Unmarshal(data, &back); err != nil || !same(back, value) {
		t.Errorf("%s: a %T comes back otherwise: %v", c.Name(), value, err)
	}
	if !bytes.Equal(data, stored) {
		t.Errorf("%s: decoding changed the data", c.Name())
	}
	return stored
}

func equal[T comparable](a, b T) bool { return a == b }

func TestEveryCodecIsWrapped(t *testing.T) {
	long := strings.Repeat("a lamp, ", 1000)
	for name, stored := range map[string][]byte{
		"json+zstd": roundTrip(t, compress.Zstd(client.JSON{}, compress.Options{}), product{7, long}, equal),
		"raw+zstd":  roundTrip(t, compress.Zstd(client.Raw{}, compress.Options{}), []byte(long), bytes.Equal),
		"proto+zstd": roundTrip(t, compress.Zstd(client.Proto{}, compress.Options{}), wrapperspb.String(long),
			func(a, b *wrapperspb.StringValue) bool { return proto.Equal(a, b) }),
		"gob+zstd":      roundTrip(t, compress.Zstd(gobCodec{}, compress.Options{}), product{7, long}, equal),
		"raw+zstd+zstd": roundTrip(t, compress.Zstd(compress.Zstd(client.Raw{}, compress.Options{}), compress.Options{}), long, equal),
	} {
		if len(stored) > len(long)/10 {
			t.Errorf("%s: %d bytes are stored as %d", name, len(long), len(stored))
		}
	}
	for _, c := range []client.Codec{client.JSON{}, client.Raw{}, client.Proto{}, gobCodec{}} {
		if got := compress.Zstd(c, compress.Options{}).Name(); got != c.Name()+"+zstd" {
			t.Errorf("named %q", got)
		}
	}
}

// What is small, or does not become smaller, is stored as it is, behind a byte that
// says so.
func TestStoredAsItIs(t *testing.T) {
	for _, tt := range []struct {
		name  string
		value []byte
		min   int
		plain bool
	}{
		{"empty", nil, 0, true},
		{"empty, and all are to be compressed", nil, 1, true},
		{"one byte", []byte("a"), 1, true},
		{"below the default", bytes.Repeat([]byte("a"), compress.DefaultMinBytes-1), 0, true},
		{"at the default", bytes.Repeat([]byte("a"), compress.DefaultMinBytes), 0, false},
		{"below the size given", bytes.Repeat([]byte("a"), 99), 100, true},
		{"at the size given", bytes.Repeat([]byte("a"), 100), 100, false},
		{"a size that there is not", bytes.Repeat([]byte("a"), compress.DefaultMinBytes-1), -1, true},
		{"cannot be made smaller", random(100 << 10), 0, true},
		{"large", bytes.Repeat(random(1000), 5000), 0, false},
	} {
		c := compress.Zstd(client.Raw{}, compress.Options{MinBytes: tt.min})
		stored := roundTrip(t, c, tt.value, bytes.Equal)
		if asItIs := bytes.Equal(stored, append([]byte{0}, tt.value...)); asItIs != tt.plain {
			t.Errorf("%s: as it is: %t (%d bytes of %d)", tt.name, asItIs, len(stored), len(tt.value))
		}
		if !tt.plain && (stored[0] != 1 || len(stored) >= len(tt.value)) {
			t.Errorf("%s: %d bytes are stored as %d, and the first is %d", tt.name, len(tt.value), len(stored), stored[0])
		}
	}
}

// What earlier versions have stored is read for ever.
func TestGolden(t *testing.T) {
	want := strings.Repeat("a lamp, ", 200)
	for _, stored := range []string{
		"00" + hex.EncodeToString([]byte(want)),
		goldenFrame,
	} {
		data, err := hex.DecodeString(stored)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := compress.Zstd(client.Raw{}, compress.Options{}).Unmarshal(data, &got); got != want || err != nil {
			t.Errorf("%.40s…: %.20q, %v", stored, got, err)
		}
	}
}

const goldenFrame = "0128b52ffd6440058500004061206c616d702c20015408032e352e6d1b6f8f"

// A codec refuses to store what it would refuse to read.
func TestMaxBytes(t *testing.T) {
	for _, tt := range []struct{ given, most int }{{0, 8 << 20}, {5000, 5000}, {-1, 8 << 20}} {
		c := compress.Zstd(client.Raw{}, compress.Options{MaxBytes: tt.given})
		roundTrip(t, c, bytes.Repeat([]byte("a"), tt.most), bytes.Equal)
		roundTrip(t, c, random(tt.most), bytes.Equal)
		for _, tooLarge := range [][]byte{bytes.Repeat([]byte("a"), tt.most+1), random(tt.most + 1)} {
			if _, err := c.Marshal(tooLarge); !errors.Is(err, soracache.ErrTooLarge) {
				t.Errorf("at most %d: %d bytes: %v", tt.given, len(tooLarge), err)
			}
		}
		larger := compress.Zstd(client.Raw{}, compress.Options{MaxBytes: 2 * tt.most})
		data := marshal(t, larger, bytes.Repeat([]byte("a"), tt.most+1))
		if err := c.Unmarshal(data, new([]byte)); !errors.Is(err, soracache.ErrTooLarge) {
			t.Errorf("at most %d: one byte more was read: %v", tt.given, err)
		}
	}
}

// frame is what is stored of a frame of somebody else's making.
func frame(t *testing.T, content []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(content, []byte{1})
}

// Whatever an entry says, reading it takes no more memory than the codec's limit, and
// next to none where it is refused at once.
func TestBombs(t *testing.T) {
	racetest.Without(t)
	const most, little = 64 << 10, 256 << 10 // a decoder has room for a block of 128 KiB
	content := make([]byte, 64<<20)
	honest := frame(t, content, zstd.WithWindowSize(most/2))
	if len(honest) > little {
		t.Fatalf("64 MiB of zeros take %d bytes", len(honest))
	}

	var unsized bytes.Buffer
	unsized.WriteByte(1)
	w, err := zstd.NewWriter(&unsized)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 { // in pieces, so that the size is not known when the frame begins
		if _, err := w.Write(content[:most]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	// It says that it has 1,000 bytes, and has 64 MiB. The size is in the four bytes
	// after the magic number, the descriptor and the window.
	lying := bytes.Clone(honest)
	copy(lying[1+6:], []byte{0xe8, 3, 0, 0})
	repeated := frame(t, content[:most])
	for range 999 {
		repeated = append(repeated, frame(t, content[:most])[1:]...)
	}
	skipped := append([]byte{1, 0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}, honest[1:]...)
	// The content is small enough. The window is not.
	wide := frame(t, content[:1000], zstd.WithSingleSegment(false))
	wide[1+5] = 0xff

	for name, tt := range map[string]struct {
		data []byte
		most uint64
	}{
		"64 MiB in one frame":             {honest, little},
		"a frame that says no size":       {unsized.Bytes(), little},
		"a frame that says a smaller one": {lying, little},
		"1,000 frames of 64 KiB":          {repeated, most + little},
		"a frame to be skipped first":     {skipped, little},
		"a window of terabytes":           {wide, little},
	} {
		c := compress.Zstd(client.Raw{}, compress.Options{MaxBytes: most})
		for range runtime.GOMAXPROCS(0) { // what decoders keep, they have then
			roundTrip(t, c, content[:most], bytes.Equal)
		}
		var err error
		took := allocated(func() { err = c.Unmarshal(tt.data, new([]byte)) })
		if err == nil || took > tt.most {
			t.Errorf("%s: took %d bytes: %v", name, took, err)
		}
	}
}

// allocated is how many bytes a function allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// What is damaged cannot be read, or has its content all the same. It is never another
// value.
func TestDamage(t *testing.T) {
	c := compress.Zstd(client.Raw{}, compress.Options{})
	want := []byte(strings.Repeat("a lamp, ", 500) + string(random(500)))
	stored := marshal(t, c, want)
	check := func(what string, data []byte) {
		var got []byte
		if err := c.Unmarshal(data, &got); err == nil && !bytes.Equal(got, want) {
			t.Errorf("%s: another value of %d bytes", what, len(got))
		}
	}
	for i := 1; i < len(stored); i++ { // the first byte says that it is compressed
		for _, flip := range []byte{1, 0x80, 0xff} {
			damaged := bytes.Clone(stored)
			damaged[i] ^= flip
			check(fmt.Sprintf("byte %d changed by %d", i, flip), damaged)
		}
	}
	for n := range len(stored) {
		var got []byte
		if err := c.Unmarshal(stored[:n], &got); err == nil {
			t.Errorf("cut to %d bytes: read", n)
		}
	}
	// The size may be left out of a frame by others, but is needed here.
	unsized, err := hex.DecodeString("01" + "28b52ffd" + "00" + "58" + "090000" + "61")
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	if err := c.Unmarshal(unsized, &got); err == nil || !strings.Contains(err.Error(), "does not say how large") {
		t.Errorf("a frame without a size: %q, %v", got, err)
	}
	for _, data := range [][]byte{append(bytes.Clone(stored), 0), {2}, {0xff, 1, 2}, nil} {
		if err := c.Unmarshal(data, &got); err == nil {
			t.Errorf("%d bytes, the first of which %v: read", len(data), data[:min(1, len(data))])
		}
	}
}

func TestErrorsOfTheWrappedCodec(t *testing.T) {
	c := compress.Zstd(client.Raw{}, compress.Options{MinBytes: 1})
	if _, err := c.Marshal(1); err == nil || !strings.Contains(err.Error(), "raw codec") {
		t.Errorf("Marshal: %v", err)
	}
	for _, value := range []string{"a", strings.Repeat("a", 1000)} {
		if err := c.Unmarshal(marshal(t, c, value), new(int)); err == nil || !strings.Contains(err.Error(), "raw codec") {
			t.Errorf("Unmarshal: %v", err)
		}
	}
}

// The client refuses a codec that wraps none.
func TestNoCodec(t *testing.T) {
	cl := newClient(t, fake.New())
	_, _, err := client.Get[string](t.Context(), cl, "k", client.WithCodec(compress.Zstd(nil, compress.Options{})))
	if !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// However many use one codec at once, each has its own value back.
func TestConcurrentUse(t *testing.T) {
	c := compress.Zstd(client.Raw{}, compress.Options{})
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			want := strings.Repeat(fmt.Sprint("value of ", g, "; "), 100+g)
			for range 20 {
				data, err := c.Marshal(want)
				if err != nil {
					t.Error(err)
					return
				}
				var got string
				if err := c.Unmarshal(data, &got); got != want || err != nil {
					t.Errorf("%d has %.40q back: %v", g, got, err)
				}
			}
		})
	}
	all.Wait()
}

// A codec that tests share works in each of their bubbles.
func TestInBubbles(t *testing.T) {
	c := compress.Zstd(client.Raw{}, compress.Options{})
	for range 2 {
		synctest.Test(t, func(t *testing.T) { roundTrip(t, c, strings.Repeat("a", 5000), equal) })
	}
	roundTrip(t, c, strings.Repeat("a", 5000), equal)
}

func TestAllocations(t *testing.T) {
	racetest.Without(t)
	for size, value := range map[string][]byte{
		"small": []byte("a lamp"),
		"large": bytes.Repeat([]byte("a lamp, "), 2000),
	} {
		c := compress.Zstd(client.Raw{}, compress.Options{})
		data := marshal(t, c, value)
		var boxed any = value
		encoding := testing.AllocsPerRun(100, func() { _, _ = c.Marshal(boxed) })
		if encoding > 2 { // raw's copy, and what is stored
			t.Errorf("%s: encoding allocates %v times", size, encoding)
		}
		into := new([]byte)
		decoding := testing.AllocsPerRun(100, func() { _ = c.Unmarshal(data, into) })
		if most := float64(min(int(data[0]), 1)); decoding > most { // the content, if it was compressed
			t.Errorf("%s: decoding allocates %v times", size, decoding)
		}
	}
}

// newClient is a client of a service, which ends with the test.
func newClient(t *testing.T, service soracache.Backend, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(service, append([]client.Option{client.Logger(nil), client.NoNear()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// An entry names the codec, and who knows it reads the entry, also beside those of the
// codec that it wraps.
func TestInACache(t *testing.T) {
	service := fake.New()
	zstdJSON := compress.Zstd(client.JSON{}, compress.Options{})
	value := product{7, strings.Repeat("a lamp, ", 1000)}
	loads := 0
	load := func(context.Context) (product, error) { loads++; return value, nil }
	get := func(cl *client.Client, opts ...client.CallOption) {
		t.Helper()
		if got, err := client.NewCache[product](cl, client.Default(), opts...).GetOrSet(t.Context(), "k", load); got != value || err != nil {
			t.Errorf("got product %d, %v", got.ID, err)
		}
	}

	get(newClient(t, service))
	get(newClient(t, service), client.WithCodec(zstdJSON)) // reads what was there before
	if e, _ := service.Stored("k"); loads != 1 || e.Encoding != "json" {
		t.Fatalf("%d loads; stored as %q", loads, e.Encoding)
	}
	if _, err := newClient(t, service).Remove(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	get(newClient(t, service), client.WithCodec(zstdJSON))
	if e, _ := service.Stored("k"); loads != 2 || e.Encoding != "json+zstd" || len(e.Value) > 200 {
		t.Fatalf("%d loads; stored as %q in %d bytes", loads, e.Encoding, len(e.Value))
	}
	get(newClient(t, service), client.WithCodec(zstdJSON))
	get(newClient(t, service, client.KnownCodecs(zstdJSON)))
	get(newClient(t, service, client.DefaultCodec(zstdJSON)))
	if loads != 2 {
		t.Errorf("%d loads", loads)
	}
	get(newClient(t, service)) // knows nothing of it
	if e, _ := service.Stored("k"); loads != 3 || e.Encoding != "json" {
		t.Errorf("%d loads; stored as %q", loads, e.Encoding)
	}
}

// Who imports the client, or the package that encrypts, does not link a compression
// library.
func TestDependencies(t *testing.T) {
	for pkg, links := range map[string]bool{".": true, "..": false, "../encrypt": false} {
		out, err := exec.Command("go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(out, []byte("github.com/klauspost/compress")); got != links {
			t.Errorf("%s links it: %t", pkg, got)
		}
	}
}

// FuzzUnmarshal: no bytes make decoding panic, or take more than the limit.
func FuzzUnmarshal(f *testing.F) {
	const most = 64 << 10
	c := compress.Zstd(client.Raw{}, compress.Options{MinBytes: 1, MaxBytes: most})
	for _, value := range []string{"", "a", strings.Repeat("a lamp, ", 100), string(random(2000))} {
		f.Add(marshal(f, c, value))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got []byte
		if err := c.Unmarshal(data, &got); err == nil && len(got) > max(most, len(data)) {
			t.Errorf("%d bytes became %d", len(data), len(got))
		}
	})
}

// FuzzRoundTrip: what was stored comes back, whatever is wrapped around whatever.
func FuzzRoundTrip(f *testing.F) {
	keys, err := encrypt.NewKeys(encrypt.Key{ID: "k", Secret: random(encrypt.SecretBytes)})
	if err != nil {
		f.Fatal(err)
	}
	opts := compress.Options{MinBytes: 1}
	codecs := []client.Codec{
		compress.Zstd(client.Raw{}, opts),
		encrypt.AESGCM(compress.Zstd(client.Raw{}, opts), keys),
		compress.Zstd(encrypt.AESGCM(client.Raw{}, keys), opts),
	}
	f.Add([]byte(nil))
	f.Add([]byte("a lamp"))
	f.Add(bytes.Repeat([]byte("a lamp, "), 100))
	f.Fuzz(func(t *testing.T, value []byte) {
		for _, c := range codecs {
			var got []byte
			if err := c.Unmarshal(marshal(t, c, value), &got); err != nil || !bytes.Equal(got, value) {
				t.Errorf("%s: %x came back as %x: %v", c.Name(), value, got, err)
			}
		}
	})
}

func BenchmarkZstd(b *testing.B) {
	c := compress.Zstd(client.Raw{}, compress.Options{})
	for _, size := range []int{100, 2 << 10, 20 << 10, 200 << 10} {
		value := make([]byte, 0, size+100)
		for i := 0; len(value) < size; i++ {
			value = fmt.Appendf(value, `{"id":%d,"name":"lamp %d","cents":%d},`, i, i%17, i*7919%10_000)
		}
		value = value[:size]
		data := marshal(b, c, value)
		var boxed any = value
		b.Run(fmt.Sprintf("encode/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Marshal(boxed)
			}
			b.ReportMetric(float64(len(data)), "stored-B")
		})
		b.Run(fmt.Sprintf("decode/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			into := new([]byte)
			for b.Loop() {
				_ = c.Unmarshal(data, into)
			}
		})
	}
}

// gobCodec is a codec of an application's own.
type gobCodec struct{}

func (gobCodec) Name() string { return "gob" }

func (gobCodec) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobCodec) Unmarshal(data []byte, into any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(into)
}
