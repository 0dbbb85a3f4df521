package meter_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/meter"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a node whose containers use a fixed part of a core each.
type fake struct {
	api.Agent
	mu    sync.Mutex
	asked int
	since map[types.UID]time.Time // pods of one container that uses half a core
	away  bool
}

func (f *fake) Stats(context.Context) (api.NodeStats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.away {
		return api.NodeStats{}, errors.New("no answer")
	}
	now := time.Now()
	out := api.NodeStats{Time: now, CPUSeconds: float64(now.Unix()) * 2, Memory: 1000}
	for uid, since := range f.since {
		out.Pods = append(out.Pods, api.PodStats{UID: uid, Name: string(uid), Containers: []api.ContainerStats{
			{Name: "c", CPUSeconds: now.Sub(since).Seconds() / 2, Memory: 10},
		}})
	}
	return out, nil
}

func (f *fake) start(uid types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.since[uid] = time.Now()
}

func (f *fake) times() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func with(t *testing.T, f func(t *testing.T, m *meter.Meter, node *fake)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		node := &fake{since: map[types.UID]time.Time{}}
		m, err := meter.New(meter.Config{Agents: func(_ context.Context, name string) (api.Agent, error) {
			if name != "n" {
				return nil, errors.New("no such node")
			}
			return node, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		node.start("old")
		time.Sleep(time.Hour)
		f(t, m, node)
	})
}

func TestFirstAnswerTakesASecond(t *testing.T) {
	with(t, func(t *testing.T, m *meter.Meter, node *fake) {
		begin := time.Now()
		got := m.Read(t.Context(), "n", "gone")
		if took := time.Since(begin); took != time.Second {
			t.Errorf("took %v", took)
		}
		n, ok := got["n"]
		if !ok || len(got) != 1 || n.Milli != 2000 || n.Memory != 1000 || n.Window != time.Second {
			t.Fatalf("%+v", got)
		}
		if c := n.Pods["old"].Containers["c"]; c.Milli != 500 || c.Memory != 10 {
			t.Errorf("%+v", n.Pods)
		}
		if m.Read(t.Context(), "n"); node.times() != 2 {
			t.Errorf("asked %d times, want the answer given again", node.times())
		}
	})
}

func TestFormerReadingIsUsed(t *testing.T) {
	with(t, func(t *testing.T, m *meter.Meter, node *fake) {
		m.Read(t.Context(), "n")
		node.start("new")
		time.Sleep(15 * time.Second)
		begin := time.Now()
		n := m.Read(t.Context(), "n")["n"]
		if time.Since(begin) != 0 || n.Window != 15*time.Second || n.Pods["old"].Containers["c"].Milli != 500 {
			t.Errorf("after %v: %+v", time.Since(begin), n)
		}
		if _, ok := n.Pods["new"]; ok {
			t.Error("a pod has a rate that was not there all the time")
		}
		node.start("old") // anew
		time.Sleep(10 * time.Second)
		n = m.Read(t.Context(), "n")["n"]
		if _, ok := n.Pods["old"]; ok || n.Pods["new"].Containers["c"].Milli != 500 {
			t.Errorf("%+v", n.Pods)
		}
		time.Sleep(time.Hour)
		if n := m.Read(t.Context(), "n")["n"]; n.Window != time.Second {
			t.Errorf("a reading of an hour before was used: %+v", n)
		}
	})
}

func TestManyAskOnce(t *testing.T) {
	with(t, func(t *testing.T, m *meter.Meter, node *fake) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if n := m.Read(t.Context(), "n")["n"]; n.Milli != 2000 {
					t.Errorf("%+v", n)
				}
			})
		}
		wg.Wait()
		if node.times() != 2 {
			t.Errorf("asked %d times", node.times())
		}
		node.away = true
		time.Sleep(time.Minute)
		if got := m.Read(t.Context(), "n"); len(got) != 0 {
			t.Errorf("a node that does not answer: %+v", got)
		}
	})
}
