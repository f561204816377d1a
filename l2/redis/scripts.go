package redis

import (
	"crypto/sha1" //nolint:gosec // how Redis names scripts
	"embed"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
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
	scriptSweep
	scriptDue
	scriptNumber
	scriptBury
	scriptCount
)

//go:embed lua/*.lua
var luaFiles embed.FS

var scriptNames = [scriptCount]string{
	scriptRead: "read", scriptSince: "since", scriptInvalidate: "invalidate", scriptFill: "fill", scriptPut: "put",
	scriptRenew: "renew", scriptExplain: "explain", scriptPurge: "purge", scriptList: "list",
	scriptReclaim: "reclaim", scriptSweep: "sweep", scriptDue: "due",
	scriptNumber: "number", scriptBury: "bury",
}

// stateBytes is how long a ledger's state is of which nothing settles.
const stateBytes = 1 + 7*8 + 2

// constants are written into the scripts in the place of their names: sharing a
// variable costs a script more than it seems.
func constants(run uint64, retention l2.Retention) map[string]any { //nolint:funlen // a table
	return map[string]any{
		"RUN":         run,
		"TAG_RECORDS": retention.TagRecords,
		"KEY_RECORDS": retention.KeyRecords,
		"AGE":         retention.Age.Microseconds(),
		"MAX_DELTA":   l2.MaxDelta,
		"LEFT_EPOCHS": 1000, // that a ledger remembers

		"LIVE":          verdictLive,
		"ABSENT":        verdictAbsent,
		"CORRUPT":       verdictCorrupt,
		"FOREIGN_EPOCH": verdictForeignEpoch,
		"EXPIRED":       verdictExpired,
		"AHEAD":         verdictAhead,
		"CLEARED":       verdictCleared,
		"BELOW_FLOOR":   verdictBelowFloor,
		"TAG_RECORD":    verdictTagRecord,
		"KEY_RECORD":    verdictKeyRecord,
		"LEASE_NONE":    uint8(soracache.LeaseNone),
		"LEASE_GRANTED": uint8(soracache.LeaseGranted),
		"LEASE_HELD":    uint8(soracache.LeaseHeld),
		"LEASE_REFUSED": uint8(soracache.LeaseRefused),

		"LEASE_PASSED": leasePassed,

		"REFUSAL_STORE_FULL": uint8(soracache.RefusalStoreFull),
		"REFUSAL_LIMIT":      uint8(soracache.RefusalLimit),
		"REFUSAL_PASSED":     uint8(soracache.RefusalPassed),
		"LOAD_NOT_STORABLE":  uint8(soracache.LoadNotStorable),

		"STORED":     uint8(soracache.ReasonNone),
		"SUPERSEDED": uint8(soracache.ReasonSuperseded),
		"LEASE_LOST": uint8(soracache.ReasonLeaseLost),

		"CHUNK":          4000, // arguments of one command; Lua can pass some 8,000
		"COMMON_BYTES":   commonBytes,
		"STATE_BYTES":    stateBytes,
		"SETTLING_BYTES": stateBytes + 3*8, // of a state while something settles,
		"MARKED":         2*8 + 1,          // of whose last 24 bytes these begin the last 8
		"SETTLING_MOST":  l2.MaxSettling,
		"LATER_SETTLING": 31, // the version of a later form of w: text is none
		"MAX_SETTLE":     soracache.MaxSettle.Microseconds(),
		"MARK_BYTES":     25,
		"MAX_LEASE":      soracache.MaxLease.Microseconds(),
		"NONCE_BYTES":    len(soracache.Lease{}),
		"LEASE_BYTES":    len(soracache.Lease{}) + 3*8,
		"HOLDER_BYTES":   8,
		"NOBODY":         strings.Repeat(`\0`, 8),
		"OUTCOME_BYTES":  1 + 8 + 2*8,
		"MOST_REMEMBER":  l2.MaxRemember.Microseconds(),
		"WISH_BYTES":     wishBytes,
		"HEAD_BYTES":     l2.HeadBytes,
		"FIXED_BYTES":    l2.HeadBytes + 13, // and what precedes the key
		"LARGE_BYTES":    largeBytes,
		"SMALL_BYTES":    l2.SmallBytes,
		"INLINE_MOST":    l2.InlineMost,
		// A key's part of an answer to a read: live (0), no lease (0), zeros.
		"NOTHING_TO_TELL": strings.Repeat(`\0`, keyBytes),

		"LARGE_END":    strconv.Itoa(largeBytes - 1),
		"SMALL_END":    strconv.Itoa(l2.SmallBytes),
		"PREFIX_BYTES": prefixBytes,
		"PREFIX_END":   strconv.Itoa(prefixBytes - 1),
		"DELTA_LIMIT":  strconv.Itoa(l2.MaxDelta + 1),

		"MAX_BOUND":        l2.MaxBound.Microseconds(),
		"FOLLOWERS_SLACK":  l2.RegistrationSlack.Microseconds(),
		"FOLLOWERS_EXPIRY": (l2.MaxBound + l2.RegistrationSlack + soracache.MaxLease).Milliseconds(),

		"BURIED":        buried,
		"LOOKED_UP_FOR": lookedUpFor.Microseconds(),
		"NUMBER_EXPIRY": strconv.FormatInt(l2.PartitionsExpiry.Milliseconds(), 10),

		"SLACK":      (10 * time.Minute).Milliseconds(),
		"SWEEP_STEP": 32, // buckets
		"PAGE_KEYS":  pageKeys,

		"UNUSED_EXPIRY": (5 * time.Minute).Milliseconds(),
		"QUIET":         l2.LedgerQuiet.Microseconds(),
		"TRIM_STEP":     1000, // records
		// A bucket ends at most an eighth after the longest keep time.
		"BUCKETS_MOST": (l2.MaxKeep * 9 / 8).Milliseconds(),
		"MAX_KEEP":     l2.MaxKeep.Microseconds(),
		"CLOCK_SLACK":  l2.ClockSlack.Microseconds(),
		"MAX_SCHEMAS":  soracache.MaxSchemas,
		"LOOK_LEAST":   lookLeast.Milliseconds(),
		"LOOK_MOST":    time.Hour.Milliseconds(),
		"HELD":         time.Minute.Milliseconds(),
	}
}

// mayRepeat tells which scripts can run twice and do no more harm than once,
// and are therefore sent again when a connection fails. A second invalidation
// only makes more things dead; a second fill or put could bury a newer value.
var mayRepeat = [scriptCount]bool{
	scriptRead: true, scriptSince: true, scriptInvalidate: true, scriptExplain: true, scriptPurge: true,
	scriptList: true, scriptReclaim: true, scriptSweep: true, scriptDue: true,
	scriptNumber: true, scriptBury: true,
}

// process is a Redis process with all scripts loaded into it. Their text holds
// the process' run id: that one of them ran proves which process answered.
type process struct {
	run uint64
	sha [scriptCount]any // strings, ready to be sent
}

// newProcess returns the texts to load into the process of a run id, and what
// they will be called by.
func newProcess(run uint64, retention l2.Retention) (*process, [scriptCount]string) {
	p := &process{run: run}
	var texts [scriptCount]string
	values := constants(run, retention)
	for s := range scriptCount {
		texts[s] = scriptText(s, values)
		sum := sha1.Sum([]byte(texts[s])) //nolint:gosec // see import
		p.sha[s] = hex.EncodeToString(sum[:])
	}
	return p, texts
}

// prefixBytes is how much of an entry is read that is only judged.
const prefixBytes = 512

var capitals = regexp.MustCompile(`\b[A-Z][A-Z_]+\b`)

// templates are the texts of all scripts, includes taken in and comments left
// out, each cut at the capitalised names: every second piece is one.
//
//nolint:gochecknoglobals // computed once from embedded files, and never changed
var templates = sync.OnceValue(func() (all [scriptCount][]string) {
	for s := range scriptCount {
		text := expanded(scriptNames[s])
		from := 0
		for _, name := range capitals.FindAllStringIndex(text, -1) {
			all[s] = append(all[s], text[from:name[0]], text[name[0]:name[1]])
			from = name[1]
		}
		all[s] = append(all[s], text[from:])
	}
	return all
})

// scriptText fills constants into a script.
func scriptText(s script, constants map[string]any) string {
	var text strings.Builder
	for i, piece := range templates()[s] {
		value, known := constants[piece]
		switch {
		case i%2 == 0 || !known:
			text.WriteString(piece)
		default:
			if literal, ok := value.(string); ok {
				value = "'" + literal + "'"
			}
			fmt.Fprint(&text, value)
		}
	}
	return text.String()
}

// expanded returns a file with its includes taken in and its comments left out.
func expanded(name string) string {
	var text strings.Builder
	for line := range strings.Lines(luaFile(name)) {
		line = strings.TrimLeft(line, " ")
		if file, ok := strings.CutPrefix(line, "--@include "); ok {
			text.WriteString(expanded(strings.TrimSpace(file)))
		} else if line != "\n" && !strings.HasPrefix(line, "--") {
			text.WriteString(line)
		}
	}
	return text.String()
}

func luaFile(name string) string {
	content, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // embedded: a test puts all scripts together
	}
	return string(content)
}
