// Package compress makes the values of a cache smaller: it wraps a [client.Codec],
// and compresses what that one encodes.
//
//	products := client.NewCache[Product](c, client.Default(),
//		client.WithCodec(compress.Zstd(client.JSON{}, compress.Options{})))
//
// Compress before you encrypt, because what is encrypted cannot be made smaller:
// encrypt.AESGCM(compress.Zstd(codec, options), keys).
//
// An application that does not import this package does not link a compression
// library.
package compress

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// DefaultMinBytes is the size from which values are compressed by default.
const DefaultMinBytes = 1 << 10

// Options says which values are compressed. The zero value has the defaults.
type Options struct {
	// MinBytes is the size from which a value is compressed; 1 compresses them all.
	// What is smaller, or cannot be made smaller, is stored as it is, behind one byte
	// that says so. Zero means [DefaultMinBytes].
	MinBytes int
	// MaxBytes is how large a value may be before it is compressed. A larger one cannot
	// be encoded, with an error that wraps [soracache.ErrTooLarge], and so is not stored.
	// An entry that says that it holds a larger one cannot be read: this bounds the
	// memory that reading takes, however small an entry is. All processes that share
	// the values should have the same limit. Zero means the largest value that a service
	// takes by default, 8 MiB.
	MaxBytes int
}

// Zstd returns a codec that compresses what codec encodes, as Zstandard (RFC 8878).
// Its name is codec's name followed by "+zstd", such as "json+zstd". If codec is nil,
// so is the result, which the client refuses.
//
// The result is safe for concurrent use. Make one and share it: it works on one value
// for each processor at a time, eight at most, and keeps up to 2 MiB for each of them.
//
// A near cache counts what is stored. With values that become ten times smaller, it
// takes ten times the memory that [client.NearBytes] says; [client.NearEntries] counts
// otherwise.
func Zstd(codec client.Codec, opts Options) client.Codec {
	if codec == nil {
		return nil
	}
	if opts.MinBytes <= 0 {
		opts.MinBytes = DefaultMinBytes
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = soracache.DefaultLimits().ValueBytes
	}
	z := &zstdCodec{codec: codec, name: codec.Name() + "+zstd", opts: opts}
	atOnce := min(runtime.GOMAXPROCS(0), mostAtOnce)
	z.encoder = must(zstd.NewWriter(nil,
		zstd.WithEncoderConcurrency(atOnce),
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(windowBytes),
		zstd.WithLowerEncoderMem(true),
		zstd.WithSingleSegment(true), // without it, small frames do not say how large their content is
	))
	z.decoder = must(zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(atOnce),
		// The decoder writes where Unmarshal lets it, and nowhere else.
		zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(uint64(max(opts.MaxBytes, windowBytes))),
	))
	// The library makes its channels when it gets the first value. If that came inside a
	// bubble of testing/synctest, nobody outside of it could use the codec.
	z.encoder.EncodeAll(nil, nil)
	return z
}

const (
	// mostAtOnce bounds the memory that a codec keeps on a machine of many processors.
	mostAtOnce = 8
	// windowBytes is how far back a repetition is found. It also bounds the memory that an
	// encoder keeps.
	windowBytes = 1 << 20
)

// must returns what cannot fail to be made: all options are constants, or were put right.
func must[T any](made T, err error) T {
	if err != nil {
		panic(err)
	}
	return made
}

// zstdCodec compresses what another codec encodes.
type zstdCodec struct {
	codec   client.Codec
	name    string
	opts    Options
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

// The first byte of what is stored says what follows. It is a part of the stored format
// and never changes.
const (
	plain      = 0 // what the wrapped codec encoded
	compressed = 1 // one Zstandard frame, which says how large its content is
)

// Name returns the name of the wrapped codec followed by "+zstd".
func (z *zstdCodec) Name() string { return z.name }

// Marshal compresses what the wrapped codec makes of a value.
func (z *zstdCodec) Marshal(value any) ([]byte, error) {
	data, err := z.codec.Marshal(value)
	if err != nil {
		return nil, err
	}
	if len(data) > z.opts.MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes before they are compressed, at most %d", soracache.ErrTooLarge, len(data), z.opts.MaxBytes)
	}
	out := make([]byte, 1, 1+len(data))
	if len(data) >= z.opts.MinBytes {
		out[0] = compressed
		if small := z.encoder.EncodeAll(data, out); len(small) <= len(data) {
			return small, nil
		}
		out = out[:1]
	}
	out[0] = plain
	return append(out, data...), nil
}

// Unmarshal has the wrapped codec decode what Marshal compressed.
func (z *zstdCodec) Unmarshal(data []byte, into any) error {
	if len(data) == 0 {
		return errors.New("zstd codec: nothing there, not even how it is stored")
	}
	switch how, stored := data[0], data[1:]; how {
	case plain:
		return z.codec.Unmarshal(stored, into)
	case compressed:
		content, err := z.decompress(stored)
		if err != nil {
			return fmt.Errorf("zstd codec: %w", err)
		}
		return z.codec.Unmarshal(content, into)
	default:
		return fmt.Errorf("zstd codec: stored in a way that is not known (%d)", how)
	}
}

// decompress returns the content of a frame. It allocates what the frame says that its
// content takes, if that may be, and no more.
func (z *zstdCodec) decompress(frame []byte) ([]byte, error) {
	var header zstd.Header
	if err := header.Decode(frame); err != nil {
		return nil, err
	}
	switch {
	case header.Skippable || !header.HasFCS:
		return nil, errors.New("the frame does not say how large its content is")
	case header.FrameContentSize > uint64(z.opts.MaxBytes): //nolint:gosec // positive
		return nil, fmt.Errorf("%w: %d bytes, at most %d", soracache.ErrTooLarge, header.FrameContentSize, z.opts.MaxBytes)
	}
	return z.decoder.DecodeAll(frame, make([]byte, 0, header.FrameContentSize))
}
