// Package load calls a function at a steady rate, whatever becomes of the calls,
// and keeps a ledger of each of them.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
)

// Config says what is called. Gateways, Path and Rate have to be set.
type Config struct {
	Gateways []string     // URLs; the first one that works is used
	Client   *http.Client // nil is http.DefaultClient
	Path     string       // such as /function/name?query
	Rate     int          // calls a second
	Timeout  time.Duration
	Name     string // begins the ids of the calls
	// Resend has a call that was not answered with success sent again with its
	// id, to the next gateway, until Timeout is over. Otherwise that is done
	// only when nothing of it was sent.
	Resend bool
	Want   int // status of success; 0 is 200
}

// Call is a line of the ledger. Times are since the start of the load.
type Call struct {
	ID       string
	Sent     time.Duration
	Answered time.Duration // or given up; 0: not yet
	Status   int           // the last one; 0: none came
	Gateway  int           // that was tried last
	Tries    int
	Fault    string // "" is success
}

// Load is a running load.
type Load struct {
	c       Config
	start   time.Time
	cancel  context.CancelFunc
	done    chan struct{}
	current atomic.Int64 // gateway

	mu    sync.Mutex
	calls []Call
}

// most are the calls that may be open at a time; what is over it is not sent and
// counts as failed.
const most = 4000

// Start starts a load; it goes on until Stop or the end of ctx.
func Start(ctx context.Context, c Config) *Load {
	if c.Client == nil {
		c.Client = http.DefaultClient
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Want == 0 {
		c.Want = http.StatusOK
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{c: c, start: time.Now(), cancel: cancel, done: make(chan struct{})}
	go l.run(ctx)
	return l
}

// Now is the ledger's time.
func (l *Load) Now() time.Duration { return time.Since(l.start) }

// Calls is the ledger as it is now.
func (l *Load) Calls() []Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Call(nil), l.calls...)
}

// Stop ends the load, waits for the answers and gives the ledger.
func (l *Load) Stop() []Call {
	l.cancel()
	<-l.done
	return l.Calls()
}

// run sends what is due at each tick: a tick that comes late has more to send.
func (l *Load) run(ctx context.Context) {
	defer close(l.done)
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, most)
	tick := time.NewTicker(max(time.Millisecond, time.Second/time.Duration(l.c.Rate)))
	defer tick.Stop()
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for ; sent < int(l.Now().Seconds()*float64(l.c.Rate)); sent++ {
			i := l.enter()
			select {
			case room <- struct{}{}:
				wg.Go(func() {
					defer func() { <-room }()
					l.leave(i, l.call(context.WithoutCancel(ctx), l.id(i)))
				})
			default:
				l.leave(i, Call{Fault: fmt.Sprintf("not sent: %d calls are open", most)})
			}
		}
	}
}

func (l *Load) id(i int) string { return fmt.Sprintf("%s-%d", l.c.Name, i) }

func (l *Load) enter() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.calls)
	l.calls = append(l.calls, Call{ID: l.id(i), Sent: l.Now(), Fault: "not answered yet"})
	return i
}

func (l *Load) leave(i int, c Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.ID, c.Sent, c.Answered = l.calls[i].ID, l.calls[i].Sent, l.Now()
	l.calls[i] = c
}

// call makes one call, with as many tries as it may have.
func (l *Load) call(ctx context.Context, id string) Call {
	ctx, cancel := context.WithTimeout(ctx, l.c.Timeout)
	defer cancel()
	var c Call
	for {
		at := l.current.Load()
		c.Gateway = int(at) % len(l.c.Gateways)
		c.Tries++
		var err error
		c.Status, err = l.try(ctx, l.c.Gateways[c.Gateway], id)
		if err == nil {
			c.Fault = ""
			return c
		}
		c.Fault = short(err)
		l.current.CompareAndSwap(at, at+1) // the first one that fails goes over, and all with it
		if !l.c.Resend && !unsent(err) {
			return c
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return c
		case <-pause.C:
		}
	}
}

// short is what is wrong, without what differs from call to call.
func short(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// unsent tells whether nothing of a call has been sent.
func unsent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// tryLimit is how long a gateway may take to answer when the call can still be
// sent to another one. A platform that starts takes connections at once and
// answers when it is up: who does not wait for that has its call executed twice.
const tryLimit = 3 * time.Second

func (l *Load) try(ctx context.Context, gateway, id string) (status int, err error) {
	if l.c.Resend {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, tryLimit)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, gateway+l.c.Path, strings.NewReader(id))
	if err != nil {
		return 0, err
	}
	req.Header.Set(openfaas.HeaderCallID, id)
	resp, err := l.c.Client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	switch {
	case err != nil:
		return resp.StatusCode, err
	case resp.StatusCode != l.c.Want:
		return resp.StatusCode, fmt.Errorf("%d %.200s", resp.StatusCode, strings.TrimSpace(string(b)))
	}
	return resp.StatusCode, nil
}
