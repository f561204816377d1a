// Package batches says what requests for many items have in common: how many items
// there are at most, and what becomes of a request that is refused as a whole.
package batches

import (
	"errors"
	"fmt"

	"github.com/soracache/soracache"
)

// Most is how many items one request has at most.
const Most = 256

// Miscounted is the error of an answer that has too many or too few items.
func Miscounted(answers, items int) error {
	return fmt.Errorf("%w: %d answers to %d requests", soracache.ErrUnavailable, answers, items)
}

// Send sends items in one request. If that is refused for what may be the fault of
// one item, it sends them in halves, each of which fares for itself: failed is told
// what a part failed with, by the place of its first item and their number. The error
// is what all of it failed with; send and failed know where an item is by its place.
func Send[Q any](items []Q, send func(at int, part []Q) error, failed func(at, count int, err error)) error {
	return sendAt(0, items, send, failed)
}

func sendAt[Q any](at int, items []Q, send func(at int, part []Q) error, failed func(at, count int, err error)) error {
	err := send(at, items)
	if err == nil || len(items) < 2 || !mayBeOneItem(err) {
		return err
	}
	half := len(items) / 2
	if err := sendAt(at, items[:half:half], send, failed); err != nil {
		failed(at, half, err)
	}
	if err := sendAt(at+half, items[half:], send, failed); err != nil {
		failed(at+half, len(items)-half, err)
	}
	return nil
}

// mayBeOneItem tells whether a request may have been refused for the sake of one item
// of it.
func mayBeOneItem(err error) bool {
	return errors.Is(err, soracache.ErrInvalid) || errors.Is(err, soracache.ErrTooLarge)
}
