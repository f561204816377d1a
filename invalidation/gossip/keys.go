package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

// SetKeys replaces the keys: the first one encrypts from now on, all of them
// decrypt. To change a cluster's key without a gap, give every member the old
// and the new one, in this order; then the new one first; then the new one
// alone; and wait for all members at each step.
func (g *Gossip) SetKeys(keys [][]byte) error {
	if g.keyring == nil || len(keys) == 0 {
		return errors.New("gossip: a member takes part with keys or without, and does not change that while it runs")
	}
	if err := (Config{Keys: keys}).validateKeys(); err != nil {
		return err
	}
	g.keysMu.Lock()
	defer g.keysMu.Unlock()
	for _, key := range keys {
		if err := g.keyring.AddKey(key); err != nil {
			return fmt.Errorf("gossip: %w", err)
		}
	}
	if err := g.keyring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return retire(g.keyring, keys)
}

// retire removes all keys but those given. memberlist removes a key by moving
// those behind it, under the eyes of whoever decrypts at the time; so a key is
// removed only when it is the last one, where nothing moves.
func retire(ring *memberlist.Keyring, keep [][]byte) error {
	for {
		keys := ring.GetKeys()
		i := slices.IndexFunc(keys, func(key []byte) bool { return !contains(keep, key) })
		if i < 0 {
			return nil
		}
		unwanted := slices.Clone(keys[i])
		// Using a key puts it first. Those that stay are put before the one to
		// go, the one that encrypts last of all.
		if i != len(keys)-1 {
			for _, key := range slices.Backward(keep) {
				if err := ring.UseKey(key); err != nil {
					return fmt.Errorf("gossip: %w", err)
				}
			}
		}
		if keys = ring.GetKeys(); !bytes.Equal(keys[len(keys)-1], unwanted) {
			unwanted = slices.Clone(keys[len(keys)-1]) // also unwanted: all kept ones are in front
		}
		if err := ring.RemoveKey(unwanted); err != nil {
			return fmt.Errorf("gossip: %w", err)
		}
	}
}

func contains(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}
