package invoke_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/internal/openfaas"
	"k8s.io/apimachinery/pkg/types"
)

// freezer is an agent of one pod.
type freezer struct {
	mu     sync.Mutex
	frozen bool
	over   uint64 // rounds up to this one
	fault  error
	asked  []string // thaws, as "node/pod/round"
	gate   chan struct{}
	thawed chan struct{} // of one place: there was a thaw
}

func (f *freezer) thaw(ctx context.Context, node string, pod types.UID, round uint64) error {
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf("%s/%s/%d", node, pod, round))
	if f.fault != nil {
		return f.fault
	}
	f.over, f.frozen = max(f.over, round), false
	select {
	case f.thawed <- struct{}{}:
	default:
	}
	return nil
}

func (f *freezer) freeze(round uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if round > f.over {
		f.frozen = true
	}
	return f.frozen
}

func (f *freezer) thaws() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

func (c *capacity) left(l api.Leave) func() bool {
	return func() bool { return slices.Contains(c.leaves, l) }
}

// idle waits until the gateway has nothing in flight: an answer is there a
// little sooner than its place is free.
func (r *rig) idle() {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 10_000 {
		if r.v.Load(resize).InFlight == 0 {
			return
		}
		<-tick.C
	}
	r.t.Fatal("something stays in flight")
}

// All calls that meet a frozen replica wait for one thaw; then nobody asks any
// more, until the next round.
func TestThaws(t *testing.T) {
	f := &freezer{gate: make(chan struct{})}
	var mu sync.Mutex
	var calls []openfaas.Call
	r := newRig(t, invoke.Config{Thaw: f.thaw, Remember: func(c openfaas.Call) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, c)
	}})
	_, e := r.replica("a", func(http.ResponseWriter, *http.Request) {})
	e.Node, e.Frozen = "n1", 7
	r.ready(e)
	r.c.until(t, "leave for a replica with nothing in flight", r.c.left(api.Leave{Pod: "a", Round: 7}))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			a := r.must("POST", "", "body")
			if a.status != http.StatusOK || !strings.Contains(a.header.Get("Server-Timing"), "thaw;dur=") {
				t.Errorf("answer %d %q, timing %q", a.status, a.body, a.header.Get("Server-Timing"))
			}
		})
	}
	r.c.until(t, "20 calls at the replica", func() bool {
		return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].InFlight == 20
	})
	close(f.gate)
	wg.Wait()
	if got := f.thaws(); !slices.Equal(got, []string{"n1/a/7"}) {
		t.Errorf("thaws %v", got)
	}
	r.idle()
	r.ready(e) // told again: the round is over
	if a := r.must("GET", "", ""); a.status != http.StatusOK || a.header.Get("Server-Timing") != "" {
		t.Errorf("a warm call: %d, timing %q", a.status, a.header.Get("Server-Timing"))
	}
	r.idle()
	e.Frozen = 8
	r.ready(e)
	r.c.until(t, "leave for the next round", r.c.left(api.Leave{Pod: "a", Round: 8}))
	r.must("GET", "", "")
	if got := f.thaws(); !slices.Equal(got, []string{"n1/a/7", "n1/a/8"}) {
		t.Errorf("thaws %v", got)
	}
	r.stop()
	mu.Lock()
	defer mu.Unlock()
	if len(calls) != 21 || calls[0].Kept[0] != openfaas.CallThawed ||
		!slices.ContainsFunc(calls[0].Stages, func(s openfaas.CallStage) bool { return s.Name == openfaas.StageThawed }) {
		t.Errorf("%d calls are remembered, the first as %+v", len(calls), calls[0])
	}
}

// A replica in use is not given leave for: its round is ended.
func TestInUseIsNotFrozen(t *testing.T) {
	f := &freezer{gate: make(chan struct{})}
	r := newRig(t, invoke.Config{Thaw: f.thaw})
	arrived, finish := make(chan struct{}), make(chan struct{})
	_, e := r.replica("a", func(http.ResponseWriter, *http.Request) { close(arrived); <-finish })
	e.Node = "n1"
	r.ready(e)
	done := make(chan answer)
	go func() { done <- r.must("GET", "", "") }()
	<-arrived
	e.Frozen = 3
	r.ready(e)
	f.gate <- struct{}{} // it is asked
	close(finish)
	if a := <-done; a.status != http.StatusOK {
		t.Errorf("answer %d %q", a.status, a.body)
	}
	r.stop()
	if got := f.thaws(); !slices.Equal(got, []string{"n1/a/3"}) || len(r.c.leaves) > 0 {
		t.Errorf("thaws %v, leaves %v", got, r.c.leaves)
	}
}

// A client that leaves during a thaw takes nothing from those who wait for it
// too.
func TestClientLeavesDuringThaw(t *testing.T) {
	f := &freezer{gate: make(chan struct{})}
	r := newRig(t, invoke.Config{Thaw: f.thaw})
	_, e := r.replica("a", func(http.ResponseWriter, *http.Request) {})
	e.Node, e.Frozen = "n1", 1
	r.ready(e)
	r.c.until(t, "leave", r.c.left(api.Leave{Pod: "a", Round: 1}))
	inFlight := func(n int) func() bool {
		return func() bool { return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].InFlight == n }
	}
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() {
		resp, err := r.client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	r.c.until(t, "the first call", inFlight(1))
	stays := make(chan answer, 1)
	go func() { stays <- r.must("GET", "", "") }()
	r.c.until(t, "the second call", inFlight(2))
	leave()
	if err := <-left; err == nil {
		t.Error("the call was answered before the thaw")
	}
	r.c.until(t, "the first call's end", inFlight(1))
	close(f.gate)
	if a := <-stays; a.status != http.StatusOK {
		t.Errorf("who stayed got %d %q", a.status, a.body)
	}
	if got := f.thaws(); len(got) != 1 {
		t.Errorf("thaws %v", got)
	}
}

// While the node's agent does not answer, others are used; when there is none
// the call waits.
func TestThawFails(t *testing.T) {
	f := &freezer{fault: errors.New("the agent is down")}
	r := newRig(t, invoke.Config{Thaw: f.thaw})
	_, e := r.replica("a", func(http.ResponseWriter, *http.Request) {})
	e.Node, e.Frozen = "n1", 1
	r.ready(e)
	first := make(chan answer)
	go func() { first <- r.must("POST", "", "body") }()
	r.c.until(t, "a call that waits", func() bool { return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].Queued == 1 })
	_, other := r.replica("b", func(http.ResponseWriter, *http.Request) {})
	r.ready(other)
	if a := <-first; a.status != http.StatusOK {
		t.Errorf("with another replica: %d %q", a.status, a.body)
	}
	r.event(api.EndpointGone, other)
	f.mu.Lock()
	f.fault = nil
	f.mu.Unlock()
	if a := r.must("POST", "", "body"); a.status != http.StatusOK {
		t.Errorf("with the agent back: %d %q", a.status, a.body)
	}
}

// Whatever the order of leaves, thaws and freezes: no request is at a replica
// that is frozen. Two gateways send to it while rounds come one after the other.
func TestNoRequestMeetsAFrozenReplica(t *testing.T) {
	f := &freezer{thawed: make(chan struct{}, 1)}
	met, froze := 0, 0
	look := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.frozen {
			met++
		}
	}
	gateways := []*rig{newRig(t, invoke.Config{Thaw: f.thaw}), newRig(t, invoke.Config{Thaw: f.thaw})}
	_, e := gateways[0].replica("a", func(http.ResponseWriter, *http.Request) { look(); defer look() })
	e.Node = "n1"
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, g := range gateways {
		g.ready(e)
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if a, err := g.do("GET", "", ""); err != nil || a.status != http.StatusOK {
					t.Errorf("answer %d %q, %v", a.status, a.body, err)
				}
				if i%3 == 0 { // a pause, in which leave is given
					select {
					case <-time.After(2 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	for round := uint64(1); round <= 200; round++ {
		e.Frozen = round
		for _, g := range gateways {
			g.event(api.EndpointReady, e)
		}
		left := 0
		for _, g := range gateways {
			g.c.mu.Lock()
			ok, changed := g.c.left(api.Leave{Pod: "a", Round: round})(), g.c.changed
			g.c.mu.Unlock()
			if !ok {
				select {
				case <-changed: // perhaps by the leave
				case <-time.After(5 * time.Millisecond):
				}
				g.c.mu.Lock()
				ok = g.c.left(api.Leave{Pod: "a", Round: round})()
				g.c.mu.Unlock()
			}
			if ok {
				left++
			}
		}
		select {
		case <-f.thawed: // of a round before
		default:
		}
		if left == len(gateways) && f.freeze(round) {
			if froze++; froze%2 == 0 { // a call comes and has it thawed
				<-f.thawed
			}
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d times frozen, %d thaws", froze, len(f.thaws()))
	if met > 0 || froze == 0 {
		t.Errorf("%d requests met a frozen replica; it was frozen %d times", met, froze)
	}
}
