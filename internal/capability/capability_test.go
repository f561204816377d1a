package capability_test

import (
	"slices"
	"testing"

	"github.com/soracache/soracache/internal/capability"
)

func TestNames(t *testing.T) {
	if got := capability.Names(capability.All | 1<<9); !slices.Equal(got, []string{"records", "freed", "acknowledge", "bit9"}) {
		t.Error(got)
	}
}
