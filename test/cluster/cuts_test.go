package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/cluster/load"
	"github.com/podsnap/podsnap/test/platform"
)

// TestPowerCuts switches a host off again and again, at moments that nobody has
// chosen: while it starts, while it works. It comes back each time, and what it
// has accepted is executed. CLUSTER_CUTS is how often, CLUSTER_SEED the seed of
// the moments.
func TestPowerCuts(t *testing.T) {
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			return otherwise
		}
		return n
	}
	cuts := number("CLUSTER_CUTS", 0)
	if cuts == 0 {
		t.Skip("it takes minutes: make cluster-test")
	}
	seed := number("CLUSTER_SEED", 1)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	c := New(t, Config{Hosts: 1})
	w := newWitness(t, c)
	client := c.Client.HTTPClient()
	c.Images(c.Hosts[0], Build(t, "testdata")...)
	n := c.Server(c.Hosts[0])
	if err := deploy(t.Context(), n, 2, map[string]string{"WITNESS": w.URL}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	queued := load.Start(ctx, load.Config{
		Gateways: []string{n.URL}, Client: client, Path: "/async-function/witness?tell", Rate: asyncRate, Timeout: patience, Name: "c",
		Resend: true, Want: http.StatusAccepted,
	})
	answers := func() error { return call(t.Context(), client, n, 5*time.Second) }
	platform.Eventually(t, patience, answers)
	var slowest time.Duration
	for i := range cuts {
		// Up to two seconds after it was told to start, half of the time, or
		// after it has answered.
		early := i > 0 && random.IntN(2) == 0
		if !early {
			start := time.Now()
			platform.Eventually(t, patience, answers)
			if d := time.Since(start); i > 0 {
				slowest = max(slowest, d)
			}
		}
		wait := time.NewTimer(time.Duration(random.Int64N(int64(2 * time.Second))))
		<-wait.C
		if err := n.Host.PowerOff(); err != nil {
			t.Fatal(err)
		}
		if err := n.Host.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.Launch()
	}
	n.Await()
	platform.Eventually(t, patience, answers)
	platform.Eventually(t, patience, func() error {
		f, err := n.Client.Function(t.Context(), "", "witness", false)
		if err == nil && f.AvailableReplicas != 2 {
			err = fmt.Errorf("there are %d replicas", f.AvailableReplicas)
		}
		return err
	})
	accepted := load.Accepted(queued.Stop())
	platform.Eventually(t, 2*patience, func() error { return w.all(accepted) })
	_, twice := w.missing(accepted)
	t.Logf("%d power cuts (seed %d): its function answered %.1f s after it was switched on at the latest; %d calls accepted and executed, %d of them more than once",
		cuts, seed, slowest.Seconds(), len(accepted), twice)
	if len(accepted) < cuts {
		t.Errorf("only %d calls were accepted: the test shows nothing", len(accepted))
	}
}
