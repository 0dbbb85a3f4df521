package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/leak"
	"github.com/podsnap/podsnap/test/platform"
)

// children finds the platform's child processes by what they were started as.
func children(t *testing.T, p *platform.Platform) map[string]int {
	t.Helper()
	out := map[string]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); !ok || len(f) < 2 || f[1] != strconv.Itoa(p.Pid()) || f[0] == "Z" {
			continue
		}
		dir := filepath.Dir(s)
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		cmd, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		switch {
		case strings.Contains(string(cmd), "store-child"):
			out["store"] = pid
		case strings.Contains(string(cmd), "containerd"):
			out["containerd"] = pid
		}
	}
	return out
}

// containers names the containers of a function and how often they were
// restarted: what must be the same after a process of the platform was killed.
func containers(t *testing.T, p *platform.Platform, function string) map[string]int32 {
	t.Helper()
	out := map[string]int32{}
	for _, pod := range pods(t, p, function) {
		for _, s := range pod.Status.ContainerStatuses {
			out[string(pod.UID)+" "+s.ContainerID] = s.RestartCount
		}
	}
	return out
}

// Every process of the platform is killed in turn under load. Afterwards the
// same containers are there, and every call that was accepted is executed.
func TestKill(t *testing.T) {
	before, err := leak.Take()
	if err != nil {
		t.Fatal(err)
	}
	p := platform.New(t)
	build(t, p)
	deploy(t, p, openfaas.FunctionDeployment{Service: "steady", Labels: map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}})
	platform.Eventually(t, 30*time.Second, available(t, p, "steady", 2))
	l := newLedger(t)
	for _, victim := range []string{"store", "containerd", "server"} {
		t.Run(victim, func(t *testing.T) {
			was := containers(t, p, "steady")
			if len(was) != 2 {
				t.Fatalf("%d containers before the kill, want 2", len(was))
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var mu sync.Mutex
			var accepted []string
			calls, failed := 0, 0
			for range 2 {
				wg.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						code, body, err := post(p.URL+"/function/steady?sleep=5ms", "x")
						mu.Lock()
						calls++
						if err != nil || code != 200 || body != "x" {
							failed++
							if victim != "server" {
								t.Errorf("a warm call failed: %d %q %v", code, body, err)
							}
						}
						mu.Unlock()
					}
				})
				wg.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						if id, err := enqueue(p, "steady", "x", l.URL); err == nil {
							mu.Lock()
							accepted = append(accepted, id)
							mu.Unlock()
						}
						select {
						case <-ctx.Done():
						case <-time.After(5 * time.Millisecond):
						}
					}
				})
			}
			count := func(n int) {
				mu.Lock()
				from := len(accepted)
				mu.Unlock()
				platform.Eventually(t, 60*time.Second, func() error {
					mu.Lock()
					defer mu.Unlock()
					if len(accepted)-from < n {
						return fmt.Errorf("only %d more calls were accepted", len(accepted)-from)
					}
					return nil
				})
			}
			count(20)
			if victim == "server" {
				p.Kill()
				p.Start()
			} else {
				pid := children(t, p)[victim]
				if pid == 0 {
					t.Fatalf("no process is the %s", victim)
				}
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			count(20) // the platform takes calls again
			cancel()
			wg.Wait()
			platform.Eventually(t, 60*time.Second, func() error { return l.missing(accepted) })
			platform.Eventually(t, 30*time.Second, available(t, p, "steady", 2))
			if now := containers(t, p, "steady"); !maps.Equal(was, now) {
				t.Errorf("the containers are %v, they were %v", slices.Collect(maps.Keys(now)), slices.Collect(maps.Keys(was)))
			}
			// And it starts containers again.
			deploy(t, p, openfaas.FunctionDeployment{Service: "after-" + victim})
			if code, body, _ := invoke(t, p, "POST", "/function/after-"+victim, "x"); code != 200 || body != "x" {
				t.Errorf("a function that was deployed after it: %d %q", code, body)
			}
			t.Logf("%d calls, %d failed while the %s was away, %d accepted and executed", calls, failed, victim, len(accepted))
		})
	}
	t.Run("restart", func(t *testing.T) {
		was := containers(t, p, "steady")
		p.Terminate()
		p.Start()
		platform.Eventually(t, 30*time.Second, available(t, p, "steady", 2))
		if now := containers(t, p, "steady"); !maps.Equal(was, now) {
			t.Errorf("after SIGTERM and a start the containers are %v, they were %v", now, was)
		}
	})
	t.Run("stop leaves nothing, start brings back", func(t *testing.T) {
		p.Stop()
		after, err := leak.Take()
		if err != nil {
			t.Fatal(err)
		}
		if left := after.Since(before); len(left) > 0 {
			t.Errorf("after `faas server stop` there is still:\n%s", strings.Join(left, "\n"))
		}
		// Put beside the state, an archive is an image of the next start.
		archive, err := os.ReadFile("testdata/build/crash.tar")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.StateDir, "images", "crash.tar"), archive, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(p.StateDir, "registry")); err != nil {
			t.Fatal(err)
		}
		p.Start()
		deploy(t, p, openfaas.FunctionDeployment{Service: "archived", Image: "crash:latest"})
		waiting(t, p, "archived", "CrashLoopBackOff") // it was found, and does what it does
		platform.Eventually(t, 60*time.Second, available(t, p, "steady", 2))
		if code, body, _ := invoke(t, p, "POST", "/function/steady", "back"); code != 200 || body != "back" {
			t.Errorf("after a stop and a start: %d %q", code, body)
		}
	})
}
