package redis

import (
	"crypto/sha1" //nolint:gosec // how Redis names scripts
	"embed"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/soracache/soracache/l2"
)

// script is one kind of operation.
type script uint8

const (
	scriptRead script = iota
	scriptSince
	scriptInvalidate
	scriptFill
	scriptPut
	scriptRenew
	scriptExplain
	scriptPurge
	scriptList
	scriptReclaim
	scriptWalk
	scriptSweep
	scriptCount
)

//go:embed lua/*.lua
var luaFiles embed.FS

// scriptFiles says of which files each script is put together.
var scriptFiles = [scriptCount][]string{
	scriptRead:       {"ledger", "entry", "lease", "read"},
	scriptSince:      {"ledger", "since"},
	scriptInvalidate: {"ledger", "append", "invalidate"},
	scriptFill:       {"ledger", "lease", "sets", "store", "fill"},
	scriptPut:        {"ledger", "append", "sets", "store", "put"},
	scriptRenew:      {"ledger", "lease", "renew"},
	scriptExplain:    {"ledger", "entry", "lease", "explain"},
	scriptPurge:      {"purge"},
	scriptList:       {"ledger", "entry", "buckets", "list"},
	scriptReclaim:    {"ledger", "entry", "sets", "buckets", "reclaim"},
	scriptWalk:       {"ledger", "entry", "buckets", "walk"},
	scriptSweep:      {"ledger", "sets", "sweep"},
}

// mayRepeat tells which scripts can run twice and do no more harm than once,
// and are therefore sent again when a connection fails. A second invalidation
// only makes more things dead; a second fill or put could bury a newer value.
var mayRepeat = [scriptCount]bool{
	scriptRead: true, scriptSince: true, scriptInvalidate: true, scriptExplain: true, scriptPurge: true,
	scriptList: true, scriptReclaim: true, scriptWalk: true, scriptSweep: true,
}

// process is a Redis process with all scripts loaded into it. Their text holds
// the process' run id: that one of them ran proves which process answered.
type process struct {
	run uint64
	sha [scriptCount]string
}

// newProcess returns the texts to load into the process of a run id, and what
// they will be called by.
func newProcess(run uint64, retention l2.Retention) (*process, [scriptCount]string) {
	p := &process{run: run}
	var texts [scriptCount]string
	for s := range scriptCount {
		texts[s] = scriptText(s, run, retention)
		sum := sha1.Sum([]byte(texts[s])) //nolint:gosec // see import
		p.sha[s] = hex.EncodeToString(sum[:])
	}
	return p, texts
}

func scriptText(s script, run uint64, retention l2.Retention) string {
	var text strings.Builder
	fmt.Fprintf(&text, "local RUN, MAX_DELTA = %d, %d\n", run, l2.MaxDelta)
	fmt.Fprintf(&text, "local TAG_RECORDS, KEY_RECORDS, AGE = %d, %d, %d\n",
		retention.TagRecords, retention.KeyRecords, retention.Age.Microseconds())
	for _, name := range scriptFiles[s] {
		content, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			panic(err) // embedded: a test loads them all
		}
		text.Write(content)
		text.WriteByte('\n')
	}
	return text.String()
}
