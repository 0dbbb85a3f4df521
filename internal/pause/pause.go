// Package pause waits between two attempts.
package pause

import (
	"context"
	"time"
)

// For waits for d; false when ctx is done first, and when it was done before.
func For(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
