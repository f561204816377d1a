// Package l2test holds what every second tier is tested with: the [Model], a
// plain in-memory store that is as obviously right as it can be; the suite of
// behaviour that every engine must show; and the random histories on which
// engines and model must agree.
//
// It knows the l2 interface and no engine.
package l2test
