package conformance

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	nodert "github.com/podsnap/podsnap/nodeagent/runtime"
)

// Leak starts and removes n pods, a few at a time, and complains of what there
// is more of in the end: what a pod has in the kernel (namespaces, links,
// mounts, cgroups, processes), what this process holds (files, goroutines,
// memory), and files below Node.Dir. A few pods go before, so that pools are
// filled when it begins.
func Leak(t *testing.T, node Node, n int) {
	r := newRig(t, node)
	parent := r.cycle(6)
	before := r.settled(parent, nil)
	begin := time.Now()
	r.cycle(n)
	t.Logf("%d pods came and went in %v", n, time.Since(begin).Round(time.Millisecond))
	after := r.settled(parent, before)
	for _, k := range slices.Sorted(maps.Keys(before)) {
		t.Logf("%-22s before %8d, after %8d", k, before[k], after[k])
		if after[k] > before[k]+slack(k, n) {
			t.Errorf("%s: %d before and %d after %d pods", k, before[k], after[k], n)
		}
	}
}

// slack is what may be there beyond what was: memory is given back by the
// garbage collectors of language and kernel when they like, and others on the
// machine have namespaces too.
func slack(kind string, n int) int {
	switch kind {
	case "heap bytes":
		return 1<<20 + 100*n
	case "network namespaces":
		return 8
	}
	return 0
}

// cycle runs n pods with one container each, four at a time, and answers with
// the top cgroup that holds theirs.
func (r *rig) cycle(n int) string {
	r.t.Helper()
	var wg sync.WaitGroup
	var parent string
	var mu sync.Mutex
	next := make(chan int)
	for range 4 {
		wg.Go(func() {
			for range next {
				p, err := r.once()
				if err != nil {
					r.t.Error(err)
				}
				mu.Lock()
				parent = p
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return parent
}

func (r *rig) once() (parent string, err error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*patience)
	defer cancel()
	s := r.named(nodert.SandboxSpec{})
	sb, err := r.Runtime.StartSandbox(ctx, s)
	if err != nil {
		return "", err
	}
	defer func() {
		if e := r.Runtime.RemoveSandbox(ctx, sb.ID); e != nil && err == nil {
			err = e
		}
	}()
	spec := r.spec(sb, "hold")
	spec.Resources = nodert.Resources{CPUShares: 256, Memory: 64 << 20, Pids: 50}
	defer func() { _ = os.Remove(spec.LogPath) }()
	c, err := r.Runtime.StartContainer(ctx, spec)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if err != nil {
		return "", err
	}
	for l := range strings.Lines(string(b)) {
		if part := strings.SplitN(strings.TrimSpace(l), ":", 3); len(part) == 3 && strings.Count(part[2], "/") > 1 {
			return "/" + strings.Split(part[2], "/")[1], nil
		}
	}
	return "", fmt.Errorf("the container has no cgroup of its own: %s", b)
}

// settled counts until nothing is above what it was, or has not become less
// for a while: the kernel takes namespaces down in the background.
func (r *rig) settled(parent string, before map[string]int) map[string]int {
	r.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last map[string]int
	for calm := 0; ; <-tick.C {
		now := r.census(parent)
		over := false
		for k, v := range now {
			over = over || before == nil || v > before[k]
		}
		if !over {
			return now
		}
		if calm++; last == nil || slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(k string) bool { return k != "heap bytes" && now[k] < last[k] }) {
			calm = 0
		}
		if last = now; calm > 20 {
			return now
		}
	}
}

// census counts what there is at this moment.
func (r *rig) census(parent string) map[string]int {
	r.t.Helper()
	out := map[string]int{}
	links, err := net.Interfaces()
	if err != nil {
		r.t.Fatal(err)
	}
	out["links"] = len(links)
	out["mounts"] = lines("/proc/self/mountinfo")
	out["routes"] = lines("/proc/net/route")
	for controller := range groupsOf(r.t, os.Getpid()) {
		_ = filepath.WalkDir(filepath.Join(hierarchy(controller), parent), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out["cgroups"]++
			}
			return nil
		})
	}
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, e := range exes {
		if to, err := os.Readlink(e); err == nil && (strings.Contains(to, "containerd-shim") || strings.HasSuffix(to, "/pause") || strings.HasSuffix(to, "/bin/probe")) {
			out["processes"]++
		}
	}
	for _, pid := range append(r.Processes, os.Getpid()) {
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		out["open files"] += len(fds)
	}
	out["goroutines"] = runtime.NumGoroutine()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	out["heap bytes"] = int(m.HeapAlloc)
	_ = filepath.WalkDir(r.Dir, func(_ string, _ fs.DirEntry, err error) error {
		if err == nil {
			out["files"]++
		}
		return nil
	})
	out["network namespaces"] = slab("net_namespace")
	out["sockets"] = lines("/proc/net/unix") + lines("/proc/net/netlink")
	return out
}

func lines(path string) int {
	b, _ := os.ReadFile(path)
	return strings.Count(string(b), "\n")
}

// slab is how many objects of a kind the kernel has; 0 where it does not say.
// Each CPU keeps whole slabs at hand, and all their places count as taken: they
// are given back before the count, or one would see several dozen objects that
// are not there.
func slab(kind string) int {
	if err := os.WriteFile("/sys/kernel/slab/"+kind+"/shrink", []byte("1"), 0); err != nil {
		return 0
	}
	f, err := os.Open("/proc/slabinfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if w := strings.Fields(s.Text()); len(w) > 1 && w[0] == kind {
			n, _ := strconv.Atoi(w[1])
			return n
		}
	}
	return 0
}
