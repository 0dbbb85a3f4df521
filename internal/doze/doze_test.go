package doze

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	for _, c := range []struct {
		name  string
		dozes bool
		used  time.Duration // in a second
		want  bool
	}{
		{"nothing to do", false, 5 * time.Millisecond, true},
		{"something to do", false, 40 * time.Millisecond, false},
		{"asleep, something to do", true, 40 * time.Millisecond, true},
		{"asleep, much to do", true, 100 * time.Millisecond, false},
	} {
		if got := next(c.dozes, c.used, time.Second); got != c.want {
			t.Errorf("%s: dozes %v", c.name, got)
		}
	}
}

// The kernel has what was set, for each thread, and a process that does nothing
// comes to doze.
func TestRun(t *testing.T) {
	const slack = 7 * time.Millisecond
	set(slack)
	if got := slackOf(t); got != "7000000" {
		t.Skipf("the kernel does not take it: %s", got)
	}
	set(usual)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Run(ctx, slack) }()
	look := time.NewTicker(every / 4)
	defer look.Stop()
	for n := 0; slackOf(t) != "7000000"; n++ {
		if <-look.C; n > 40 {
			t.Fatal("it does not doze")
		}
	}
	cancel()
	<-done
	if got := slackOf(t); got != "50000" {
		t.Errorf("in the end it is %s", got)
	}
}

// slackOf is what this process's threads have, if all have the same.
func slackOf(t *testing.T) string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(tasks) == 0 {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, dir := range tasks {
		b, err := os.ReadFile(filepath.Join("/proc", filepath.Base(dir), "timerslack_ns"))
		if err != nil {
			continue // it has ended
		}
		all[strings.TrimSpace(string(b))] = true
	}
	if len(all) != 1 {
		return "different"
	}
	for v := range all {
		return v
	}
	return ""
}
