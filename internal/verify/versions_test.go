package verify

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/check"
	"github.com/soracache/soracache/internal/redistest"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// previousRevision is the last before this one whose nodes may run beside those
// of today. It moves on with each release.
const previousRevision = "c31c855"

// previous is soracached as it was then, built once.
var previous struct {
	once sync.Once
	path string
	err  error
}

// previousSoracached returns the path of the previous revision's binary, built
// from the history of this repository: once for each clone and each Go, since a
// revision does not change.
func previousSoracached(t *testing.T) string {
	t.Helper()
	previous.once.Do(func() { previous.path, previous.err = buildRevision(previousRevision) })
	if previous.err != nil {
		t.Fatal(previous.err)
	}
	return previous.path
}

// buildRevision builds soracached of a revision into .bin, unless it is there.
func buildRevision(revision string) (string, error) {
	top, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", fmt.Errorf("the test builds the previous revision, %s, from the history of this repository, and git finds none here: %w", revision, err)
	}
	root := strings.TrimSpace(string(top))
	path := filepath.Join(root, ".bin", "soracached-"+revision+"-"+runtime.Version())
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := exec.Command("git", "-C", root, "cat-file", "-e", revision+"^{commit}").Run(); err != nil {
		return "", fmt.Errorf("the test builds the previous revision, %s, which this clone does not hold: get the whole history (git fetch --unshallow)", revision)
	}
	archive, err := exec.Command("git", "-C", root, "archive", revision).Output()
	if err != nil {
		return "", fmt.Errorf("git archive %s: %w", revision, err)
	}
	source, err := os.MkdirTemp("", "soracache-"+revision)
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(source) }()
	if err := unpack(archive, source); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	part := path + ".part" // so that it is there as a whole, or not at all
	build := exec.Command("go", "build", "-buildvcs=false", "-o", part, "./cmd/soracached")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", revision, err, out)
	}
	return path, os.Rename(part, path)
}

// unpack writes the files of an archive into a folder.
func unpack(archive []byte, dir string) error {
	files := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(files)
		if err != nil {
			return err
		}
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return err
		}
	}
}

// becomes ends a node and starts another version of it in its place.
func (d *daemon) becomes(path string) {
	d.t.Helper()
	d.terminate()
	d.command = func(args []string) *exec.Cmd { return exec.Command(path, args...) }
	d.start()
	d.awaitReady()
}

// Nodes of the previous revision and of this one side by side over one Redis,
// upgraded and rolled back one by one, while the checker reads, loads and
// invalidates at all of them: nothing stale is served, and no ledger begins anew.
func TestTwoVersionsSideBySide(t *testing.T) {
	t.Parallel() // it mostly waits for nodes to end and begin
	const nodes, bound, partitions = 3, 300 * time.Millisecond, 2
	before, now := previousSoracached(t), soracached(t)
	server := redistest.Standalone(t)
	f := startFleet(t, nodes, server.URL(), "--bound", bound.String(), "--partitions", strconv.Itoa(partitions))
	for _, d := range f {
		d.becomes(before)
	}
	for _, d := range f {
		d.awaitMembers(nodes)
	}
	backends := make([]soracache.Backend, nodes)
	for i, d := range f {
		backends[i] = remoteNode{d.site}
	}
	seed := rand.Uint64()
	dice := rand.New(rand.NewPCG(seed, 0))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan *check.Report)
	go func() {
		done <- check.Run(ctx, backends, check.Options{
			Goroutines: 12, Operations: math.MaxInt32, Keys: 40, Seed: seed,
			Bound: bound, Wait: 50 * time.Millisecond, NoPuts: true, // a put that was cut off can still happen
		})
	}()
	for _, path := range []string{now, before} { // all of them upgraded, and rolled back
		for _, d := range f {
			d.becomes(path)
		}
	}
	for range count(2, 60) { // and mixed
		f[dice.IntN(nodes)].becomes([]string{before, now}[dice.IntN(2)])
	}
	stop()
	report := <-done
	t.Logf("seed %d: %s", seed, report)
	for _, v := range report.Violations {
		t.Error(v)
	}
	if report.Hits < 1000 || report.Stored < 50 || report.Invalidations < 50 {
		t.Error("too little happened to show anything")
	}
	for i := range partitions {
		if left := server.Do(t, "ZCARD", fmt.Sprintf("sora:{default/%d}x", i)).(int64); left > 0 {
			t.Errorf("partition %d has left %d epochs", i, left)
		}
	}
}

// remoteNode is one node as the checker calls it, over the wire and with nothing
// of a client's between them.
type remoteNode struct{ *site }

// unexpected makes what a node answers while it is away unavailable.
func unexpected(err error) error {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	return err
}

func (n remoteNode) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	r := req.Reads[0]
	res, err := n.cache.Get(ctx, &soracachev1.GetRequest{
		Namespace: req.Namespace, Key: r.Key, Lease: r.Lease, Wait: durationpb.New(r.Wait), MinStamp: req.MinStamp.Encode(),
	})
	if err != nil {
		return nil, unexpected(err)
	}
	out := soracache.ReadResult{Status: soracache.StatusMiss, Tier: soracache.TierL2, Entry: soracache.Entry{Value: res.GetValue()}}
	if res.GetStatus() != soracachev1.Status_STATUS_MISS {
		out.Status = soracache.StatusHit
	}
	if res.GetTier() == soracachev1.Tier_TIER_L1 {
		out.Tier = soracache.TierL1
	}
	copy(out.Lease[:], res.GetLease())
	return []soracache.ReadResult{out}, nil
}

func (n remoteNode) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	w := req.Writes[0]
	if w.Op == soracache.OpRelease {
		res, err := n.cache.Release(ctx, &soracachev1.ReleaseRequest{
			Namespace: req.Namespace, Key: w.Key, Lease: w.Lease[:], Outcome: soracachev1.LoadOutcome(w.Outcome),
		})
		if err != nil {
			return nil, unexpected(err)
		}
		return []soracache.WriteResult{{Stored: res.GetReleased()}}, nil
	}
	res, err := n.cache.Fill(ctx, &soracachev1.FillRequest{
		Namespace: req.Namespace, Key: w.Key, Lease: w.Lease[:], Value: w.Entry.Value, Tags: w.Entry.Tags, Ttl: durationpb.New(w.Lifetime.TTL),
	})
	if err != nil {
		return nil, unexpected(err)
	}
	return []soracache.WriteResult{{Stored: res.GetStored()}}, nil
}

func (n remoteNode) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	wire := &soracachev1.InvalidateRequest{Namespace: req.Namespace, Acknowledge: req.Acknowledge}
	for _, t := range req.Targets {
		switch t.Kind {
		case soracache.TargetKey:
			wire.Keys = append(wire.Keys, t.Name)
		case soracache.TargetTag:
			wire.Tags = append(wire.Tags, t.Name)
		case soracache.TargetAll:
			wire.All = true
		}
	}
	res, err := n.cache.Invalidate(ctx, wire)
	if err != nil {
		return soracache.InvalidateResult{}, unexpected(err)
	}
	stamp, err := soracache.DecodeStamps(res.GetStamp())
	return soracache.InvalidateResult{Stamp: stamp}, err
}

func (remoteNode) Head(context.Context, string) (soracache.HeadResult, error) {
	return soracache.HeadResult{}, errors.ErrUnsupported
}

func (remoteNode) Watch(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error {
	return errors.ErrUnsupported
}
