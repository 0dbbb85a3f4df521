package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	nameRSS = "idle platform, RSS of all its processes ÷ goal"
	namePSS = "idle platform, memory of all its processes, shared pages once (PSS) ÷ goal"
	nameCPU = "idle platform, CPU of all its processes ÷ goal"
)

// idle is what the platform takes when nothing is deployed.
func (b *bench) idle() []row {
	const window, goalMB, goalCPU = 3 * time.Second, 120, 1 // CPU in percent of one core
	p := b.platform()
	b.pause(2 * window) // the start's own work is over, and what it needed is given back
	var shares []float64
	total := 0.0
	b.each(func() {
		before, start := cpu(family(p.Pid())), time.Now()
		b.pause(window)
		used, took := cpu(family(p.Pid()))-before, time.Since(start)
		share := 100 * float64(used) / float64(took)
		shares = append(shares, share)
		total += share
	})
	mb, once := 0.0, 0.0
	for pid := range family(p.Pid()) {
		mb += rss(pid)
		once += pss(pid)
	}
	// The mean, not the median: what happens every few seconds counts too.
	mean := total / float64(len(shares))
	return []row{
		{Name: nameRSS, Ours: mb, Baseline: goalMB, Ratio: mb / goalMB, Goal: 1, Pass: mb <= goalMB, unit: "MB", Low: mb, High: mb},
		noGoal(namePSS, "MB", []float64{once}, []float64{goalMB}),
		{Name: nameCPU, Ours: mean, Baseline: goalCPU, Ratio: mean / goalCPU, Goal: 1, Pass: mean <= goalCPU, unit: "%", Low: slices.Min(shares), High: slices.Max(shares)},
	}
}

func (b *bench) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.ctx.Done():
		b.must(b.ctx.Err())
	}
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

// pss is a process' resident memory, MB, in which a page that n processes share
// counts one n-th: so what several processes take together is their sum. RSS
// would count the program that two of them run twice.
func pss(pid int) float64 {
	return field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
}

// rss is a process' resident memory, MB.
func rss(pid int) float64 { return field(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:") }

// field is a line's value in MB, of a file of the kernel's that gives it in kB;
// 0 when there is none.
func field(file, name string) float64 {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(raw)) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == name {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb / 1000
		}
	}
	return 0
}

// cpu is the time that all threads of the processes have run.
func cpu(pids map[int]bool) time.Duration {
	var sum time.Duration
	for pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, t := range tasks {
			raw, err := os.ReadFile(t)
			if err != nil {
				continue
			}
			ran, _, _ := strings.Cut(string(raw), " ")
			ns, _ := strconv.ParseInt(ran, 10, 64)
			sum += time.Duration(ns)
		}
	}
	return sum
}
