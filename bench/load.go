package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// target is a request that is sent again and again.
type target struct {
	addr    string // host:port
	request []byte // as it goes over the wire; it must not ask to close
	status  int    // that counts as success
}

// get is a GET of path at addr.
func get(addr, path string) target {
	return target{addr: addr, status: http.StatusOK, request: []byte("GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")}
}

// post is a POST of body.
func post(addr, path, body string, status int) target {
	return target{addr: addr, status: status, request: fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", path, addr, len(body), body)}
}

// wire is one connection of a load generator that costs little beside what it
// measures: it knows just enough HTTP/1.1 for the answers it gets.
type wire struct {
	t    target
	conn net.Conn
	r    *bufio.Reader
}

const callLimit = time.Minute

func dial(ctx context.Context, t target) (*wire, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	return &wire{t: t, conn: c, r: bufio.NewReader(c)}, nil
}

// call sends the request and reads the whole answer.
func (w *wire) call() error {
	if err := w.conn.SetDeadline(time.Now().Add(callLimit)); err != nil {
		return err
	}
	if _, err := w.conn.Write(w.t.request); err != nil {
		return err
	}
	status, said, err := readAnswer(w.r)
	if err != nil {
		return fmt.Errorf("answer of %s: %w", w.t.addr, err)
	}
	if status != w.t.status {
		return fmt.Errorf("%s answers %d, not %d: %s", w.t.addr, status, w.t.status, said)
	}
	return nil
}

// readAnswer reads one answer, its body included, and tells its status and the
// beginning of an error's body.
func readAnswer(r *bufio.Reader) (status int, said string, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, "", err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, "", fmt.Errorf("not HTTP/1.1: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, "", err
	}
	length, chunked := 0, false
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return 0, "", err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		key, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(key, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, "", err
			}
		case bytes.EqualFold(key, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if !chunked {
		if status >= http.StatusBadRequest {
			b, _ := r.Peek(min(length, 200))
			said = string(b)
		}
		_, err = r.Discard(length)
		return status, said, err
	}
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return 0, "", err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return 0, "", err
		}
		if _, err := r.Discard(int(n) + 2); err != nil { // and its line's end; no trailers come
			return 0, "", err
		}
		if n == 0 {
			return status, said, nil
		}
	}
}

// pool is connections to one target.
type pool []*wire

// open connects n times and makes one call on each.
func open(ctx context.Context, t target, n int) (pool, error) {
	var p pool
	for range n {
		w, err := dial(ctx, t)
		if err != nil {
			p.close()
			return nil, err
		}
		p = append(p, w)
		if err := w.call(); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p pool) close() {
	for _, w := range p {
		w.conn.Close()
	}
}

// closed has every connection call, one call after the other, for d, and
// answers with the calls in a second. It is for the most that gets through, not
// for latencies.
func (p pool) closed(ctx context.Context, d time.Duration) (rate float64, err error) {
	var n atomic.Int64
	err = p.parallel(func(w *wire, start time.Time) error {
		for time.Since(start) < d {
			if err := w.call(); err != nil {
				return err
			}
			if n.Add(1); ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	return float64(n.Load()) / d.Seconds(), err
}

// arrivals of a Poisson process of rate per second within d, as times since its
// beginning.
func arrivals(rate float64, d time.Duration, r *rand.Rand) []time.Duration {
	var out []time.Duration
	for t := 0.0; ; {
		t += r.ExpFloat64() / rate
		at := time.Duration(t * float64(time.Second))
		if at >= d {
			return out
		}
		out = append(out, at)
	}
}

// open calls at the given times, whether or not earlier calls have been
// answered, and gives the latencies in µs. They count from the time at which a
// call was due: one that waited for a connection, or for the generator itself,
// has its wait in it.
func (p pool) open(ctx context.Context, at []time.Duration) ([]float64, error) {
	due := clock(ctx, at)
	var mu sync.Mutex
	all := make([]float64, 0, len(at))
	err := p.parallel(func(w *wire, _ time.Time) error {
		var mine []float64
		for t := range due {
			if err := w.call(); err != nil {
				return err
			}
			mine = append(mine, us(time.Since(t)))
		}
		mu.Lock()
		all = append(all, mine...)
		mu.Unlock()
		return nil
	})
	for range due { // the clock's end, when all connections failed
	}
	return all, errors.Join(err, ctx.Err())
}

// clock sends each of the times when it has come, and closes the channel at the
// end, or early when ctx is done. It never waits for its reader.
func clock(ctx context.Context, at []time.Duration) <-chan time.Time {
	due := make(chan time.Time, len(at))
	go func() {
		defer close(due)
		// A thread of its own: the runtime's timers are a millisecond coarse.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // coarser without
		start := time.Now()
		for _, a := range at {
			t := start.Add(a)
			for ctx.Err() == nil {
				wait := time.Until(t)
				if wait <= 0 {
					break
				}
				// Cut short, so that the end of ctx is seen; looked at again.
				ts := unix.NsecToTimespec(int64(min(wait, 50*time.Millisecond)))
				_ = unix.Nanosleep(&ts, nil)
			}
			if ctx.Err() != nil {
				return
			}
			due <- t
		}
	}()
	return due
}

// parallel runs f for each connection at once.
func (p pool) parallel(f func(w *wire, start time.Time) error) error {
	errs := make([]error, len(p))
	var wg sync.WaitGroup
	start := time.Now()
	for i, w := range p {
		wg.Go(func() { errs[i] = f(w, start) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
