package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/soracache/soracache"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// membersCmd lists the nodes.
type membersCmd struct {
	remote
}

func (c *membersCmd) declare(o *options) {
	c.remote.declare(o.section("Connection"))
}

// Run asks one node for what it knows.
func (c *membersCmd) Run(ctx context.Context, con *console) error {
	node, err := c.dial()
	if err != nil {
		return err
	}
	defer node.close()
	answer, err := node.cluster.Members(ctx, &soracachev1.MembersRequest{})
	if err != nil {
		return err
	}
	if c.JSON {
		return con.printJSON(answer)
	}
	rows := [][]string{{"NAME", "STATE", "FOR", "RPC", "GOSSIP", "VERSION", "BOUND"}}
	for _, m := range answer.GetMembers() {
		rows = append(rows, []string{
			clean(m.GetName()), stateText(m), short(m.GetStateFor()), orDash(m.GetRpcAddress()), orDash(m.GetGossipAddress()),
			orDash(m.GetVersion()), boundText(m),
		})
	}
	return con.columns(rows)
}

// stateText marks the node that was asked.
func stateText(m *soracachev1.Member) string {
	if m.GetSelf() {
		return name(m.GetState()) + " (asked)"
	}
	return name(m.GetState())
}

func boundText(m *soracachev1.Member) string {
	if m.GetBound() == nil {
		return "-"
	}
	return short(m.GetBound())
}

// orDash fills a cell of a table.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return clean(text)
}

// answered is what one node of a cluster said of itself, or why it said
// nothing.
type answered struct {
	member *soracachev1.Member
	stats  *soracachev1.StatsResponse
	// gone tells that another member answers at its address: it was started
	// again.
	gone bool
	err  error
}

// attribute checks that it was this member that answered, so that none is
// counted twice.
func (a *answered) attribute() {
	if a.stats == nil || a.member.GetSelf() || a.stats.GetNode() == a.member.GetName() {
		return
	}
	if a.member.GetState() == soracachev1.MemberState_MEMBER_STATE_SUSPECT {
		a.gone = true
	} else {
		a.err = fmt.Errorf("%s answers there", clean(a.stats.GetNode()))
	}
	a.stats = nil
}

// there tells whether a member is to be asked: one that has left or is dead is
// not.
func there(m *soracachev1.Member) bool {
	return m.GetState() != soracachev1.MemberState_MEMBER_STATE_LEFT && m.GetState() != soracachev1.MemberState_MEMBER_STATE_DEAD
}

// ofCluster asks one node for the others, and then each of them.
func (c *statsCmd) ofCluster(ctx context.Context, con *console, node *client) error {
	known, err := node.cluster.Members(ctx, &soracachev1.MembersRequest{})
	if err != nil {
		return err
	}
	answers := make([]answered, len(known.GetMembers()))
	var asked sync.WaitGroup
	for i, m := range known.GetMembers() {
		answers[i].member = m
		if there(m) {
			asked.Go(func() {
				answers[i].stats, answers[i].err = c.ask(ctx, m)
				answers[i].attribute()
			})
		}
	}
	asked.Wait()
	if c.JSON {
		err = con.printClusterJSON(answers)
	} else {
		err = con.printCluster(answers)
	}
	return errors.Join(err, unanswered(answers))
}

// ask asks one node. The one that is known to be reached by --server is asked
// there, whatever address it goes by in the cluster.
func (c *statsCmd) ask(ctx context.Context, m *soracachev1.Member) (*soracachev1.StatsResponse, error) {
	at := c.remote
	switch {
	case m.GetSelf():
	case m.GetRpcAddress() == "":
		return nil, errors.New("its address is not known")
	default:
		at = c.at(m.GetRpcAddress())
	}
	node, err := at.dial()
	if err != nil {
		return nil, err
	}
	defer node.close()
	return node.cluster.Stats(ctx, &soracachev1.StatsRequest{})
}

// unanswered is the error of those that did not answer, as a whole.
func unanswered(answers []answered) error {
	asked, failed := 0, 0
	for _, a := range answers {
		if there(a.member) && !a.gone {
			asked++
		}
		if a.err != nil {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d of %d nodes did not answer", soracache.ErrUnavailable, failed, asked)
}

// sums adds the totals of all that answered, but for those that are no amounts.
func sums(answers []answered) map[string]float64 {
	all := map[string]float64{}
	for _, a := range answers {
		for name, value := range a.stats.GetTotals() {
			if summable(name) {
				all[name] += value
			}
		}
	}
	return all
}

// summable is false for places and descriptions.
func summable(total string) bool {
	for _, prefix := range []string{"soracache_build_info", "soracache_partition_applied", "soracache_partitions_lag_max", "soracache_members"} {
		if strings.HasPrefix(total, prefix) {
			return false
		}
	}
	return true
}

// printCluster writes the nodes under numbers, and their totals in columns.
func (c *console) printCluster(answers []answered) error {
	nodes := [][]string{{"", "NAME", "RPC", "VERSION", "UPTIME", "STORE"}}
	heads := []string{"TOTAL", "SUM"}
	names := map[string]struct{}{}
	for i, a := range answers {
		label := "#" + strconv.Itoa(i+1)
		row := []string{label, clean(a.member.GetName()), orDash(a.member.GetRpcAddress())}
		switch {
		case a.err != nil:
			row = append(row, "cannot be asked: "+clean(message(a.err)))
		case a.gone:
			row = append(row, "was started again")
		case a.stats == nil:
			row = append(row, "not asked: "+name(a.member.GetState()))
		default:
			row = append(row, orDash(a.stats.GetVersion()), short(a.stats.GetUptime()), orDash(storeSummary(a.stats.GetStore())))
			heads = append(heads, label)
		}
		nodes = append(nodes, row)
		for name := range a.stats.GetTotals() {
			names[name] = struct{}{}
		}
	}
	if err := c.columns(nodes); err != nil {
		return err
	}
	together := sums(answers)
	rows := [][]string{heads}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		row := []string{name, "-"}
		if sum, ok := together[name]; ok {
			row[1] = number(sum)
		}
		for _, a := range answers {
			if a.stats == nil {
				continue
			}
			cell := "-"
			if value, ok := a.stats.GetTotals()[name]; ok {
				cell = number(value)
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	if len(rows) == 1 {
		return nil
	}
	if err := c.say(""); err != nil {
		return err
	}
	return c.columns(rows)
}

// storeSummary is storeText in few words: how many of its parts do not answer.
func storeSummary(s *soracachev1.StoreStatus) string {
	unreachable := 0
	for _, part := range s.GetParts() {
		if !part.GetReachable() {
			unreachable++
		}
	}
	switch n := len(s.GetParts()); {
	case unreachable == 0:
		return clean(s.GetScheme())
	case n == 1:
		return clean(s.GetScheme()) + ": unreachable"
	default:
		return fmt.Sprintf("%s: %d of %d parts unreachable", clean(s.GetScheme()), unreachable, n)
	}
}

// printClusterJSON writes members and totals in the form of the contract, each
// with what the other lacks.
func (c *console) printClusterJSON(answers []answered) error {
	type one struct {
		Member json.RawMessage `json:"member"`
		Stats  json.RawMessage `json:"stats,omitempty"`
		Error  string          `json:"error,omitempty"`
	}
	all := struct {
		Nodes  []one              `json:"nodes"`
		Totals map[string]float64 `json:"totals"`
	}{Totals: sums(answers)}
	for _, a := range answers {
		var o one
		var err error
		if o.Member, err = protojson.Marshal(a.member); err != nil {
			return err
		}
		if a.stats != nil {
			if o.Stats, err = protojson.Marshal(a.stats); err != nil {
				return err
			}
		}
		if a.err != nil {
			o.Error = message(a.err)
		}
		all.Nodes = append(all.Nodes, o)
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line) // it takes out protojson's spaces
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(all); err != nil {
		return err
	}
	_, err := line.WriteTo(c.out)
	return err
}
