package pause_test

import (
	"context"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/pause"
	"github.com/podsnap/podsnap/test/bubble"
)

func TestFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(90*time.Second, cancel)
		begun := time.Now()
		for _, tt := range []struct {
			d, after time.Duration
			want     bool
		}{{time.Minute, time.Minute, true}, {0, time.Minute, true}, {time.Minute, 90 * time.Second, false}, {0, 90 * time.Second, false}, {time.Hour, 90 * time.Second, false}} {
			if got := pause.For(ctx, tt.d); got != tt.want || time.Since(begun) != tt.after {
				t.Errorf("a pause of %v: %v after %v, want %v after %v", tt.d, got, time.Since(begun), tt.want, tt.after)
			}
		}
	})
}
