package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	nameStoreErrors  = "store killed in the replay, failed calls"
	nameStoreCold    = "store killed in the replay, until a cold start works ÷ goal"
	nameServerCold   = "server killed in the replay, until a cold start works ÷ goal"
	nameServerErrors = "server killed in the replay, failed calls (its gateway is gone too)"
)

// killed ends processes of the platform under the replay's load. On one machine
// the server process is gateway, control plane and node agent at once, so its
// death costs calls until it is started again, which happens here at once. The
// store process (etcd and NATS) is what a control plane of its own would lose.
func (b *bench) killed() []row {
	r := b.onTrace()
	n := 0
	kill := func(death func()) (until float64, failed, all int, first error) {
		n++
		name := fmt.Sprintf("revived-%d", n)
		b.must(r.create(name, coldLabels()))
		ctx, cancel := context.WithCancel(b.ctx)
		defer cancel()
		played := make(chan []heard, 1)
		go func() { played <- r.play(ctx, r.segment(n-1)) }()
		b.pause(time.Second)
		worked := make(chan time.Time, 1)
		start := time.Now()
		go func() { worked <- r.untilCold(name) }()
		death()
		at := <-worked
		b.pause(time.Second)
		cancel()
		r.forget()
		for _, h := range <-played {
			all++
			if h.err != nil {
				failed++
				first = h.err
			}
		}
		return ms(at.Sub(start)), failed, all, first
	}
	var storeCold, serverCold, goal []float64
	var failed, calls [2]int
	var why [2]error
	b.each(func() {
		until, bad, all, err := kill(func() { b.must(syscall.Kill(r.store(), syscall.SIGKILL)) })
		storeCold, goal = append(storeCold, until), append(goal, 2000)
		failed[0], calls[0], why[0] = failed[0]+bad, calls[0]+all, errors.Join(why[0], err)
		b.note("store killed: %d of %d calls failed, a cold start took until %.0f ms after", bad, all, until)
		r.awaitStore()
	})
	b.each(func() {
		until, bad, all, err := kill(func() { r.platform().Kill(); r.platform().Start() })
		serverCold = append(serverCold, until)
		failed[1], calls[1], why[1] = failed[1]+bad, calls[1]+all, errors.Join(why[1], err)
		b.note("server killed: %d of %d calls failed, a cold start took until %.0f ms after", bad, all, until)
		r.awaitStore()
	})
	b.traced = nil // its watch of pods has ended with the server
	rows := []row{
		none(nameStoreErrors, "calls", failed[0], calls[0]), atMost(nameStoreCold, "ms", 1, storeCold, goal),
		atMost(nameServerCold, "ms", 1, serverCold, goal), none(nameServerErrors, "calls", failed[1], calls[1]),
	}
	rows[3].NoGoal, rows[3].Pass = true, false
	for i, at := range []int{0, 3} {
		if why[i] != nil {
			rows[at].Hint = why[i].Error()
		}
	}
	return rows
}

// segment is some seconds of the replay's calls, other ones for each number;
// the longest ones are cut so that a round ends soon.
func (r *replayed) segment(n int) []traceCall {
	const length = 10 * time.Second
	from := time.Duration(n) * length
	var out []traceCall
	for _, c := range r.calls {
		if c.at >= from && c.at < from+length {
			out = append(out, traceCall{c.at - from, c.function, min(c.want, time.Second)})
		}
	}
	return out
}

// untilCold calls a function that has no replica, again and again, and answers
// with the time of the first success.
func (r *replayed) untilCold(name string) time.Time {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for r.ctx.Err() == nil && r.get200(c, "/function/"+name) != nil {
		<-again.C
	}
	return time.Now()
}

// store is the pid of the store process.
func (r *replayed) store() int {
	for pid := range family(r.platform().Pid()) {
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(cmd), "store-child") {
			return pid
		}
	}
	r.Fatal("the platform has no store process")
	return 0
}

// awaitStore waits until something can be stored again.
func (r *replayed) awaitStore() {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := r.platform().Client.Scale(r.ctx, "", function, 1)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.Fatal("the store does not come back", err)
		}
		r.pause(50 * time.Millisecond)
	}
}
