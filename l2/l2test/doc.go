// Package l2test holds what every second tier is tested with: the suite of
// behaviour that every engine must show ([Run]); the random histories on which an
// engine and the model of package l2model must agree ([Agree]); and a checker for
// many goroutines that knows the truth ([Hammer]). docs/stores.md shows how a store
// of one's own is tested with it.
//
// What a store may decide for itself is not looked at: its epochs and
// positions beyond their order, where a long delta is cut, whether it still
// tells what was recorded before a clear, which of several records it names as
// the killer, how long dead entries lie about, when within reason it trims,
// and in which order it does the reads of one batch.
//
// The package knows the l2 interface, the model, and no engine.
package l2test
