// Package l1 is the in-process tier: a bounded cache on Ristretto that hides
// its surprises. It is generic in its value and knows nothing of the rule.
package l1
