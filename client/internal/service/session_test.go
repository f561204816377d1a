package service

import (
	"slices"
	"testing"

	"github.com/soracache/soracache"
)

func TestSession(t *testing.T) {
	type stamp = soracache.Stamp
	at := func(partition uint16, epoch soracache.Epoch, position soracache.Position) soracache.Stamps {
		return soracache.Stamps{{Partition: partition, Stamp: stamp{Epoch: epoch, Position: position}}}
	}
	tests := []struct {
		name                          string
		known, carried, answer, after soracache.Stamps
	}{
		{"the first answer", nil, nil, at(0, 1, 5), at(0, 1, 5)},
		{"a newer answer", at(0, 1, 5), nil, at(0, 1, 6), at(0, 1, 6)},
		{"an answer that was superseded", at(0, 1, 6), at(0, 1, 4), at(0, 1, 5), at(0, 1, 6)},
		{"another epoch, to a request that carried the present one", at(0, 1, 6), at(0, 1, 3), at(0, 2, 1), at(0, 2, 1)},
		{"another epoch, to a request that carried an older one", at(0, 2, 6), at(0, 1, 9), at(0, 3, 9), at(0, noEpoch|1, 1)},
		{"and then another, asked for before that was known", at(0, noEpoch|1, 1), at(0, 2, 6), at(0, 4, 9), at(0, noEpoch|1, 1)},
		{"and then one that was asked for since", at(0, noEpoch|1, 1), at(0, noEpoch|1, 1), at(0, 3, 9), at(0, 3, 9)},
		{"a late answer of an epoch that was left", at(0, 2, 6), at(0, 1, 9), at(0, 1, 10), at(0, 2, 6)},
		{"another epoch, to a request that carried nothing", at(0, 1, 6), nil, at(0, 2, 9), at(0, noEpoch|1, 1)},
		{"another partition", at(1, 1, 6), nil, at(0, 9, 2), append(at(0, 9, 2), at(1, 1, 6)...)},
		{"one partition moves on and another does not", append(at(0, 1, 6), at(1, 1, 6)...), nil, append(at(0, 1, 7), at(1, 1, 5)...), append(at(0, 1, 7), at(1, 1, 6)...)},
		{"an answer that proves nothing", at(0, 1, 6), at(0, 1, 6), nil, at(0, 1, 6)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s session
			s.seen.Store(&tt.known)
			before := slices.Clone(tt.known)
			s.observe(tt.carried, tt.answer)
			if got := s.stamps(); !slices.Equal(got, tt.after) {
				t.Errorf("knows %v, want %v", got, tt.after)
			}
			if !slices.Equal(tt.known, before) {
				t.Error("changed stamps that were handed out")
			}
		})
	}
}
