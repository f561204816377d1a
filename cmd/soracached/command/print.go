package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// printJSON writes a message on one line, in the form that the service's JSON
// has. (protojson varies its spaces on purpose; Compact takes them out.)
func (c *console) printJSON(m proto.Message) error {
	b, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil {
		return err
	}
	line.WriteByte('\n')
	_, err = line.WriteTo(c.out)
	return err
}

// say writes a line for people, unless the output is JSON.
func (c *console) say(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format+"\n", args...)
	return err
}

// table writes rows of a name and a value, aligned; rows without a value are
// left out.
func (c *console) table(rows [][2]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if row[1] != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
		}
	}
	return w.Flush()
}

// columns writes rows of cells, aligned.
func (c *console) columns(rows [][]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// printValue writes a value as it is. For a person it ends in a new line, and
// bytes that would upset a terminal are only counted.
func (c *console) printValue(value []byte) error {
	if !c.terminal {
		_, err := c.out.Write(value)
		return err
	}
	if !printable(value) {
		return c.say("(%d bytes that are not text: send the output to a file or a pipe to get them)", len(value))
	}
	return c.say("%s", bytes.TrimSuffix(value, []byte("\n")))
}

func printable(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	return bytes.IndexFunc(b, func(r rune) bool {
		return !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r'
	}) < 0
}

// clean makes text from a cache safe to print on one line.
func clean(s string) string {
	if printable([]byte(s)) && !strings.ContainsAny(s, "\n\r\t") {
		return s
	}
	return strconv.Quote(s)
}

func cleanAll(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, clean(s))
	}
	return strings.Join(out, ", ")
}

// short writes a duration with about three digits.
func short(d *durationpb.Duration) string {
	v := d.AsDuration()
	switch a := v.Abs(); {
	case a >= time.Minute:
		v = v.Round(time.Second)
	case a >= time.Second:
		v = v.Round(100 * time.Millisecond)
	case a >= time.Millisecond:
		v = v.Round(time.Millisecond)
	default:
		v = v.Round(time.Microsecond)
	}
	return v.String()
}

// lifetime tells how long an entry is fresh and kept.
func lifetime(fresh, keep *durationpb.Duration) string {
	if fresh.AsDuration() <= 0 {
		return fmt.Sprintf("stale for %s, kept for %s", short(durationpb.New(-fresh.AsDuration())), short(keep))
	}
	return fmt.Sprintf("fresh for %s, kept for %s", short(fresh), short(keep))
}

// name returns the last part of an enum's name in small letters:
// STATUS_HIT is hit.
func name(enum fmt.Stringer) string {
	text := enum.String()
	for _, prefix := range []string{"STATUS_", "TIER_", "KIND_", "REASON_", "MEMBER_STATE_"} {
		text = strings.TrimPrefix(text, prefix)
	}
	return strings.ToLower(strings.ReplaceAll(text, "_", " "))
}

func statusAndTier(status soracachev1.Status, tier soracachev1.Tier) string {
	if tier == soracachev1.Tier_TIER_UNSPECIFIED {
		return name(status)
	}
	return name(status) + " in " + name(tier)
}

// number writes a total without an exponent.
func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func bytesText(n int64) string {
	if n == 1 {
		return "1 byte"
	}
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%d bytes (%s)", n, humanize.IBytes(uint64(n)))
}

// note writes a remark that is not part of the answer.
func (c *console) note(format string, args ...any) {
	if c.terminal {
		_, _ = fmt.Fprintf(c.err, format+"\n", args...)
	}
}

// readAll reads the whole of what a person or a pipe gives.
func (c *console) readAll() ([]byte, error) { return io.ReadAll(c.in) }
