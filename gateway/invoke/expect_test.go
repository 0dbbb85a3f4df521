package invoke

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/bubble"
	"k8s.io/apimachinery/pkg/types"
)

// queueOf is a queue that has been served so often, at such intervals.
func queueOf(grants int, every time.Duration) (*pace, time.Time) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &pace{}
	p.begun(now)
	for range grants {
		now = now.Add(every)
		p.granted(now)
	}
	return p, now
}

func TestPace(t *testing.T) {
	var none pace
	if got := none.retry(1000, time.Now()); got != time.Second {
		t.Errorf("nothing is known: %v, want a second", got)
	}
	p, now := queueOf(200, 100*time.Millisecond)
	if d, ok := p.wait(50, now); !ok || d != 5*time.Second {
		t.Errorf("50 at 100 ms each: %v %v", d, ok)
	}
	for n, want := range map[int]time.Duration{0: time.Second, 50: 5 * time.Second, 5000: time.Minute} {
		if got := p.retry(n, now); got != want {
			t.Errorf("%d wait: %v, want %v", n, got, want)
		}
	}
	slow, now := queueOf(20, 6*time.Second)
	if d, ok := slow.wait(10, now.Add(20*time.Second)); !ok || d != time.Minute {
		t.Errorf("a slow function: %v %v, want a minute", d, ok)
	}
}

// Only who waits in vain for sure is sent away.
func TestHopeless(t *testing.T) {
	for _, c := range []struct {
		name  string
		make  func() (*pace, time.Time)
		n     int
		limit time.Duration
		want  bool
	}{
		{"more than twice the limit", func() (*pace, time.Time) { return queueOf(200, 100*time.Millisecond) }, 70, 3 * time.Second, true},
		{"less than that", func() (*pace, time.Time) { return queueOf(200, 100*time.Millisecond) }, 50, 3 * time.Second, false},
		{"a young queue", func() (*pace, time.Time) { return queueOf(20, 100*time.Millisecond) }, 500, 3 * time.Second, false},
		{"a pace of some time ago", func() (*pace, time.Time) {
			p, now := queueOf(200, 100*time.Millisecond)
			return p, now.Add(6 * time.Second)
		}, 1000, time.Second, false},
		{"few grants", func() (*pace, time.Time) { return queueOf(5, 4*time.Second) }, 1000, time.Second, false},
		{"lone waits before", func() (*pace, time.Time) {
			p, now := queueOf(1, time.Second)
			for range 20 { // each alone in the queue
				p.empty()
				now = now.Add(4 * time.Second)
				p.begun(now)
				p.granted(now.Add(time.Millisecond))
			}
			return p, now
		}, 1000, time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, now := c.make()
			if d, got := p.hopeless(c.n, c.limit, now); got != c.want {
				t.Errorf("got %v with a wait of %v, want %v", got, d, c.want)
			}
		})
	}
}

// A request that would wait in vain is told so at once, and when to come back;
// one whose limit the queue's pace can meet waits, and so does everybody while
// the queue is young.
func TestHopelessRequestIsTurnedAway(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := newFunction(New(Config{}), types.NamespacedName{Namespace: "n", Name: "slow"})
		f.deploy(Spec{UID: "u"})
		f.ready(api.Endpoint{Pod: "p", Address: "127.0.0.1:9", Concurrency: 1})
		defer f.close()
		ask := func(limit time.Duration, first bool) error {
			s, err := f.acquire(t.Context(), time.Now(), limit, first)
			if err != nil {
				return err
			}
			time.Sleep(time.Second) // the call
			f.release(s)
			return nil
		}
		var crowd sync.WaitGroup
		for range 40 {
			crowd.Go(func() {
				if err := ask(time.Minute, false); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(9*time.Second + time.Second/2) // 31 wait, one a second is served
		crowd.Go(func() {
			if r := new(refusal); errors.As(ask(2*time.Second, false), &r) && r.reason == "hopeless" {
				t.Error("a young queue was judged")
			}
		})
		time.Sleep(2 * time.Second) // 29 wait, and who gave up meanwhile
		r := new(refusal)
		begun := time.Now()
		if err := ask(10*time.Second, false); !errors.As(err, &r) || r.reason != "hopeless" || r.status != http.StatusServiceUnavailable {
			t.Fatalf("%v, want the refusal of a wait in vain", err)
		}
		if time.Since(begun) != 0 || r.retryAfter < 27*time.Second || r.retryAfter > 31*time.Second {
			t.Errorf("refused after %s, to come back after %s, want at once, and after some 29 s", time.Since(begun), r.retryAfter)
		}
		crowd.Go(func() {
			if err := ask(40*time.Second, false); err != nil {
				t.Errorf("a request that can be met: %v", err)
			}
		})
		if err := ask(10*time.Second, true); err != nil {
			t.Errorf("one that goes first: %v", err)
		}
		crowd.Wait()
	})
}
