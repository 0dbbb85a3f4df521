package join

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/podsnap/podsnap/internal/pause"
)

// Waits between two attempts to join.
const (
	firstWait = 250 * time.Millisecond
	lastWait  = 5 * time.Second
)

// Patiently asks to join until a server has an answer, for as long as patience when
// none does; one that has too many to take in at once is one that will. Machines that
// began together part: their waits differ. It returns a *Refused that asking again
// does not change, or the last error.
func Patiently(ctx context.Context, patience time.Duration, log *slog.Logger, ask func(context.Context) (Answer, error)) (Answer, error) {
	until := time.Now().Add(patience)
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		a, err := ask(ctx)
		if err == nil {
			return a, nil
		}
		var after time.Duration
		if r, ok := errors.AsType[*Refused](err); ok {
			switch {
			case r.Code == http.StatusTooManyRequests:
				until = time.Now().Add(patience)
			case r.Code < http.StatusInternalServerError:
				return Answer{}, err
			}
			after = r.After
		}
		log.WarnContext(ctx, "the server does not take this machine in yet", slog.Any("error", err))
		if !time.Now().Before(until) || !pause.For(ctx, after+wait/2+rand.N(wait)) {
			return Answer{}, err
		}
	}
}
