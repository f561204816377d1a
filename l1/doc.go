// Package l1 is the in-process tier: a bounded cache on Ristretto that hides
// its surprises. It is generic in its value; it knows sizes and keys, and must
// not know what makes a value live or dead.
//
// What it promises beyond Ristretto: once a Put or Remove has returned, a Get
// returns what the latest of them left, or nothing; what is held never costs
// more than the limit; a value is found under the whole key that it was put
// under and no other; and every method may be called at any time, Close
// included. DESIGN.md tells how, and what it costs.
//
// It is part of soracache and no promise to anybody else: whatever it exports may
// change or go in any release (docs/architecture.md, "What is public").
package l1
