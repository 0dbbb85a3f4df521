package invoke

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var p pace
	if got := p.retry(1000, now); got != time.Second {
		t.Errorf("nothing is known: %v, want a second", got)
	}
	for range 20 {
		now = now.Add(100 * time.Millisecond)
		p.granted(now)
	}
	if d, ok := p.wait(50, now); !ok || d != 5*time.Second {
		t.Errorf("50 at 100 ms each: %v %v", d, ok)
	}
	for n, want := range map[int]time.Duration{0: time.Second, 50: 5 * time.Second, 5000: time.Minute} {
		if got := p.retry(n, now); got != want {
			t.Errorf("%d wait: %v, want %v", n, got, want)
		}
	}
	if _, is := p.hopeless(50, 3*time.Second, now); is {
		t.Error("5 s are not hopeless for a limit of 3 s: it may go faster")
	}
	if d, is := p.hopeless(70, 3*time.Second, now); !is || d != 7*time.Second {
		t.Errorf("7 s are hopeless for a limit of 3 s: %v %v", d, is)
	}
	now = now.Add(6 * time.Second)
	if _, is := p.hopeless(1000, time.Second, now); is {
		t.Error("a pace of six seconds ago tells nothing")
	}
	p.granted(now)
	if _, ok := p.wait(1, now); ok {
		t.Error("one grant after a pause is no pace")
	}
}
