// Package suspend tells whether the machine was suspended. The clock that bounds
// are kept on stands still meanwhile, so whoever trusts its memory for a time has
// to ask.
package suspend
