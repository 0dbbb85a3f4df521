package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api/cache"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/leak"
	"github.com/podsnap/podsnap/test/platform"
)

// holdings is what the platform holds while no function runs.
type holdings struct {
	kernel     map[string]int // links, mounts, cgroups, …
	parked     int            // sandboxes that are kept ready, which are part of it
	server     leak.Process
	goroutines int
	heap       int // kB of the server, after a garbage collection
}

// thousand starts are so many that the histories of their objects are waited for.
const thousand = 1000

// Each of many starts and ends of replicas leaves nothing: 200 of them, or as
// many as LEAK_STARTS says.
func manyStarts(t *testing.T, p *platform.Platform) {
	const wide = 5
	starts := 200
	if s := os.Getenv("LEAK_STARTS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("LEAK_STARTS: %v", err)
		}
		starts = n
	}
	for i := range wide {
		deploy(t, p, openfaas.FunctionDeployment{Service: fmt.Sprintf("again-%d", i), Labels: map[string]string{
			"com.openfaas.scale.min": "0", "com.openfaas.scale.max": "1",
			// Else the regular calls are learned, and a replica is started before the next one.
			"com.openfaas.scale.zero-duration": "5m",
		}})
	}
	cycle := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		for i := range wide {
			wg.Go(func() {
				name := fmt.Sprintf("again-%d", i)
				for range n / wide {
					code, body, err := post(p.URL+"/function/"+name, "x")
					if err != nil || code != 200 || body != "x" {
						t.Errorf("from zero: %d %q %v", code, body, err)
						return
					}
					if err := p.Client.Scale(t.Context(), "", name, 0); err != nil {
						t.Error(err)
						return
					}
					if err := gone(t, p, name); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	cycle(10 * wide) // caches and pools get what they keep
	before := rest(t, p, nil, 0)
	cycle(starts)
	after := rest(t, p, &before, starts)
	t.Logf("%d starts: before %+v, after %+v", starts, before, after)
}

// gone waits until a function has no pod. It asks seldom: many wait.
func gone(t *testing.T, p *platform.Platform, name string) error {
	watch := platform.StartWatch()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if len(pods(t, p, name)) == 0 {
			return nil
		}
		if watch.Spent() > 30*time.Second {
			return fmt.Errorf("a pod of %s does not go", name)
		}
		<-tick.C
	}
}

// rest waits until the platform holds no more than before, or, when that is
// nil, until what it holds does not change any more.
func rest(t *testing.T, p *platform.Platform, before *holdings, starts int) holdings {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	last, patience := holdings{}, time.Minute
	if starts >= thousand {
		patience += 2 * cache.Fresh
	}
	platform.Eventually(t, patience, func() error {
		now, err := holding(p)
		if err != nil {
			return err
		}
		was := last
		last = now
		if before != nil {
			return now.over(*before, starts)
		}
		if !maps.Equal(was.kernel, now.kernel) || was.parked != now.parked || was.server.FDs != now.server.FDs {
			return fmt.Errorf("it is not at rest: %+v, then %+v", was, now)
		}
		return nil
	})
	return last
}

// over tells what there is more of than before. For each sandbox that is kept
// ready now and was not then there are a link, at most one mount and one cgroup
// in each hierarchy.
func (h holdings) over(before holdings, starts int) error {
	more := max(0, h.parked-before.parked)
	hierarchies, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil {
		return err
	}
	allow := map[string]int{"link": more, "mount": more, "route": more, "cgroup": more * len(hierarchies)}
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(h.kernel)) {
		if n := h.kernel[kind] - before.kernel[kind]; n > allow[kind] {
			out = append(out, fmt.Sprintf("%d more of kind %s", n, kind))
		}
	}
	// Connections and their goroutines are kept for a while; a leak of one for
	// each start is ten times as many.
	const some = 20
	if n := h.server.FDs - before.server.FDs; n > some+2*more {
		out = append(out, fmt.Sprintf("%d more open files of the server", n))
	}
	if n := h.goroutines - before.goroutines; n > some+2*more {
		out = append(out, fmt.Sprintf("%d more goroutines of the server", n))
	}
	// A start leaves some versions of its objects in the histories that watches
	// resume from, about 100 kB in all. After many starts it is waited for until the
	// histories have forgotten them; their Events, which are few a second, stay.
	versions := 150 * starts
	if starts >= thousand {
		versions = 16 << 10
	}
	if n := h.heap - before.heap; n > 8<<10+versions {
		out = append(out, fmt.Sprintf("%d kB more memory of the server", n))
	}
	if len(out) > 0 {
		return fmt.Errorf("there are %s", strings.Join(out, ", "))
	}
	return nil
}

func holding(p *platform.Platform) (holdings, error) {
	s, err := leak.Take()
	if err != nil {
		return holdings{}, err
	}
	h := holdings{kernel: s.Count(), server: leak.Look(p.Pid())}
	socket := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.StateDir, "run", "debug.sock"))
	}}}
	if _, err := read(&socket, "http://debug/debug/pprof/heap?gc=1"); err != nil {
		return h, err
	}
	raw, err := read(http.DefaultClient, p.Metrics+"/metrics")
	if err != nil {
		return h, err
	}
	for l := range strings.Lines(raw) {
		f := strings.Fields(l)
		if len(f) != 2 {
			continue
		}
		n, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "faas_sandbox_pool_size":
			h.parked = int(n)
		case "go_goroutines":
			h.goroutines = int(n)
		case "go_memstats_heap_alloc_bytes":
			h.heap = int(n / 1024)
		}
	}
	return h, nil
}

func read(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return string(raw), err
}
