package command

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
)

// The command changes an embedded store while no node has it open, at once: who
// might serve what it kept of it would be in this process.
func TestRepartition(t *testing.T) {
	dir := t.TempDir()
	use := func(partitions int) error {
		s, err := embedded.Open(embedded.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		return s.Since(t.Context(), []l2.SinceRequest{{
			Partition: l2.Partition{Namespace: "shop", Count: uint16(partitions)}, Register: l2.Registration{Name: "n", Bound: l2.MaxBound},
		}})[0].Err
	}
	if err := use(1); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := run(context.Background(), append([]string{"repartition", "--l2", "embedded:" + dir}, args...), console{out: &out, err: &out})
		return code, out.String()
	}
	for _, args := range [][]string{{"--partitions", "0"}, {"--partitions", "1025"}, {"--namespace", "Shop", "--partitions", "4"}, {}} {
		if code, out := command(args...); code != exitUsage {
			t.Errorf("%q ends with %d: %s", args, code, out)
		}
	}
	for range 2 {
		if code, out := command("--namespace", "shop", "--partitions", "4"); code != exitOK || !strings.Contains(out, "shop has 4 partitions") {
			t.Fatalf("ends with %d: %s", code, out)
		}
	}
	if err := use(1); err == nil {
		t.Error("the old number is in force")
	}
	if err := use(4); err != nil {
		t.Error(err)
	}
	if code, out := command("--namespace", "other", "--partitions", "2", "--l2", "redis://127.0.0.1:1", "--patience", "0s"); code != exitUnavailable {
		t.Errorf("without a store it ends with %d: %s", code, out)
	}
}
