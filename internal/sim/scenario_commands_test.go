package sim

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// commands are what the lines of a script can begin with.
func commands() map[string]func(*script, *arguments) {
	return map[string]func(*script, *arguments){
		// The cluster: "nodes 3", with bound=300ms (B of all of them).
		"nodes": (*script).nodes,
		// What applications do, at a node: "get n1 price" with lease=NAME (wants
		// the lease, which gets that name), wait=1s, as=SESSION, unconfirmed; "fill
		// n1 price v2 lease=NAME tags=a,b"; "load" is both; "put"; "renew" and
		// "release n1 price lease=NAME"; "invalidate n1 tag=a key=k all" with
		// acknowledge. All with timeout=1s, and with async=NAME, to go on
		// meanwhile: "await NAME".
		"get": (*script).get, "fill": (*script).fill, "load": (*script).load, "put": (*script).put,
		"renew": (*script).renew, "release": (*script).release, "invalidate": (*script).invalidate,
		"await": (*script).await,
		// Time: "advance 400ms".
		"advance": (*script).advance,
		// The network: "drop n1->n3" (the next packet; count=2), "delay n1->n3 20ms"
		// (the next), "partition n1,n2 | n3", "isolate n3 from L2" (refused, or lost,
		// or mute: only answers are lost), "heal".
		"drop": (*script).drop, "delay": (*script).delay, "partition": (*script).partition,
		"isolate": (*script).isolate, "heal": (*script).heal,
		// The next change that a node asks of L2 is made, but "forget n1": no answer
		// comes, "break n1": an error does.
		"forget": (*script).forget, "break": (*script).breakOff,
		// Nodes: "pause n2", "resume n2", "crash n2", "drain n2" (ends it gently),
		// "restart n2", "speak n2 notice" (it sends notices of a later version, or
		// targets: "speak n2 target", or again ours: "speak n2 plain").
		"pause": (*script).pause, "resume": (*script).resume, "crash": (*script).crash,
		"drain": (*script).drain, "restart": (*script).restart, "speak": (*script).speak,
		// L2: "snapshot NAME" and "restore NAME"; "failover NAME" to a replica that
		// was last in step when the snapshot was taken, visible if the nodes can see
		// that it is another server; "flush".
		"snapshot": (*script).snapshot, "restore": (*script).restore, "failover": (*script).failover,
		"flush": (*script).flush,
		// Looking: "state", and "trace on" or "off": packets and calls as they happen.
		"state": (*script).state, "trace": (*script).tracing,
	}
}

func (s *script) nodes(a *arguments) {
	n, err := strconv.Atoi(a.word())
	if err != nil {
		s.fail("%v", err)
	}
	cfg := scriptConfig()
	cfg.Bounds[0] = a.duration("bound", cfg.Bounds[0])
	s.begin(n, cfg)
}

// What applications do.

// run issues an operation, and lets time pass until it has ended and
// everything has arrived, unless it is to go on beside.
func (s *script) run(a *arguments, o *op) {
	o.timeout = a.duration("timeout", 0)
	if name := a.opt("as"); name != "" {
		o.session = s.session(name)
	}
	if name := a.opt("async"); name != "" {
		s.pending[name] = o
		s.w.issue(o)
		s.w.runFor(0)
		return
	}
	s.w.issue(o)
	s.until(o)
	s.quiesce()
}

func (s *script) until(o *op) {
	s.w.runUntil(func() bool { return o.done }, s.w.now()+time.Minute)
	if !o.done {
		s.fail("it does not end")
	}
}

func (s *script) session(name string) *session {
	if s.sessions[name] == nil {
		s.sessions[name] = &session{number: len(s.sessions) + 1, seen: map[int]int{}}
		s.w.clients = append(s.w.clients, s.sessions[name])
	}
	return s.sessions[name]
}

func (s *script) await(a *arguments) {
	name := a.word()
	o := s.pending[name]
	if o == nil {
		s.fail("nothing is called %s", name)
	}
	s.until(o)
	s.quiesce()
}

func (s *script) get(a *arguments) {
	o := &op{kind: opGet, host: a.host(), unconfirmed: a.flag("unconfirmed")}
	r := soracache.Read{Key: s.key(a), Wait: a.duration("wait", 0)}
	name := a.opt("lease")
	if r.Lease = name != ""; r.Lease {
		o.then = func(o *op) {
			if o.err == nil && o.results[0].Lease != (soracache.Lease{}) {
				s.leases[name] = o.results[0].Lease
			}
		}
	}
	r.LeaseFor = a.duration("for", 0)
	o.reads = []soracache.Read{r}
	s.run(a, o)
}

// key takes a key, which has a place in the source from then on.
func (s *script) key(a *arguments) string {
	key := a.word()
	s.names.keys[invalidation.KeyHash(key)] = key
	if s.w.check.source[key] == nil {
		s.w.check.source[key] = &sourceKey{version: 1}
	}
	return key
}

func (s *script) fill(a *arguments) {
	h, key := a.host(), s.key(a)
	s.run(a, s.filling(a, h, key, a.word(), s.lease(a)))
}

func (s *script) lease(a *arguments) soracache.Lease {
	name := a.opt("lease")
	l, ok := s.leases[name]
	if !ok {
		s.fail("no lease is called %q", name)
	}
	return l
}

func (s *script) filling(a *arguments, h *host, key, value string, l soracache.Lease) *op {
	o := &op{kind: opFill, host: h, write: soracache.Write{Op: soracache.OpFill, Key: key, Lease: l}}
	s.value(a, o, value, s.w.check.grants[l].step)
	return o
}

// value gives an operation what it is to write.
func (s *script) value(a *arguments, o *op, value string, began int) {
	s.w.check.source[o.write.Key].tags = nil
	if tags := a.opt("tags"); tags != "" {
		s.w.check.source[o.write.Key].tags = slices.Sorted(slices.Values(strings.Split(tags, ",")))
	}
	o.value = s.w.check.compute(o.write.Key, began)
	s.names.values[string(o.value.value())] = value
	o.write.Entry = soracache.Entry{Value: o.value.value(), Tags: o.value.tags}
	o.write.Lifetime = soracache.Lifetime{TTL: a.duration("ttl", time.Hour)}
}

// load is what an application does that misses: it takes the lease and fills.
func (s *script) load(a *arguments) {
	h, key := a.host(), s.key(a)
	read := &op{kind: opGet, host: h, reads: []soracache.Read{{Key: key, Lease: true}}}
	s.quiet = read
	s.w.issue(read)
	s.until(read)
	if read.err != nil || read.results[0].Lease == (soracache.Lease{}) {
		return
	}
	s.run(a, s.filling(a, h, key, a.word(), read.results[0].Lease))
}

func (s *script) put(a *arguments) {
	h, key := a.host(), s.key(a)
	o := &op{kind: opPut, host: h, write: soracache.Write{Op: soracache.OpPut, Key: key}}
	s.value(a, o, a.word(), s.w.step)
	s.run(a, o)
}

func (s *script) renew(a *arguments) {
	o := &op{kind: opRenew, host: a.host(), write: soracache.Write{Op: soracache.OpRenew, Key: s.key(a)}}
	o.write.Lease, o.write.LeaseFor = s.lease(a), a.duration("for", 0)
	s.run(a, o)
}

func (s *script) release(a *arguments) {
	o := &op{kind: opRelease, host: a.host(), write: soracache.Write{Op: soracache.OpRelease, Key: s.key(a)}}
	o.write.Lease = s.lease(a)
	s.run(a, o)
}

func (s *script) invalidate(a *arguments) {
	o := &op{kind: opInvalidate, host: a.host(), acknowledge: a.flag("acknowledge")}
	for _, arg := range a.order {
		for _, name := range arg.Vals {
			switch arg.Key {
			case "tag":
				o.targets = append(o.targets, soracache.Tag(name))
			case "key":
				o.targets = append(o.targets, soracache.Key(name))
			}
		}
	}
	a.opt("tag")
	a.opt("key")
	if a.flag("all") {
		o.targets = append(o.targets, soracache.Everything())
	}
	s.run(a, o)
}

func (s *script) advance(a *arguments) { s.w.runFor(s.duration(a.word())) }

// The network.

// between takes "n1->n3".
func (s *script) between(a *arguments) [2]int {
	from, to, ok := strings.Cut(a.word(), "->")
	if !ok {
		s.fail("want n1->n3")
	}
	return [2]int{s.host(from).slot, s.host(to).slot}
}

func (s *script) drop(a *arguments) {
	line, count := s.between(a), 1
	if text := a.opt("count"); text != "" {
		if _, err := fmt.Sscan(text, &count); err != nil {
			s.fail("%v", err)
		}
	}
	s.stage.drop[line] += count
}

func (s *script) delay(a *arguments) { s.stage.late[s.between(a)] = s.duration(a.word()) }

func (s *script) partition(a *arguments) {
	side := map[int]int{}
	for i, names := range strings.Split(strings.Join(a.words, ""), "|") {
		for name := range strings.SplitSeq(names, ",") {
			side[s.host(name).slot] = i
		}
	}
	a.words = nil
	for from := range s.w.hosts {
		for to := range s.w.hosts {
			if side[from] != side[to] {
				s.stage.blocked[[2]int{from, to}] = true
			}
		}
	}
}

func (s *script) isolate(a *arguments) {
	h := a.host()
	a.flag("from")
	a.flag("L2")
	how := swallowing
	switch {
	case a.flag("refused"):
		how = refusing
	case a.flag("mute"):
		how = mute
	case a.flag("lost"):
	}
	s.stage.cut[h.slot] = how
}

func (s *script) heal(*arguments) { s.stage.healed() }

func (s *script) forget(a *arguments) { s.stage.next[a.host().slot] = forgetting }

func (s *script) breakOff(a *arguments) { s.stage.next[a.host().slot] = failing }

// Nodes.

func (s *script) pause(a *arguments) { a.host().paused = true }

// resume ends a pause: what was held back happens in the order in which it came.
func (s *script) resume(a *arguments) {
	h := a.host()
	held := h.held
	h.paused, h.held = false, nil
	for _, then := range held {
		s.w.after(0, then)
	}
	s.w.runFor(0)
	s.quiesce()
}

func (s *script) crash(a *arguments) {
	a.host().boot.kill()
	s.w.runFor(0)
}

func (s *script) drain(a *arguments) {
	h := a.host()
	b, drained := h.boot, false
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = b.node.Drain(ctx)
		s.w.arrive("drained "+b.name, func() { drained = true })
	}()
	s.w.runUntil(func() bool { return drained }, s.w.now()+2*time.Second)
	s.say(h.String(), "has drained")
	b.kill()
	s.quiesce()
}

func (s *script) restart(a *arguments) {
	h := a.host()
	if h.boot != nil {
		h.boot.kill()
		s.w.runFor(0)
	}
	h.start()
	s.w.runFor(0)
}

func (s *script) speak(a *arguments) {
	h := a.host()
	if s.stage.future[h.slot] = a.word(); s.stage.future[h.slot] == "plain" {
		delete(s.stage.future, h.slot)
	}
}

// L2.

func (s *script) snapshot(a *arguments) {
	s.snapshots[a.word()] = memory{snapshot{s.w.model.Snapshot(), s.w.check.save()}, s.stage.head}
}

func (s *script) restore(a *arguments) {
	name := a.word()
	m, ok := s.snapshots[name]
	if !ok {
		s.fail("no snapshot is called %s", name)
	}
	s.w.undo(m.store)
	s.stage.head = m.head
}

func (s *script) failover(a *arguments) {
	visible := a.flag("visible")
	s.restore(a)
	if visible {
		s.w.model.Restart()
	}
}

func (s *script) flush(*arguments) {
	s.w.model.Flush()
	s.w.check.lost()
	s.w.check.flushed = s.w.step
	s.stage.head = "nothing"
}

// Looking.

func (s *script) tracing(a *arguments) { s.trace = a.word() == "on" }

// state tells how far everybody has come.
func (s *script) state(*arguments) {
	fmt.Fprintf(&s.out, "L2  %s\n", s.stage.head)
	for _, h := range s.w.hosts {
		fmt.Fprintf(&s.out, "%s  %s\n", h, s.stateOf(h))
	}
}

func (s *script) stateOf(h *host) string {
	if h.boot == nil {
		return "down"
	}
	text := "knows of no ledger"
	for _, p := range h.boot.node.Partitions() {
		if p.Epoch == 0 {
			continue
		}
		text = s.names.stamp(soracache.Stamp{Epoch: p.Epoch, Position: p.Applied})
		if p.ConfirmedAgo < 0 {
			text += ", not confirmed"
		} else {
			text += fmt.Sprintf(", confirmed %dms ago", p.ConfirmedAgo/ms)
		}
	}
	if h.paused {
		text += ", paused"
	}
	return text
}
