package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// idle is the resident memory of the platform with no replica running.
func (b *bench) idle(p *platform.Platform, _ *image) row {
	platform.Eventually(b, time.Minute, func() error {
		if n := len(b.pods(p)); n > 0 {
			return fmt.Errorf("%d pods are left", n)
		}
		return nil
	})
	total := 0.0
	for pid := range family(p.Pid()) {
		total += rss(pid)
	}
	const goal = 120
	return row{
		Name: "idle platform, RSS of all its processes", Ours: total, Baseline: goal, Ratio: total / goal, Goal: 1, Pass: total <= goal,
		unit: "MB", spread: "one look",
	}
}

// warm is what the gateway adds to a call of a running function.
func (b *bench) warm(p *platform.Platform, _ *image) row {
	b.must(p.Client.Scale(b.Context(), "", function, 1))
	var direct string
	platform.Eventually(b, time.Minute, func() error {
		for _, pod := range b.pods(p) {
			for _, c := range pod.Status.Conditions {
				if c.Type == "Ready" && c.Status == "True" {
					direct = "http://" + pod.Status.PodIP + ":8080/"
					return nil
				}
			}
		}
		return fmt.Errorf("no pod is ready")
	})
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	one := func(url string) float64 {
		start := time.Now()
		b.must(get(c, url))
		return us(time.Since(start))
	}
	through := p.URL + "/function/" + function
	for range 200 { // connections and caches
		one(direct)
		one(through)
	}
	var ours, base []float64
	for range rounds {
		var o, d []float64
		for range 1000 {
			d = append(d, one(direct))
			o = append(o, one(through))
		}
		ours, base = append(ours, median(o)), append(base, median(d))
	}
	r := quotient("warm p50, gateway − direct (c=1)", "µs", 60, ours, base)
	r.Ratio = r.Ours - r.Baseline
	r.Pass = r.Ratio <= r.Goal
	return r
}

// cold is a call at zero replicas against `runc run` of the same root file
// system, both to the first byte.
func (b *bench) cold(p *platform.Platform, img *image) row {
	c := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	through := p.URL + "/function/" + function
	var ours, base []float64
	for range rounds {
		var o, d []float64
		for range 5 {
			b.must(p.Client.Scale(b.Context(), "", function, 0))
			platform.Eventually(b, time.Minute, func() error {
				if n := len(b.pods(p)); n > 0 {
					return fmt.Errorf("%d pods are left", n)
				}
				return nil
			})
			start := time.Now()
			b.must(get(c, through))
			o = append(o, ms(time.Since(start)))
			d = append(d, ms(img.run(b)))
		}
		ours, base = append(ours, median(o)), append(base, median(d))
	}
	return quotient("cold start p50 ÷ runc run", "ms", 0.35, ours, base)
}

func get(c *http.Client, url string) error {
	resp, err := c.Get(url) //nolint:noctx // bounded by the client
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// function is what is measured: the Go template's own handler.
const function = "bench"

// prepare builds and deploys it, at zero replicas.
func (b *bench) prepare(p *platform.Platform) *image {
	dir, err := os.MkdirTemp("", "psb")
	b.must(err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	for _, args := range [][]string{{"login"}, {"new", function, "--lang", "go"}, {"up", "--label", "com.openfaas.scale.zero=true", "--label", "com.openfaas.scale.min=0"}} {
		if out, err := p.FaasIn(dir, "", args...); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	b.must(get(http.DefaultClient, p.URL+"/function/"+function))
	b.must(p.Client.Scale(b.Context(), openfaas.DefaultNamespace, function, 0))
	return newImage(b, p, dir)
}

// family is a process and all its descendants.
func family(pid int) map[int]bool {
	parent := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		raw, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(raw), ") ")
		f := strings.Fields(rest)
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		if !ok || len(f) < 2 || err != nil {
			continue
		}
		parent[id], _ = strconv.Atoi(f[1])
	}
	out := map[int]bool{pid: true}
	for grown := true; grown; {
		grown = false
		for c, p := range parent {
			if out[p] && !out[c] {
				out[c], grown = true, true
			}
		}
	}
	return out
}

// rss is a process' resident memory, MB.
func rss(pid int) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(raw)) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "VmRSS:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb / 1000
		}
	}
	return 0
}
