package node

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// Explain tells what a Get would say now, and why. The key may be the
// [soracache.Name] of one in a schema.
func (n *Node) Explain(ctx context.Context, namespace, key string) (Explanation, error) {
	ns, err := n.begin(ctx, namespace)
	if err != nil {
		return Explanation{}, err
	}
	defer n.leave(ns)
	p := ns.of(key)
	p.touch(n.now())
	e := Explanation{Partition: int(p.id.Index)}
	e.explainL1(p, key)
	stored, err := n.cfg.Store.Explain(ctx, p.id, key)
	switch {
	case err == nil:
		e.explainL2(&stored)
	case errors.Is(err, soracache.ErrUnavailable):
		e.L2.Reason = "the store does not answer" // which is when this is needed the most
	default:
		return Explanation{}, err
	}
	s := p.follower.State()
	e.Applied, e.ConfirmedAgo = s.Applied, s.Age
	e.conclude(err)
	return e, nil
}

func (e *Explanation) explainL1(p *partition, key string) {
	c, ok := p.node.l1.Get(l1.Key{Space: p.space, Name: key})
	if !ok {
		e.L1.Reason = "not in this node's memory"
		return
	}
	checked := p.follower.Check(&c.proof, soracache.Stamp{})
	now := checked.At
	e.L1 = Copy{
		Present: true, Stamp: c.proof.Stamp, Tags: c.entry.Tags,
		FreshFor: c.freshUntil - now, KeepFor: c.keepUntil - now,
		ValueBytes: len(c.entry.Value), Encoding: c.entry.Encoding, Kind: c.entry.Kind,
	}
	switch {
	case checked.Verdict == invalidation.Dead:
		e.L1.Reason = "since it was read, a record was applied that names it, everything, or another target in one of its slots; or the ledger took a new epoch"
	case checked.Verdict == invalidation.Unconfirmed:
		e.L1.Reason = "this node has not confirmed its position within the bound"
	case now >= c.until:
		e.L1.Reason = "past its time in memory"
	default:
		e.L1.Live = true
	}
}

func (e *Explanation) explainL2(s *l2.Explanation) {
	e.Ledger = s.Ledger
	e.Leased, e.LeaseFor = s.Leased, s.LeaseFor
	e.L2 = Copy{Present: s.Stored, Live: s.Live, Reason: s.Reason, KilledBy: s.KilledBy, Stamp: s.Stamp}
	if s.Readable {
		e.L2.Tags, e.L2.ValueBytes = s.Entry.Tags, s.ValueBytes
		e.L2.Encoding, e.L2.Kind = s.Entry.Encoding, s.Entry.Kind
		e.L2.FreshFor, e.L2.KeepFor = s.FreshFor, s.KeepFor
	}
}

// conclude says what a Get would now answer, with the store's error if it gave
// one.
func (e *Explanation) conclude(failed error) {
	from := func(tier soracache.Tier, c *Copy) {
		e.Tier, e.Status = tier, soracache.StatusHit
		e.Reason = fmt.Sprintf("live in %s: no record after its stamp names its key, a tag or everything", tier)
		if c.FreshFor <= 0 {
			e.Status = soracache.StatusStale
			e.Reason = fmt.Sprintf("live in %s, but past its TTL", tier)
		}
	}
	switch {
	case e.L1.Live && (e.L1.FreshFor > 0 || failed != nil):
		from(soracache.TierL1, &e.L1)
	case failed != nil:
		e.Reason = "unavailable: " + l2.PublicText(failed)
	case e.L2.Live:
		from(soracache.TierL2, &e.L2)
	default:
		e.Status = soracache.StatusMiss
		e.Reason = "nothing stored"
		if e.L2.Present {
			e.Reason = e.L2.Reason
		}
		if e.Leased {
			e.Reason += fmt.Sprintf("; somebody holds the lease for another %s", e.LeaseFor.Round(time.Millisecond))
		}
	}
}

// ListKeys lists about limit keys whose live entries carry a tag, and the token
// of the next page (empty at the end). A key that is there during the whole
// listing is listed; one may be listed twice. A page ends after pageTime, also if
// all that it has met is dead: others wait for their turn.
func (n *Node) ListKeys(ctx context.Context, namespace, tag, pageToken string, limit int) ([]string, string, error) {
	ns, err := n.begin(ctx, namespace)
	if err != nil {
		return nil, "", err
	}
	defer n.leave(ns)
	at, err := parsePage(pageToken)
	if err != nil {
		return nil, "", err
	}
	if int(at.partition) >= len(ns.partitions) {
		return nil, "", errPage
	}
	var keys []string
	for began := n.now(); ; {
		p := ns.partitions[at.partition]
		p.touch(n.now())
		some, next, err := n.cfg.Store.ListKeys(ctx, p.id, tag, at.cursor, limit-len(keys))
		if err != nil {
			return nil, "", err
		}
		keys = append(keys, some...)
		at.cursor = next
		if next == "" {
			if int(at.partition)+1 == len(ns.partitions) {
				return keys, "", nil
			}
			at.partition++
		}
		if len(keys) >= limit || n.now()-began >= pageTime {
			return keys, at.String(), nil
		}
	}
}

// pageTime is how long a page of a listing goes on for more keys.
const pageTime = 500 * time.Millisecond

// page is a place in a listing.
type page struct {
	partition uint16
	cursor    string
}

const pageVersion = 1

var errPage = fmt.Errorf("%w: malformed page token", soracache.ErrInvalid)

func (p page) String() string {
	b := binary.BigEndian.AppendUint16([]byte{pageVersion}, p.partition)
	return base64.RawURLEncoding.EncodeToString(append(b, p.cursor...))
}

func parsePage(token string) (page, error) {
	if token == "" {
		return page{}, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < 3 || b[0] != pageVersion {
		return page{}, errPage
	}
	p := page{partition: binary.BigEndian.Uint16(b[1:]), cursor: string(b[3:])}
	if p.String() != token { // the decoder skips line ends
		return page{}, errPage
	}
	return p, nil
}
