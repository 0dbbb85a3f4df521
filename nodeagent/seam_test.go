package nodeagent_test

import (
	"context"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/seamtest"
	"github.com/podsnap/podsnap/nodeagent"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
)

func TestSeam(t *testing.T) {
	seamtest.Agent(t, func(t *testing.T) api.Agent {
		t.Helper()
		engine := fake.New()
		a, err := nodeagent.New(nodeagent.Config{
			NodeName: "n1", Objects: memory.New(), Runtime: engine, Images: engine.Images(), Stats: engine,
			StateDir: t.TempDir(), OnDisk: true, Dial: engine.Dial,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := a.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		}()
		t.Cleanup(func() { cancel(); <-done })
		return a
	})
}
