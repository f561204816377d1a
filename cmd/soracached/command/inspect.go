package command

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// explainCmd tells what a read would now say, and why.
type explainCmd struct {
	Key string
	namespace
	schema
	remote
}

func (c *explainCmd) declare(o *options) {
	o.argument(&c.Key, "KEY")
	c.namespace.declare(o)
	c.schema.declare(o)
	c.remote.declare(o.section("Connection"))
}

// Run asks for the explanation. That there is no value is an answer as good as
// any: the exit code is then 0.
func (c *explainCmd) Run(ctx context.Context, con *console) error {
	node, err := c.dial()
	if err != nil {
		return err
	}
	defer node.close()
	answer, err := node.cache.Explain(ctx, &soracachev1.ExplainRequest{Namespace: c.Namespace, Key: c.Key, Schema: c.Schema})
	if err != nil {
		return err
	}
	if c.JSON {
		return con.printJSON(answer)
	}
	return con.table([][2]string{
		{"status", statusAndTier(answer.GetStatus(), answer.GetTier())},
		{"reason", clean(answer.GetReason())},
		{"l1", copyText(answer.GetL1())},
		{"l2", copyText(answer.GetL2())},
		{"lease", leaseText(answer)},
		{"ledger", ledgerText(answer)},
		{"node", followText(answer)},
	})
}

// copyText tells what one tier holds.
func copyText(c *soracachev1.ExplainResponse_Copy) string {
	if !c.GetPresent() {
		return "nothing"
	}
	parts := []string{"live"}
	if !c.GetLive() {
		parts[0] = "dead: " + clean(c.GetReason())
		if p := c.GetKilledByPosition(); p != 0 {
			parts[0] += fmt.Sprintf(" (%s at %s)", cleanAll(c.GetKilledByTargets()), positionText(p))
		}
	}
	parts = append(parts, lifetime(c.GetFreshFor(), c.GetKeepFor()), bytesText(c.GetValueBytes()))
	if c.GetKind() != soracachev1.Kind_KIND_VALUE {
		parts = append(parts, name(c.GetKind()))
	}
	if c.GetEncoding() != "" {
		parts = append(parts, clean(c.GetEncoding()))
	}
	if len(c.GetTags()) > 0 {
		parts = append(parts, "tags "+cleanAll(c.GetTags()))
	}
	parts = append(parts, fmt.Sprintf("reflects epoch %d up to %s", c.GetEpoch(), positionText(c.GetPosition())))
	return strings.Join(parts, "; ")
}

func leaseText(answer *soracachev1.ExplainResponse) string {
	if !answer.GetLeased() {
		return "free"
	}
	return "held for another " + short(answer.GetLeaseFor())
}

func ledgerText(answer *soracachev1.ExplainResponse) string {
	return fmt.Sprintf("partition %d; epoch %d; head %s", answer.GetPartition(), answer.GetEpoch(), positionText(answer.GetHead()))
}

func followText(answer *soracachev1.ExplainResponse) string {
	if ago := answer.GetConfirmedAgo(); ago != nil && ago.AsDuration() >= 0 {
		return fmt.Sprintf("applied %s; confirmed %s ago", positionText(answer.GetApplied()), short(ago))
	}
	return fmt.Sprintf("applied %s; not confirmed", positionText(answer.GetApplied()))
}

// positionText adds the time that can be read off a position.
func positionText(p uint64) string {
	if p < 1e15 || p >= 1<<53 {
		return strconv.FormatUint(p, 10)
	}
	at := time.UnixMicro(int64(p))
	return fmt.Sprintf("%d (%s)", p, at.UTC().Format("2006-01-02T15:04:05.000Z"))
}

// storeText tells what the second tier is, and of each of its parts whether it answers.
// A node of an earlier version says nothing of it.
func storeText(s *soracachev1.StoreStatus) string {
	var parts []string
	for _, part := range s.GetParts() {
		state := "unreachable"
		if part.GetReachable() {
			state = "reachable"
		}
		parts = append(parts, strings.TrimSpace(clean(part.GetName())+" "+state+" for "+short(part.GetStateFor())))
	}
	switch {
	case s == nil:
		return ""
	case len(parts) == 0:
		parts = []string{"nothing was asked of it"}
	}
	return clean(s.GetScheme()) + ": " + strings.Join(parts, ", ")
}

// statsCmd prints the running totals.
type statsCmd struct {
	Cluster bool
	remote
}

func (c *statsCmd) declare(o *options) {
	call := o.perCall()
	call.yes(&c.Cluster, "cluster", "Of every node of the cluster that answers, and their sums")
	c.remote.declare(o.section("Connection"))
}

// Run asks the node.
func (c *statsCmd) Run(ctx context.Context, con *console) error {
	node, err := c.dial()
	if err != nil {
		return err
	}
	defer node.close()
	if c.Cluster {
		return c.ofCluster(ctx, con, node)
	}
	answer, err := node.cluster.Stats(ctx, &soracachev1.StatsRequest{})
	if err != nil {
		return err
	}
	if c.JSON {
		return con.printJSON(answer)
	}
	rows := [][2]string{
		{"node", clean(answer.GetNode())}, {"version", clean(answer.GetVersion())}, {"uptime", short(answer.GetUptime())},
		{"store", storeText(answer.GetStore())},
	}
	for _, total := range slices.Sorted(maps.Keys(answer.GetTotals())) {
		rows = append(rows, [2]string{total, number(answer.GetTotals()[total])})
	}
	return con.table(rows)
}
