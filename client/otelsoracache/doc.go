// Package otelsoracache gives a client's hooks to OpenTelemetry, as metrics and
// spans:
//
//	c, err := client.Dial([]string{url}, client.WithHooks(otelsoracache.Hooks()))
//
// It knows the OpenTelemetry API alone; which SDK and exporter there are is the
// application's to choose. Without any, the hooks do next to nothing.
//
// # Metrics
//
//	soracache.client.reads                {read}          soracache.result: hit, stale, miss; soracache.tier: near, l1, l2
//	soracache.client.operation.duration   s               soracache.operation; error.type if it failed
//	soracache.client.refreshes            {refresh}       soracache.reason: stale, eager
//	soracache.client.fills.discarded      {value}         soracache.reason: superseded, lease_lost, not_stored
//	soracache.client.fail_opens           {call}          error.type
//	soracache.client.unreadable           {entry}
//	soracache.client.invalidations        {invalidation}  error.type if it failed
//	soracache.client.node.transitions     {transition}    server.address, soracache.state: passed_over, used
//	soracache.client.source.transitions   {transition}    soracache.source, soracache.state: open, half_open, closed
//	soracache.client.source.rejections    {load}          soracache.source, soracache.reason: open, busy
//	soracache.client.near.resets          {reset}
//
// The operations are those of [client.Op]. A hit in the near cache is a read and
// no operation: it is counted and not timed. The operation load is one run of a
// loader; where that is for the sake of later callers, it is part of an operation
// refresh. No metric has a key or a tag among its attributes.
//
// # Spans
//
// Each operation is a span named after it, as in "soracache get_or_set", with the
// key, the tier and the result among its attributes; a loader's is the child of
// that of the first caller who waited for it, and goes into the loader with its
// context. Keys may be personal data: see [WithoutKeys].
package otelsoracache
