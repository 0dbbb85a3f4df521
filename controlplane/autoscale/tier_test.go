package autoscale

import (
	"testing"
	"time"
)

// A warmer tier is ready sooner and holds no less.
func TestTierCosts(t *testing.T) {
	const own = 770 << 10
	all := []Tier{TierRunning, TierFrozen, TierParked, TierNone}
	for i := 1; i < len(all); i++ {
		a, held := all[i-1].Cost(own)
		b, less := all[i].Cost(own)
		if a >= b {
			t.Errorf("%s is ready after %s, %s after %s", all[i-1], a, all[i], b)
		}
		if all[i] == TierNone && less >= held {
			t.Errorf("%s holds %d bytes, %s %d", all[i-1], held, all[i], less)
		}
	}
	// Parking pays for functions that are larger than a parked sandbox.
	_, frozen := TierFrozen.Cost(64 << 20)
	if _, parked := TierParked.Cost(64 << 20); parked*10 > frozen {
		t.Errorf("parked %d, frozen %d", parked, frozen)
	}
}

func TestTier(t *testing.T) {
	zero := scale(map[string]string{"zero": "true", "zero-duration": "1m"})
	learned := &Window{Gaps: *gapsOf(times(20, 2*time.Hour)...)}
	for _, c := range []struct {
		name   string
		p      Policy
		w      *Window
		keep   Keep
		idle   time.Duration
		busy   bool
		tier   Tier
		change time.Duration
	}{
		{"busy", zero, &Window{}, Keep{After: time.Minute}, 0, true, TierRunning, 0},
		{"just idle", zero, &Window{}, Keep{After: time.Minute}, time.Second, false, TierRunning, FreezeAfter - time.Second},
		{"idle", zero, &Window{}, Keep{After: time.Minute}, 20 * time.Second, false, TierFrozen, 40 * time.Second},
		{"one that works by itself", scale(nil), &Window{}, Keep{After: time.Minute}, time.Hour, false, TierRunning, 0},
		{"over its keep-alive", zero, &Window{}, Keep{After: time.Minute}, time.Minute, false, TierParked, parkHorizon},
		{"expected", zero, &Window{}, Keep{After: time.Minute, From: time.Hour, Until: 2 * time.Hour}, 90 * time.Minute, false, TierFrozen, 30 * time.Minute},
		{"not expected for long", zero, learned, Keep{After: time.Minute}, 20 * time.Minute, false, TierNone, 0},
		{"expected within the horizon", zero, learned, Keep{After: time.Minute}, 115 * time.Minute, false, TierParked, 57*time.Minute + 30*time.Second},
		{"idle for days", zero, &Window{}, Keep{After: time.Minute}, 50 * time.Hour, false, TierNone, 0},
	} {
		if tier, change := c.p.tier(c.w, c.keep, c.idle, c.busy); tier != c.tier || change != c.change {
			t.Errorf("%s: %s, again in %s, want %s in %s", c.name, tier, change, c.tier, c.change)
		}
	}
}

// The tier comes with the decision, at the time it changes.
func TestTierComesWithTheDecision(t *testing.T) {
	p := scale(map[string]string{"zero": "true", "zero-duration": "1m"})
	w := &Window{}
	w.Arrived(start, 1)
	Decide(p, w, Now{Time: start, Replicas: 1, InFlight: 1})
	var got []string
	now, replicas, last := start, 1, ""
	for now.Sub(start) < time.Hour {
		d := Decide(p, w, Now{Time: now, Replicas: replicas})
		if d.Record.Idle.Tier != last {
			last = d.Record.Idle.Tier
			got = append(got, now.Sub(start).String()+" "+last)
		}
		replicas = d.Replicas
		if d.Again == 0 {
			break
		}
		now = now.Add(d.Again)
	}
	want := []string{"0s running", "5s frozen", "1m0s parked"}
	if len(got) < 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %q, want %q", got, want)
	}
}
