package mirror_test

import (
	"context"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
)

// tick lets a bubble's clock go on.
func tick(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}

func must(t *testing.T) func(api.Object, error) {
	return func(_ api.Object, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}
