// Package node is one cache node: get, fill, put, invalidate, over an
// in-process tier and a shared store, under the one rule.
package node
