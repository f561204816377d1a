// Package tags knows how the set of keys that carry a tag is kept: in buckets
// by expiry, each of which expires as a whole, so that membership outlives an
// entry by at most a bucket's width and churn cannot make a set grow for ever.
// It is arithmetic and knows no engine.
package tags
