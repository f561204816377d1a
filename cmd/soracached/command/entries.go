package command

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// schema is which of a key's values a command is about.
type schema struct {
	Schema string
}

func (c *schema) declare(o *options) {
	call := o.perCall()
	call.text(&c.Schema, "schema", "", "NAME", "The schema of the value (the default one)")
}

// errNoSchemas is for what a node answers that is of an earlier version.
var errNoSchemas = errors.New("the node is of a version that knows nothing of schemas")

// getCmd prints the value as it is, so that it can be piped; what else is
// known of it goes to standard error, for people only.
type getCmd struct {
	Key string
	namespace
	schema
	AcceptUnconfirmed bool
	remote
}

func (c *getCmd) declare(o *options) {
	call := o.perCall()
	o.argument(&c.Key, "KEY")
	c.namespace.declare(o)
	c.schema.declare(o)
	call.yes(&c.AcceptUnconfirmed, "accept-unconfirmed", "Accept what the node holds but cannot confirm, while its store is down")
	c.remote.declare(o.section("Connection"))
}

// Run asks for the key.
func (c *getCmd) Run(ctx context.Context, con *console) error {
	node, err := c.dial()
	if err != nil {
		return err
	}
	defer node.close()
	answer, err := node.cache.Get(ctx, &soracachev1.GetRequest{
		Namespace: c.Namespace, Key: c.Key, Schema: c.Schema, AcceptUnconfirmed: c.AcceptUnconfirmed,
	})
	switch {
	case err != nil:
		return err
	case c.Schema != "" && !answer.GetInSchema():
		return errNoSchemas
	}
	missing := answer.GetStatus() == soracachev1.Status_STATUS_MISS || answer.GetKind() == soracachev1.Kind_KIND_NOT_FOUND
	failure := answer.GetKind() == soracachev1.Kind_KIND_ERROR
	switch {
	case c.JSON:
		err = con.printJSON(answer)
	case answer.GetStatus() == soracachev1.Status_STATUS_MISS:
		con.note("miss: nothing live under %s", clean(c.Key))
	case missing:
		con.note("%s: cached as not found, %s", statusAndTier(answer.GetStatus(), answer.GetTier()),
			lifetime(answer.GetFreshFor(), answer.GetKeepFor()))
	case failure: // its text is no value: it does not go where values go
		con.note("%s: cached as failed: %s; %s", statusAndTier(answer.GetStatus(), answer.GetTier()),
			clean(string(answer.GetValue())), lifetime(answer.GetFreshFor(), answer.GetKeepFor()))
	default:
		err = con.printEntry(answer)
	}
	switch {
	case err != nil:
		return err
	case missing:
		return errNoValue
	case failure:
		return errCachedFailure
	}
	return nil
}

func (c *console) printEntry(answer *soracachev1.GetResponse) error {
	if err := c.printValue(answer.GetValue()); err != nil {
		return err
	}
	remark := statusAndTier(answer.GetStatus(), answer.GetTier()) + "; " + lifetime(answer.GetFreshFor(), answer.GetKeepFor())
	if answer.GetUnconfirmed() {
		remark += "; not confirmed"
	}
	if tags := answer.GetTags(); len(tags) > 0 {
		remark += "; tags " + cleanAll(tags)
	}
	if encoding := answer.GetEncoding(); encoding != "" {
		remark += "; " + clean(encoding)
	}
	c.note("%s", remark)
	return nil
}

// setCmd writes without a lease, as the Set of the contract does.
type setCmd struct {
	Key   string
	Value string
	namespace
	schema
	Tag      []string
	TTL      time.Duration
	Keep     time.Duration
	L1TTL    time.Duration
	Encoding string
	ETag     string
	remote
}

func (c *setCmd) declare(o *options) {
	call := o.perCall()
	o.argument(&c.Key, "KEY")
	o.optional(&c.Value, "VALUE", "-")
	c.namespace.declare(o)
	c.schema.declare(o)
	call.each(&c.Tag, "tag,t", "NAME", "Tag that the value carries (repeatable)")
	call.duration(&c.TTL, "ttl", "5m", "How long the value is fresh")
	call.duration(&c.Keep, "keep", "", "How long the value is kept, stale, beyond that: counted from now (as long as --ttl)")
	call.duration(&c.L1TTL, "l1-ttl", "", "The longest that a node's memory may keep it (no cap)")
	call.text(&c.Encoding, "encoding", "", "TEXT", "How the value is encoded: json, raw, proto, or a name of your own (raw)")
	call.text(&c.ETag, "etag", "", "TEXT", "Validator of the source")
	c.remote.declare(o.section("Connection"))
}

// Run writes the value.
func (c *setCmd) Run(ctx context.Context, con *console) error {
	value := []byte(c.Value)
	if c.Value == "-" {
		var err error
		if value, err = con.readAll(); err != nil {
			return err
		}
	}
	node, err := c.dial()
	if err != nil {
		return err
	}
	defer node.close()
	answer, err := node.cache.Set(ctx, &soracachev1.SetRequest{
		Namespace: c.Namespace, Key: c.Key, Schema: c.Schema, Value: value, Tags: c.Tag, Encoding: c.Encoding, Etag: c.ETag,
		Ttl: duration(c.TTL), Keep: duration(c.Keep), L1Ttl: duration(c.L1TTL),
	})
	if err != nil {
		return err
	}
	if c.JSON {
		return con.printJSON(answer)
	}
	return con.say("stored %s: %s, fresh for %s", clean(c.Key), bytesText(int64(len(value))), c.TTL)
}

// duration leaves out what was not given.
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// rmCmd invalidates by key.
type rmCmd struct {
	Keys []string
	File string
	namespace
	invalidating
	remote
}

func (c *rmCmd) declare(o *options) {
	call := o.perCall()
	o.rest(&c.Keys, "KEY")
	call.text(&c.File, "file,f", "", "FILE", "File with the keys, one a line; - reads them from standard input. However many there are, they are sent in parts")
	c.namespace.declare(o)
	c.invalidating.declare(o)
	c.remote.declare(o.section("Connection"))
}

// invalidating are the options of the commands that invalidate.
type invalidating struct {
	Ack    bool
	Settle time.Duration
}

func (i *invalidating) declare(o *options) {
	call := o.perCall()
	call.yes(&i.Ack, "ack", "Return only once no node can serve the old values any more, and name the nodes that had to be waited out")
	call.duration(&i.Settle, "settle", "", "How far the source may lag, such as a replica that loaders read from: what they compute within that time is returned and not kept (1m at most)")
}

// Run invalidates the keys.
func (c *rmCmd) Run(ctx context.Context, con *console) error {
	switch {
	case (len(c.Keys) == 0) == (c.File == ""):
		return usage(errors.New("rm needs either keys or --file"))
	case c.File != "":
		return c.removeListed(ctx, con)
	}
	names := make([]target, len(c.Keys))
	for i, key := range c.Keys {
		names[i] = target{text: key}
	}
	return c.invalidateNames(ctx, con, names, namesAtOnce, c.request(c.Namespace), "removed "+cleanAll(c.Keys), "removed", "keys")
}

// invalidateCmd invalidates by tag, and by key in the same step if asked to, unless there are too many for one.
type invalidateCmd struct {
	Tag []string
	Key []string
	namespace
	invalidating
	remote
}

func (c *invalidateCmd) declare(o *options) {
	call := o.perCall()
	call.required().each(&c.Tag, "tag,t", "NAME", "The tag (repeatable)")
	call.each(&c.Key, "key,k", "NAME", "A key to invalidate with them (repeatable)")
	c.namespace.declare(o)
	c.invalidating.declare(o)
	c.remote.declare(o.section("Connection"))
}

// Run invalidates the tags.
func (c *invalidateCmd) Run(ctx context.Context, con *console) error {
	names := make([]target, 0, len(c.Tag)+len(c.Key))
	for _, tag := range c.Tag {
		names = append(names, target{text: tag, tag: true})
	}
	for _, key := range c.Key {
		names = append(names, target{text: key})
	}
	return c.invalidateNames(ctx, con, names, namesAtOnce, c.request(c.Namespace), "invalidated "+cleanAll(slices.Concat(c.Tag, c.Key)), "invalidated", "names")
}

// clearCmd invalidates a whole namespace.
type clearCmd struct {
	namespace
	invalidating
	remote
}

func (c *clearCmd) declare(o *options) {
	c.namespace.declare(o)
	c.invalidating.declare(o)
	c.remote.declare(o.section("Connection"))
}

// Run invalidates everything.
func (c *clearCmd) Run(ctx context.Context, con *console) error {
	req := c.request(c.Namespace)
	req.All = true
	return c.invalidate(ctx, con, req, "cleared namespace "+clean(c.Namespace))
}

func (r remote) invalidate(ctx context.Context, con *console, req *soracachev1.InvalidateRequest, done string) error {
	node, err := r.dial()
	if err != nil {
		return err
	}
	defer node.close()
	answer, err := node.cache.Invalidate(ctx, req)
	if err != nil {
		return err
	}
	if r.JSON {
		return con.printJSON(answer)
	}
	return con.say("%s", invalidated(done, req.GetAcknowledge(), answer.GetStragglers()))
}

// invalidated tells what was done, and which nodes had to be waited out.
func invalidated(done string, acknowledged bool, late []string) string {
	switch {
	case len(late) > 0:
		return done + "; waited out, because they did not acknowledge it: " + cleanAll(late)
	case acknowledged:
		return done + "; acknowledged by every node"
	}
	return done
}

// keysCmd lists page after page.
type keysCmd struct {
	Tag string
	namespace
	Limit     int
	PageSize  int
	PageToken string
	remote
}

func (c *keysCmd) declare(o *options) {
	call := o.perCall()
	call.required().text(&c.Tag, "tag,t", "", "NAME", "The tag")
	c.namespace.declare(o)
	call.number(&c.Limit, "limit", "", "Stop after this many keys, at the end of a page (no limit)")
	call.number(&c.PageSize, "page-size", "1000", "How many keys to ask for at a time")
	call.text(&c.PageToken, "page-token", "", "TEXT", "Go on where an earlier listing stopped")
	c.remote.declare(o.section("Connection"))
}

// Run lists the keys, one a line. A key that is written during the listing may
// be listed twice. Where the limit stopped it, the token to go on with is in
// the JSON, or for people on standard error.
func (c *keysCmd) Run(ctx context.Context, con *console) error {
	node, err := c.dial()
	if err != nil {
		return err
	}
	defer node.close()
	all := &soracachev1.ListKeysResponse{NextPageToken: c.PageToken}
	for count := 0; ; {
		page, err := node.cache.ListKeys(ctx, &soracachev1.ListKeysRequest{
			Namespace: c.Namespace, Tag: c.Tag, PageToken: all.GetNextPageToken(),
			PageSize: int32(min(max(c.PageSize, -1), math.MaxInt32)), // which the node refuses if negative
		})
		if err != nil {
			return err
		}
		count += len(page.GetKeys())
		all.NextPageToken = page.GetNextPageToken()
		if c.JSON {
			all.Keys = append(all.Keys, page.GetKeys()...)
		} else if err := con.printKeys(page.GetKeys()); err != nil {
			return err
		}
		if all.GetNextPageToken() == "" || c.Limit > 0 && count >= c.Limit {
			break
		}
	}
	if c.JSON {
		return con.printJSON(all)
	}
	if all.GetNextPageToken() != "" {
		con.note("more: --page-token %s", all.GetNextPageToken())
	}
	return nil
}

func (c *console) printKeys(keys []string) error {
	for _, key := range keys {
		if _, err := fmt.Fprintln(c.out, clean(key)); err != nil {
			return err
		}
	}
	return nil
}
