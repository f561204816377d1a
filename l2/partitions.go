package l2

import (
	"context"
	"fmt"
	"time"

	"github.com/soracache/soracache"
)

// PartitionsRequest asks how many partitions a namespace has.
type PartitionsRequest struct {
	Namespace string
	// Want is how many a namespace is given that has none yet. Zero only asks: it
	// gives none, and does not count as use.
	Want int
}

// PartitionsAnswer answers a [PartitionsRequest].
type PartitionsAnswer struct {
	// Count is how many the namespace has, whatever was wanted; zero if it has
	// none and none was wanted.
	Count int
	// Err wraps [ErrPartitions] while the number is being changed.
	Err error
}

// ErrPartitions says that a namespace has another number of partitions than the
// caller believes, or that the number is being changed. It wraps
// [soracache.ErrUnavailable]: to callers the node is as good as away, and another
// may be right.
var ErrPartitions = fmt.Errorf("%w: number of partitions", soracache.ErrUnavailable)

// CountError is what is answered to one who believes that a namespace has want
// partitions, when it has count. It wraps [ErrPartitions].
func CountError(namespace string, count, want int) error {
	return fmt.Errorf("%w: namespace %s has %d, and this node was told %d", ErrPartitions, namespace, count, want)
}

// ChangingError is what is answered while the number of partitions of a
// namespace is being changed. It wraps [ErrPartitions].
func ChangingError(namespace string) error {
	return fmt.Errorf("%w: that of namespace %s is being changed; if that was interrupted, change it again", ErrPartitions, namespace)
}

// CheckPartitions reports whether a namespace can have so many partitions. The
// error wraps [soracache.ErrInvalid].
func CheckPartitions(namespace string, count int) error {
	if err := soracache.CheckNamespace(namespace); err != nil {
		return err
	}
	if count < 1 || count > soracache.MaxPartitions {
		return fmt.Errorf("%w: namespace %s cannot have %d partitions: 1 to %d can be", soracache.ErrInvalid, namespace, count, soracache.MaxPartitions)
	}
	return nil
}

const (
	// ChangeTakes is for how long nobody is let to the ledgers of a namespace
	// while their number changes: by then every registration is over, and with it
	// everybody's trust in what it keeps of the old ones.
	ChangeTakes = MaxBound + RegistrationSlack
	// PartitionsExpiry is how long a namespace's number is kept that nobody asks
	// for. Beyond that, it is as many as it has ledgers of.
	PartitionsExpiry = 5 * time.Minute
)

// Repartition changes the number of partitions of a namespace, however long that
// takes: sleep is called to let time pass, with how much is left, and ends the
// change if it returns an error. What was begun then stands: see
// [Store.Repartition].
func Repartition(ctx context.Context, s Store, namespace string, count int, sleep func(time.Duration) error) error {
	for {
		left, err := s.Repartition(ctx, namespace, count)
		if err != nil || left <= 0 {
			return err
		}
		if err := sleep(left); err != nil {
			return err
		}
	}
}
