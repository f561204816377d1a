package encrypt_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

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

// key is a key whose secret is one byte, repeated.
func key(id string, secret byte) encrypt.Key {
	return encrypt.Key{ID: id, Secret: bytes.Repeat([]byte{secret}, encrypt.SecretBytes)}
}

func newKeys(t testing.TB, first encrypt.Key, others ...encrypt.Key) *encrypt.Keys {
	t.Helper()
	keys, err := encrypt.NewKeys(first, others...)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

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

// Every codec can be wrapped, and nothing of the value is to be seen in what is stored.
func TestEveryCodecIsWrapped(t *testing.T) {
	keys := newKeys(t, key("2026-10", 1))
	secret := strings.Repeat("a secret lamp, ", 200)
	zstd := func(c client.Codec) client.Codec { return compress.Zstd(c, compress.Options{}) }
	sealed := func(c client.Codec) client.Codec { return encrypt.AESGCM(c, keys) }
	for name, stored := range map[string][]byte{
		"json+xaes256gcm": roundTrip(t, sealed(client.JSON{}), product{7, secret}, equal),
		"raw+xaes256gcm":  roundTrip(t, sealed(client.Raw{}), []byte(secret), bytes.Equal),
		"proto+xaes256gcm": roundTrip(t, sealed(client.Proto{}), wrapperspb.String(secret),
			func(a, b *wrapperspb.StringValue) bool { return proto.Equal(a, b) }),
		"raw+xaes256gcm+xaes256gcm": roundTrip(t, sealed(sealed(client.Raw{})), secret, equal),
		"raw+xaes256gcm+zstd":       roundTrip(t, zstd(sealed(client.Raw{})), secret, equal),
		"json+zstd+xaes256gcm":      roundTrip(t, sealed(zstd(client.JSON{})), product{7, secret}, equal),
		"a value of one byte":       roundTrip(t, sealed(client.Raw{}), "l", equal),
		"an empty value":            roundTrip(t, sealed(client.Raw{}), "", equal),
	} {
		if bytes.Contains(stored, []byte("lamp")) {
			t.Errorf("%s: the value can be seen", name)
		}
		// Compressed first, it becomes smaller; the other way round it does not.
		if small := len(stored) < len(secret)/10; small != strings.Contains(name, "zstd+") && len(stored) > 100 {
			t.Errorf("%s: %d bytes are stored as %d", name, len(secret), len(stored))
		}
	}
	for _, c := range []client.Codec{client.JSON{}, client.Raw{}, zstd(client.Proto{})} {
		if got := sealed(c).Name(); got != c.Name()+"+xaes256gcm" {
			t.Errorf("named %q", got)
		}
	}
}

// What earlier versions have stored is read for ever.
func TestGolden(t *testing.T) {
	keys := newKeys(t, key("2026-10", 1))
	for _, tt := range []struct {
		codec        client.Codec
		stored, want string
	}{
		{client.Raw{}, goldenRaw, "a lamp"},
		{compress.Zstd(client.Raw{}, compress.Options{}), goldenZstd, strings.Repeat("a lamp, ", 200)},
	} {
		data, err := hex.DecodeString(tt.stored)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := encrypt.AESGCM(tt.codec, keys).Unmarshal(data, &got); got != tt.want || err != nil {
			t.Errorf("%s: %.20q, %v", tt.codec.Name(), got, err)
		}
	}
}

const (
	goldenRaw  = "07323032362d3130011cc2a4e3bc69c1bcfd9cda0f827b8486a49be968cc96a2c53869f41ec5a99415662439e0b05962adfa9f7636a0"
	goldenZstd = "07323032362d31307814e8cdc75a50e8f0664f15f7010014c4585e4e1c92919861c38b912717490b01846bce33325ea99c383f6604ed0f8d160ec5ebeecf37fedb4aa8e83da29c896066a340bea7b8"
)

// The same value is never stored in the same way twice.
func TestNoncesDiffer(t *testing.T) {
	c := encrypt.AESGCM(client.Raw{}, newKeys(t, key("k", 1)))
	seen := map[string]bool{}
	for range 1000 {
		nonce := string(marshal(t, c, "a lamp")[2 : 2+24])
		for _, half := range []string{nonce[:12], nonce[12:]} {
			if seen[half] {
				t.Fatalf("%x came twice", half)
			}
			seen[half] = true
		}
	}
}

// The first key encrypts, all keys decrypt, and Replace changes both.
func TestKeysRotate(t *testing.T) {
	former, now, next := key("former", 1), key("now", 2), key("next", 3)
	keys := newKeys(t, former)
	c := encrypt.AESGCM(client.Raw{}, keys)
	stored := map[string][]byte{}
	check := func(step, encrypts string, decrypts ...string) {
		t.Helper()
		data := roundTrip(t, c, "written "+step, equal)
		if id := string(data[1 : 1+int(data[0])]); id != encrypts {
			t.Errorf("%s: encrypted with %q", step, id)
		}
		stored[encrypts] = data
		for id, data := range stored {
			var got string
			err := c.Unmarshal(data, &got)
			known := false
			for _, d := range decrypts {
				known = known || d == id
			}
			if known != (err == nil) || known != strings.HasPrefix(got, "written ") || !known && !errors.Is(err, encrypt.ErrUnknownKey) {
				t.Errorf("%s: what %q encrypted: %q, %v", step, id, got, err)
			}
		}
	}
	replace := func(first encrypt.Key, others ...encrypt.Key) {
		t.Helper()
		if err := keys.Replace(first, others...); err != nil {
			t.Fatal(err)
		}
	}
	check("at first", "former", "former")
	replace(former, now)
	check("once the new key is known", "former", "former", "now")
	replace(now, former)
	check("once the new key encrypts", "now", "former", "now")
	replace(now)
	check("once the former key is gone", "now", "now")
	if err := keys.Replace(next, now, now); err == nil {
		t.Fatal("one id was taken twice")
	}
	check("after a mistake", "now", "now")
	replace(next, now, former)
	check("after a way back", "next", "next", "now", "former")
}

func TestKeysThatCannotBe(t *testing.T) {
	good := key("good", 1)
	for name, keys := range map[string][]encrypt.Key{
		"no id":               {key("", 1)},
		"a long id":           {key(strings.Repeat("k", encrypt.MaxIDBytes+1), 1)},
		"an id that is bytes": {key("\xff", 1)},
		"no secret":           {{ID: "k"}},
		"a short secret":      {{ID: "k", Secret: make([]byte, encrypt.SecretBytes-1)}},
		"a long secret":       {{ID: "k", Secret: make([]byte, encrypt.SecretBytes+1)}},
		"an id twice":         {good, key("good", 2)},
		"a bad key behind":    {good, key("", 1)},
	} {
		got, err := encrypt.NewKeys(keys[0], keys[1:]...)
		if got != nil || err == nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	longest := key(strings.Repeat("k", encrypt.MaxIDBytes), 1)
	roundTrip(t, encrypt.AESGCM(client.Raw{}, newKeys(t, longest)), "a lamp", equal)
}

func TestSecretsAreNotPrinted(t *testing.T) {
	k := key("k", 'S')
	keys := newKeys(t, k)
	k.Secret[0] ^= 1 // it was copied
	roundTrip(t, encrypt.AESGCM(client.Raw{}, keys), "a lamp", equal)
	sealed := marshal(t, encrypt.AESGCM(client.Raw{}, keys), "a lamp")
	var got string
	if err := encrypt.AESGCM(client.Raw{}, newKeys(t, key("k", 'S'))).Unmarshal(sealed, &got); got != "a lamp" || err != nil {
		t.Errorf("after the caller's bytes changed: %q, %v", got, err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		text := fmt.Sprintf(format, []any{k, &k, []encrypt.Key{k}})
		if strings.Contains(text, "SSS") || strings.Contains(text, "83 83") || strings.Contains(text, "0x53") {
			t.Errorf("%s: %s", format, text)
		}
	}
}

// Whatever of it is changed, it cannot be read.
func TestTampering(t *testing.T) {
	keys := newKeys(t, key("k1", 1), key("k2", 2), key("k3", 1)) // two ids with one secret
	c := encrypt.AESGCM(client.Raw{}, keys)
	stored := marshal(t, c, "a lamp")
	refused := func(what string, c client.Codec, data []byte, want error) {
		t.Helper()
		var got []byte
		if err := c.Unmarshal(data, &got); !errors.Is(err, want) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	for i := 3; i < len(stored); i++ {
		for bit := range 8 {
			damaged := bytes.Clone(stored)
			damaged[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of byte %d", bit, i), c, damaged, encrypt.ErrNotAuthentic)
		}
	}
	for n := range len(stored) {
		refused(fmt.Sprintf("cut to %d bytes", n), c, stored[:n], encrypt.ErrNotAuthentic)
	}
	refused("one byte more", c, append(bytes.Clone(stored), 0), encrypt.ErrNotAuthentic)
	refused("nothing", c, nil, encrypt.ErrNotAuthentic)
	other := bytes.Clone(stored)
	other[2] = '2'
	refused("another key's id", c, other, encrypt.ErrNotAuthentic)
	other[2] = '9'
	refused("an id that there is not", c, other, encrypt.ErrUnknownKey)
	refused("another secret of the same id", encrypt.AESGCM(client.Raw{}, newKeys(t, key("k1", 9))), stored, encrypt.ErrNotAuthentic)
	// Raw bytes can be read by anything that takes bytes, such as zstd's plain form.
	refused("under another codec's name", encrypt.AESGCM(named{client.Raw{}, "other"}, keys), stored, encrypt.ErrNotAuthentic)
	bomb := marshal(t, encrypt.AESGCM(client.Raw{}, keys), bytes.Repeat([]byte{1}, 100))
	refused("as if it were compressed", encrypt.AESGCM(compress.Zstd(client.Raw{}, compress.Options{}), keys), bomb, encrypt.ErrNotAuthentic)
}

// named is a codec under another name.
type named struct {
	client.Codec
	name string
}

func (n named) Name() string { return n.name }

func TestErrorsOfTheWrappedCodec(t *testing.T) {
	c := encrypt.AESGCM(client.Raw{}, newKeys(t, key("k", 1)))
	if _, err := c.Marshal(1); err == nil || !strings.Contains(err.Error(), "raw codec") {
		t.Errorf("Marshal: %v", err)
	}
	if err := c.Unmarshal(marshal(t, c, "a lamp"), new(int)); err == nil || !strings.Contains(err.Error(), "raw codec") {
		t.Errorf("Unmarshal: %v", err)
	}
}

// Keys may be replaced while others use them: each value is read as long as its key is
// there.
func TestConcurrentUse(t *testing.T) {
	keys := newKeys(t, key("a", 1), key("b", 2))
	c := encrypt.AESGCM(client.Raw{}, keys)
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 200 {
				want := fmt.Sprint("value ", i, " of ", g)
				data, err := c.Marshal(want)
				if err != nil {
					t.Error(err)
					return
				}
				var got string
				if err := c.Unmarshal(data, &got); got != want || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			}
		})
	}
	for i := range 200 {
		first, second := key("a", 1), key("b", 2)
		if i%2 == 0 {
			first, second = second, first
		}
		if err := keys.Replace(first, second); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
}

func TestAllocations(t *testing.T) {
	racetest.Without(t)
	c := encrypt.AESGCM(client.Raw{}, newKeys(t, key("2026-10", 1)))
	data := marshal(t, c, []byte("a lamp"))
	var boxed any = []byte("a lamp")
	// Raw's copy, what is stored, and for the derived key: its bytes, AES and GCM.
	if n := testing.AllocsPerRun(100, func() { _, _ = c.Marshal(boxed) }); n > 6 {
		t.Errorf("encoding allocates %v times", n)
	}
	into := new([]byte)
	if n := testing.AllocsPerRun(100, func() { _ = c.Unmarshal(data, into) }); n > 4 {
		t.Errorf("decoding allocates %v times", n)
	}
}

// process is a client of a service with keys of its own, in a process of its own.
type process struct {
	*client.Cache[product]

	loads      int
	unreadable []error
}

func newProcess(t *testing.T, service soracache.Backend, c client.Codec, opts ...client.Option) *process {
	t.Helper()
	p := new(process)
	opts = append([]client.Option{
		client.Logger(nil), client.NoNear(),
		client.WithHooks(client.Hooks{OnUnreadable: func(_, _ string, err error) { p.unreadable = append(p.unreadable, err) }}),
	}, opts...)
	cl, err := client.New(service, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	p.Cache = client.NewCache[product](cl, client.Default(), client.WithCodec(c))
	return p
}

func (p *process) want(t *testing.T, key string, want product) {
	t.Helper()
	got, err := p.GetOrSet(t.Context(), key, func(context.Context) (product, error) { p.loads++; return want, nil })
	if got != want || err != nil {
		t.Errorf("%s: got %v, %v", key, got, err)
	}
}

// Processes with the same keys share values, and one that lacks the key loads its own.
func TestInACache(t *testing.T) {
	service := fake.New()
	lamp := product{7, "lamp"}
	codec := func(keys ...encrypt.Key) client.Codec {
		return encrypt.AESGCM(client.JSON{}, newKeys(t, keys[0], keys[1:]...))
	}
	first := newProcess(t, service, codec(key("old", 1)))
	first.want(t, "k", lamp)
	if e, _ := service.Stored("k"); e.Encoding != "json+xaes256gcm" || bytes.Contains(e.Value, []byte("lamp")) {
		t.Errorf("stored as %q: %q", e.Encoding, e.Value)
	}
	rotated := newProcess(t, service, codec(key("new", 2), key("old", 1)))
	rotated.want(t, "k", lamp)
	stranger := newProcess(t, service, codec(key("new", 2)))
	if v, found, err := stranger.Get(t.Context(), "k"); found || err != nil {
		t.Errorf("Get without the key: %v, %t, %v", v, found, err)
	}
	stranger.want(t, "k", lamp) // replaces it
	rotated.want(t, "k", lamp)
	stranger.want(t, "k", lamp)
	if first.loads != 1 || rotated.loads != 0 || stranger.loads != 1 {
		t.Errorf("%d, %d and %d loads", first.loads, rotated.loads, stranger.loads)
	}
	if len(stranger.unreadable) != 2 || !errors.Is(stranger.unreadable[0], encrypt.ErrUnknownKey) {
		t.Errorf("told of %v", stranger.unreadable)
	}
	if n := len(service.Invalidations); n != 0 {
		t.Errorf("%d invalidations", n)
	}

	e, _ := service.Stored("k")
	e.Value = bytes.Clone(e.Value)
	e.Value[len(e.Value)-1] ^= 1
	service.Put("k", e)
	rotated.want(t, "k", lamp)
	if rotated.loads != 1 || len(rotated.unreadable) != 1 || !errors.Is(rotated.unreadable[0], encrypt.ErrNotAuthentic) {
		t.Errorf("tampered with: %d loads, told of %v", rotated.loads, rotated.unreadable)
	}
}

// The limits that the package comment names: a codec does not learn the key, and a client
// goes by the encoding that an entry names.
func TestWhoCanWriteToTheStore(t *testing.T) {
	service := fake.New()
	p := newProcess(t, service, encrypt.AESGCM(client.JSON{}, newKeys(t, key("k", 1))))
	p.want(t, "a", product{1, "lamp"})
	e, _ := service.Stored("a")
	service.Put("b", e)
	service.Put("c", soracache.Entry{Value: []byte(`{"ID":3,"Name":"desk"}`), Encoding: "json"})
	p.want(t, "b", product{1, "lamp"})
	p.want(t, "c", product{3, "desk"})
	if p.loads != 1 {
		t.Errorf("%d loads: the package comment says otherwise", p.loads)
	}
}

// The limit of DefaultCodec: it does not concern bytes, strings and proto messages.
func TestDefaultCodecLeavesStrings(t *testing.T) {
	service := fake.New()
	cl, err := client.New(service, client.NoNear(), client.DefaultCodec(encrypt.AESGCM(client.JSON{}, newKeys(t, key("k", 1)))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cl.Close() }()
	for _, err := range []error{
		client.Set(t.Context(), cl, "struct", product{7, "lamp"}),
		client.Set(t.Context(), cl, "string", "lamp"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, encoding := range map[string]string{"struct": "json+xaes256gcm", "string": "raw"} {
		if e, _ := service.Stored(name); e.Encoding != encoding {
			t.Errorf("%s: stored as %q", name, e.Encoding)
		}
	}
}

// The client refuses a codec that wraps none, or has no keys.
func TestNoCodec(t *testing.T) {
	for name, c := range map[string]client.Codec{
		"no codec":      encrypt.AESGCM(nil, newKeys(t, key("k", 1))),
		"no keys":       encrypt.AESGCM(client.JSON{}, nil),
		"keys of none":  encrypt.AESGCM(client.JSON{}, new(encrypt.Keys)),
		"a codec of it": encrypt.AESGCM(compress.Zstd(nil, compress.Options{}), newKeys(t, key("k", 1))),
	} {
		if _, _, err := newProcess(t, fake.New(), c).Get(t.Context(), "k"); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzUnmarshal: no bytes make decoding panic, and none can be read as anything that a
// holder of the key has not encrypted.
func FuzzUnmarshal(f *testing.F) {
	c := encrypt.AESGCM(client.Raw{}, newKeys(f, key("k", 1), key("longer", 2)))
	encrypted := []string{"", "a", strings.Repeat("a lamp, ", 100)}
	for _, value := range encrypted {
		f.Add(marshal(f, c, value))
	}
	f.Add([]byte("\x06longer"))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got string
		if err := c.Unmarshal(data, &got); err == nil && !slices.Contains(encrypted, got) {
			t.Errorf("%x was read as %q", data, got)
		}
	})
}

func BenchmarkAESGCM(b *testing.B) {
	c := encrypt.AESGCM(client.Raw{}, newKeys(b, key("2026-10", 1)))
	for _, size := range []int{100, 2 << 10, 20 << 10, 200 << 10} {
		var boxed any = make([]byte, size)
		data := marshal(b, c, boxed)
		b.Run(fmt.Sprintf("encode/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Marshal(boxed)
			}
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
