package node_test

import (
	"errors"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

var schemas = []string{"", "order/1", "order/2"}

// in reads a key in a schema.
func (c *cluster) in(n int, schema, key string) soracache.ReadResult {
	c.t.Helper()
	return c.get(n, soracache.Read{Key: key, Schema: schema})
}

// loadIn loads a key in a schema, with the schema as its value.
func (c *cluster) loadIn(n int, schema, key string, tags ...string) {
	c.t.Helper()
	res := c.get(n, soracache.Read{Key: key, Schema: schema, Lease: true})
	if res.Status != soracache.StatusMiss || res.Lease == (soracache.Lease{}) {
		c.t.Fatalf("%q in %q: %+v, want a miss with a lease", key, schema, res)
	}
	c.fillIn(n, schema, key, res.Lease, "of "+schema, tags...)
}

func (c *cluster) fillIn(n int, schema, key string, lease soracache.Lease, value string, tags ...string) soracache.WriteResult {
	c.t.Helper()
	return c.write(n, soracache.Write{
		Op: soracache.OpFill, Key: key, Schema: schema, Lease: lease, Entry: soracache.Entry{Value: []byte(value), Tags: tags},
	})
}

// Each schema has its own value in every tier of every node, and whatever names the
// key ends all of them at once, on the node that is told of it and on the others.
func TestSchemasInEveryTier(t *testing.T) {
	for what, end := range map[string]func(c *cluster){
		"key":        func(c *cluster) { c.invalidate(0, soracache.Key("k")) },
		"tag":        func(c *cluster) { c.invalidate(0, soracache.Tag("t")) },
		"everything": func(c *cluster) { c.invalidate(0, soracache.Everything()) },
		"a put in another": func(c *cluster) {
			c.write(0, soracache.Write{Op: soracache.OpPut, Key: "k", Schema: "order/3", Entry: soracache.Entry{Value: []byte("v")}})
		},
	} {
		t.Run(what, func(t *testing.T) {
			inCluster(t, 2, func(c *cluster, _ *wires) {
				for _, schema := range schemas {
					c.loadIn(0, schema, "k", "t")
				}
				recorded := c.nodes[0].Stats().Invalidations
				for _, schema := range schemas {
					c.want(c.in(0, schema, "k"), soracache.StatusHit, soracache.TierL1, "of "+schema)
					c.want(c.in(1, schema, "k"), soracache.StatusHit, soracache.TierL2, "of "+schema)
					c.want(c.in(1, schema, "k"), soracache.StatusHit, soracache.TierL1, "of "+schema)
				}
				if recorded != 0 {
					t.Errorf("%d invalidations were recorded", recorded)
				}
				end(c)
				time.Sleep(time.Millisecond)
				for n := range c.nodes {
					for _, schema := range schemas {
						c.want(c.in(n, schema, "k"), soracache.StatusMiss, soracache.TierNone, "")
					}
				}
			})
		})
	}
}

// Long after the record of a key was forgotten, what it ended in one schema does not
// come back because somebody uses another.
func TestSchemasPastTheRetention(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		lifetime := soracache.Lifetime{TTL: time.Hour}
		for _, schema := range schemas {
			lease := c.get(0, soracache.Read{Key: "k", Schema: schema, Lease: true}).Lease
			c.write(0, soracache.Write{Op: soracache.OpFill, Key: "k", Schema: schema, Lease: lease, Entry: soracache.Entry{Value: []byte("old")}, Lifetime: lifetime})
			c.want(c.in(1, schema, "k"), soracache.StatusHit, soracache.TierL2, "old")
		}
		c.invalidate(0, soracache.Key("k"))
		for i := range 4 {
			time.Sleep(l2.DefaultRetention)
			c.invalidate(0, soracache.Key("other"))
			for n := range c.nodes {
				for _, schema := range schemas[1:] {
					c.want(c.in(n, schema, "k"), soracache.StatusMiss, soracache.TierNone, "")
				}
			}
			if i == 1 { // in one schema it is there again
				c.loadIn(0, "", "k")
			}
		}
	})
}

// Who loads in one schema keeps nobody from loading in another, and what becomes of
// the load is nothing to them.
func TestSchemasDoNotWaitForEachOther(t *testing.T) {
	inCluster(t, 2, func(c *cluster, _ *wires) {
		began := time.Now()
		var leases []soracache.Lease
		for i, schema := range schemas {
			res := c.get(i%2, soracache.Read{Key: "k", Schema: schema, Lease: true, Wait: time.Minute})
			c.state(res, soracache.LeaseGranted, soracache.RefusalNone)
			leases = append(leases, res.Lease)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the leases took %s", took)
		}
		waiting := make(chan soracache.ReadResult)
		go func() {
			waiting <- c.get(1, soracache.Read{Key: "k", Schema: schemas[1], Lease: true, Wait: time.Minute})
		}()
		time.Sleep(time.Second)
		c.fillIn(0, schemas[2], "k", leases[2], "of another")
		c.write(0, soracache.Write{Op: soracache.OpRelease, Key: "k", Lease: leases[0], Outcome: soracache.LoadFailed})
		select {
		case res := <-waiting:
			t.Fatalf("the end of another schema's lease ended the wait: %+v", res)
		case <-time.After(time.Second):
		}
		ended := time.Now()
		c.fillIn(0, schemas[1], "k", leases[1], "of mine")
		c.want(<-waiting, soracache.StatusHit, soracache.TierL2, "of mine")
		if took := time.Since(ended); took > 10*time.Millisecond {
			t.Errorf("it was heard of after %s", took)
		}
	})
}

// Whatever ends the leases of a key wakes those who wait for one, in each schema and
// on each node, with no need to ask.
func TestSchemasAreWokenByTheirKey(t *testing.T) {
	for what, end := range map[string]func(c *cluster){
		"key":        func(c *cluster) { c.invalidate(0, soracache.Key("k")) },
		"everything": func(c *cluster) { c.invalidate(0, soracache.Everything()) },
		"a put":      func(c *cluster) { c.put(0, "k", "v") },
		"a put in another": func(c *cluster) {
			c.write(0, soracache.Write{Op: soracache.OpPut, Key: "k", Schema: "order/3", Entry: soracache.Entry{Value: []byte("v")}})
		},
	} {
		t.Run(what, func(t *testing.T) {
			inCluster(t, 2, func(c *cluster, _ *wires) {
				waiting := make(chan soracache.ReadResult)
				for _, schema := range schemas[1:] {
					lease := c.get(0, soracache.Read{Key: "k", Schema: schema, Lease: true, LeaseFor: time.Minute})
					c.state(lease, soracache.LeaseGranted, soracache.RefusalNone)
					for n := range c.nodes {
						go func() {
							waiting <- c.get(n, soracache.Read{Key: "k", Schema: schema, Lease: true, LeaseFor: time.Minute, Wait: time.Minute})
						}()
					}
				}
				time.Sleep(20 * time.Second) // they ask seldom by now
				ended := time.Now()
				end(c)
				for range schemas[1:] {
					c.state(<-waiting, soracache.LeaseGranted, soracache.RefusalNone)
				}
				if took := time.Since(ended); took > 20*time.Millisecond {
					t.Errorf("it was heard of after %s", took)
				}
				c.invalidate(0, soracache.Everything()) // and again: they have lost twice, or have a lease
				for range schemas[1:] {
					<-waiting
				}
			})
		})
	}
}

// Reads and writes in several schemas can be in one request.
func TestSchemasInOneRequest(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		var reads []soracache.Read
		for _, schema := range schemas {
			reads = append(reads, soracache.Read{Key: "k", Schema: schema, Lease: true}, soracache.Read{Key: "l", Schema: schema, Lease: true})
		}
		asked := append([]soracache.Read(nil), reads...)
		results, err := c.nodes[0].Get(c.t.Context(), soracache.GetRequest{Reads: reads})
		if err != nil {
			t.Fatal(err)
		}
		var writes []soracache.Write
		for i, res := range results {
			c.state(res, soracache.LeaseGranted, soracache.RefusalNone)
			writes = append(writes, soracache.Write{
				Op: soracache.OpFill, Key: reads[i].Key, Schema: reads[i].Schema, Lease: res.Lease,
				Entry: soracache.Entry{Value: []byte(reads[i].Schema + reads[i].Key)}, Lifetime: soracache.Lifetime{TTL: time.Minute},
			})
		}
		if _, err := c.nodes[0].Write(c.t.Context(), soracache.WriteRequest{Writes: writes}); err != nil {
			t.Fatal(err)
		}
		results, err = c.nodes[0].Get(c.t.Context(), soracache.GetRequest{Reads: reads})
		if err != nil {
			t.Fatal(err)
		}
		for i, res := range results {
			c.want(res, soracache.StatusHit, soracache.TierL1, reads[i].Schema+reads[i].Key)
			if reads[i].Key != asked[i].Key || writes[i].Key != asked[i].Key {
				t.Errorf("the caller's request was changed: %+v", reads[i])
			}
		}
	})
}

// A schema that is none is refused.
func TestSchemaThatIsNone(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		for _, schema := range []string{"\xff", "a\x00", "a\n", string(make([]byte, 65))} {
			_, err := c.nodes[0].Get(c.t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}, {Key: "k", Schema: schema}}})
			if !errors.Is(err, soracache.ErrInvalid) {
				t.Errorf("get in %q: %v", schema, err)
			}
			_, err = c.nodes[0].Write(c.t.Context(), soracache.WriteRequest{Writes: []soracache.Write{{Op: soracache.OpFill, Key: "k"}, {Op: soracache.OpPut, Key: "k", Schema: schema}}})
			if !errors.Is(err, soracache.ErrInvalid) {
				t.Errorf("write in %q: %v", schema, err)
			}
		}
	})
}
