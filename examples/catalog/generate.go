package main

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"math/rand/v2"
)

// catalogSize is how many products a new database holds.
const catalogSize = 100_000

func categories() []string {
	return []string{
		"art", "bath", "bedding", "books", "camping", "cycling", "garden", "games", "hardware", "kitchen",
		"lamps", "music", "office", "outdoor", "pets", "shoes", "sports", "storage", "toys", "travel",
	}
}

// tagShares is how many of a hundred products carry a tag.
func tagShares() map[string]int {
	return map[string]int{"bestseller": 1, "gift": 10, "new": 5, "sale": 8}
}

func words() (adjectives, nouns []string) {
	return []string{
			"Amber", "Bright", "Broad", "Calm", "Clear", "Cosy", "Deep", "Fine", "Folded", "Grand",
			"Hardy", "Heavy", "Hollow", "Light", "Little", "Narrow", "Northern", "Oak", "Plain", "Quick",
			"Quiet", "Round", "Royal", "Sharp", "Silver", "Slow", "Small", "Soft", "Steady", "Warm",
		}, []string{
			"Anchor", "Basket", "Bell", "Bench", "Bottle", "Bowl", "Brush", "Candle", "Chair", "Clock",
			"Compass", "Cup", "Drum", "Frame", "Hammer", "Kettle", "Knife", "Ladder", "Lantern", "Mirror",
			"Needle", "Pencil", "Pillow", "Plate", "Rope", "Saddle", "Scarf", "Spoon", "Table", "Whistle",
		}
}

// generate writes the products. It is the same catalog every time: the numbers
// come from a generator with a fixed seed.
func generate(ctx context.Context, tx *sql.Tx) error {
	products, err := tx.PrepareContext(ctx, "INSERT INTO product (id, name, category, price_cents, sales) VALUES (?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer func() { _ = products.Close() }()
	tags, err := tx.PrepareContext(ctx, "INSERT INTO product_tag (tag, product_id) VALUES (?, ?)")
	if err != nil {
		return err
	}
	defer func() { _ = tags.Close() }()

	random := rand.New(rand.NewPCG(2, 100_000)) //nolint:gosec // a catalog is no secret
	kinds, shares := categories(), tagShares()
	adjectives, nouns := words()
	for id := 1; id <= catalogSize; id++ {
		name := fmt.Sprintf("%s %s %d", pick(random, adjectives), pick(random, nouns), id)
		price := int64(math.Exp(random.Float64()*5.5) * 150) // 1.50 to 367.04, mostly cheap
		if _, err := products.ExecContext(ctx, id, name, pick(random, kinds), price, random.IntN(1_000_000)); err != nil {
			return err
		}
		for _, tag := range []string{"bestseller", "gift", "new", "sale"} {
			if random.IntN(100) >= shares[tag] {
				continue
			}
			if _, err := tags.ExecContext(ctx, tag, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func pick(random *rand.Rand, from []string) string { return from[random.IntN(len(from))] }
