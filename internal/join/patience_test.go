package join

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
)

// Who joins asks again while there is hope: a server that is full says that there is,
// one that does not answer for long enough does not, and one that says no has said so.
func TestPatiently(t *testing.T) {
	const patience = time.Minute
	for _, tt := range []struct {
		name   string
		answer func(asked int, since time.Duration) error // nil takes it in
		least  time.Duration                              // of waiting
		most   time.Duration
		ok     bool
	}{
		{"at once", func(int, time.Duration) error { return nil }, 0, 0, true},
		{"a server that comes up", func(_ int, since time.Duration) error {
			if since < 30*time.Second {
				return errors.New("connection refused")
			}
			return nil
		}, 30 * time.Second, 38 * time.Second, true},
		{"a fault of the server", func(n int, _ time.Duration) error {
			if n < 3 {
				return &Refused{Code: http.StatusGatewayTimeout}
			}
			return nil
		}, 300 * time.Millisecond, 2 * time.Second, true},
		{"a server that has much to do", func(_ int, since time.Duration) error {
			if since < 5*patience {
				return &Refused{Code: http.StatusTooManyRequests, After: time.Second}
			}
			return nil
		}, 5 * patience, 5*patience + 9*time.Second, true},
		{"a server that says when", func(n int, _ time.Duration) error {
			if n == 1 {
				return &Refused{Code: http.StatusServiceUnavailable, After: 7 * time.Second}
			}
			return nil
		}, 7 * time.Second, 7*time.Second + firstWait*3/2, true},
		{"no server", func(int, time.Duration) error { return errors.New("connection refused") }, patience, patience + 8*time.Second, false},
		{"a token that is not known", func(int, time.Duration) error { return &Refused{Code: http.StatusUnauthorized} }, 0, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				begun, asked := time.Now(), 0
				_, err := Patiently(t.Context(), patience, slog.New(slog.DiscardHandler), func(context.Context) (Answer, error) {
					asked++
					return Answer{}, tt.answer(asked, time.Since(begun))
				})
				if took := time.Since(begun); (err == nil) != tt.ok || took < tt.least || took > tt.most {
					t.Errorf("%v after %v and %d tries; want within %v to %v, and success %v", err, took, asked, tt.least, tt.most, tt.ok)
				}
			})
		})
	}
}

func TestPatientlyEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begun := time.Now()
		full := &Refused{Code: http.StatusTooManyRequests}
		_, err := Patiently(ctx, time.Minute, slog.New(slog.DiscardHandler), func(context.Context) (Answer, error) { return Answer{}, full })
		if !errors.Is(err, full) || time.Since(begun) != 10*time.Second {
			t.Errorf("%v after %v, want the last answer after 10s", err, time.Since(begun))
		}
	})
}
