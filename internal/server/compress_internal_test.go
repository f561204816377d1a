package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// leaving is the context of a caller who goes once so many pieces were asked for.
type leaving struct {
	context.Context
	left int
}

func (c *leaving) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// What is compressed for who has gone is a piece at most, and nothing of what is
// left.
func TestCompressionStopsWhenTheCallerGoes(t *testing.T) {
	t.Parallel()
	for _, pieces := range []int{0, 1, 3} {
		p := &parcel{}
		for range 5 {
			p.add(make([]byte, 2*pieceBytes))
		}
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		if err := compressInto(&leaving{t.Context(), pieces}, z, p); err != context.Canceled { //nolint:errorlint // the very one
			t.Errorf("after %d pieces: %v", pieces, err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := gzip.NewReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); err != nil || n != int64(pieces*pieceBytes) {
			t.Errorf("who went after %d pieces had %d bytes compressed, %v", pieces, n, err)
		}
	}
}

// asked counts how often somebody looks whether the caller is still there: once
// for each piece that is compressed, and once for each that is written.
type asked struct {
	context.Context
	times atomic.Int64
}

func (c *asked) Err() error {
	c.times.Add(1)
	return nil
}

// stalled is a connection that takes nothing until it breaks.
type stalled struct {
	http.ResponseWriter
	broken chan struct{}
}

func (w stalled) Write([]byte) (int, error) {
	<-w.broken
	return 0, io.ErrClosedPipe
}

// TestCompressionWaitsForItsReader, in virtual time: of a large answer a piece or
// two are compressed ahead of a caller who takes nothing, and no more of it when
// the connection is found broken.
func TestCompressionWaitsForItsReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &parcel{}
		source, noise := rand.New(rand.NewPCG(1, 2)), make([]byte, 100*pieceBytes)
		for i := range noise {
			noise[i] = byte(source.Uint32()) & 15
		}
		p.add(noise)
		ctx := &asked{Context: t.Context()}
		w := stalled{httptest.NewRecorder(), make(chan struct{})}
		x := &exchange{recorder: &recorder{ResponseWriter: w}, ctx: ctx}
		sent := make(chan error, 1)
		go func() { sent <- x.sendCompressed(newCompressors().get(), p) }()
		synctest.Wait()
		if n := ctx.times.Load(); n > 4 {
			t.Errorf("nothing was taken, and %d pieces of 100 were compressed or written", n)
		}
		close(w.broken)
		if err := <-sent; err == nil {
			t.Error("it is taken to be sent")
		}
		if n := ctx.times.Load(); n > 4 {
			t.Errorf("the connection is broken, and %d pieces of 100 were compressed or written", n)
		}
	})
}

// A sample is what is compressed to see whether that is worth it, however large
// the answer.
func TestOnlyASampleIsTried(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("all work and no play "), sampleBytes/10)
	source, noise := rand.New(rand.NewPCG(1, 2)), make([]byte, 10*len(text))
	for i := range noise {
		noise[i] = byte(source.Uint32())
	}
	z := newCompressors().get()
	for name, c := range map[string]struct {
		parts [][]byte
		want  bool
	}{
		"text":                       {[][]byte{text}, true},
		"noise":                      {[][]byte{noise}, false},
		"the end of it is not tried": {[][]byte{append(bytes.Clone(noise), text...)}, false},
		"the largest part is tried":  {[][]byte{text[:100], noise, text}, false},
	} {
		p := &parcel{}
		for _, part := range c.parts {
			p.add(part)
		}
		if got := shrinks(z, p); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
