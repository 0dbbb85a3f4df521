package async

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/podsnap/podsnap/internal/openfaas"
	"k8s.io/apimachinery/pkg/types"
)

// workers make calls, at most Concurrency at a time and PerFunction of one
// function: what is over that goes back to the stream for a while, so that a
// slow function does not stand before the others.
type workers struct {
	q     *Queue
	ctx   context.Context //nolint:containedctx // of the calls; it ends after Run's
	end   context.CancelFunc
	slots chan struct{}
	wg    sync.WaitGroup

	lacked bool // said already that something is lacking

	mu   sync.Mutex
	busy map[types.NamespacedName]int
}

func newWorkers(ctx context.Context, q *Queue) *workers {
	w := &workers{q: q, slots: make(chan struct{}, q.c.Concurrency), busy: map[types.NamespacedName]int{}}
	w.ctx, w.end = context.WithCancel(context.WithoutCancel(ctx)) // calls outlive Run's context by Drain
	return w
}

// stop waits for the calls in flight, at most Drain.
func (w *workers) stop() {
	t := time.AfterFunc(w.q.c.Drain, w.end)
	defer t.Stop()
	w.wg.Wait()
	w.end()
}

// How long a fetch waits for messages, and while the queue lacks something.
const (
	fetchWait   = 10 * time.Second
	lackingWait = 3 * time.Second // a heartbeat of one second needs more than twice that
)

// consume takes messages until ctx is done or the consumer fails; while
// something is lacking, a few only.
func (w *workers) consume(ctx context.Context, cons jetstream.Consumer, lacking error) error {
	if lacking != nil && !w.lacked {
		w.q.c.Log.Warn("the queue of asynchronous calls works, but is not as safe as it should be; that is tried again", slog.Any("reason", lacking))
	}
	w.lacked = lacking != nil
	for {
		select {
		case <-ctx.Done():
			return nil
		case w.slots <- struct{}{}: // room for one at least
			<-w.slots
		}
		if lacking != nil {
			return errors.Join(lacking, w.fetch(ctx, cons, lackingWait))
		}
		if err := w.fetch(ctx, cons, fetchWait); err != nil {
			return err
		}
	}
}

// fetch takes as many messages as there is room for, until none has come for
// some time.
func (w *workers) fetch(ctx context.Context, cons jetstream.Consumer, limit time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	batch, err := cons.Fetch(cap(w.slots)-len(w.slots), jetstream.FetchContext(wait), jetstream.FetchHeartbeat(time.Second))
	if err != nil {
		return err
	}
	return w.take(ctx, batch)
}

func (w *workers) take(ctx context.Context, batch jetstream.MessageBatch) error {
	messages := batch.Messages()
	for {
		select {
		case <-ctx.Done():
			// What the fetch still brings is delivered again after AckWait, or
			// at once, by Nak, if it is here already.
			for {
				select {
				case m, ok := <-messages:
					if !ok {
						return nil
					}
					_ = m.Nak() // AckWait does it otherwise
				default:
					return nil
				}
			}
		case m, ok := <-messages:
			if !ok {
				if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
					return err
				}
				return nil
			}
			w.slots <- struct{}{}
			w.wg.Go(func() { //nolint:contextcheck // calls outlive the fetch, by Drain
				defer func() { <-w.slots }()
				w.handle(m)
			})
		}
	}
}

// handle brings one message to its end, or back to the stream.
func (w *workers) handle(m jetstream.Msg) {
	c, err := decode(m.Headers(), m.Data())
	if err != nil {
		w.settle(m, w.q.bury(w.ctx, m.Subject(), m.Headers(), m.Data(), "it can't be read: "+err.Error()))
		return
	}
	if d := time.Until(c.After); d > 0 {
		w.later(m, d)
		return
	}
	if !w.enter(c.Function) {
		w.later(m, crowded(m))
		return
	}
	defer w.leave(c.Function)
	defer w.keep(m)()
	w.settle(m, w.attempt(c))
}

// crowded is how long a message stays away whose function is busy: longer each
// time, so that a long backlog does not circle.
func crowded(m jetstream.Msg) time.Duration {
	n := uint64(0)
	if meta, err := m.Metadata(); err == nil {
		n = min(meta.NumDelivered, 6)
	}
	return time.Duration(float64(250*time.Millisecond<<n) * (0.5 + jitter()/2))
}

func (w *workers) enter(f types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[f] >= w.q.c.PerFunction {
		return false
	}
	w.busy[f]++
	return true
}

func (w *workers) leave(f types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[f]--; w.busy[f] == 0 {
		delete(w.busy, f)
	}
}

func (w *workers) later(m jetstream.Msg, d time.Duration) {
	if err := m.NakWithDelay(d); err != nil {
		w.q.c.Log.Debug("put a call back", slog.Any("error", err)) // AckWait does it
	}
}

// keep tells the stream that the message is being worked on, until the returned
// function is called.
func (w *workers) keep(m jetstream.Msg) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(w.q.c.AckWait / 3)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				_ = m.InProgress() // a copy runs if it is lost: at least once
			}
		}
	}()
	return func() { close(done); <-ended }
}

// settle acknowledges what is done; a fault leaves the message to the stream.
func (w *workers) settle(m jetstream.Msg, err error) {
	if err != nil {
		w.q.c.Log.Warn("an asynchronous call goes back to the queue", slog.Any("error", err))
		w.later(m, time.Second)
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	if err := m.DoubleAck(ctx); err != nil {
		w.q.c.Log.Debug("acknowledge a call", slog.Any("error", err)) // it runs once more
	}
}

// attempt calls the function once and sees to what follows. nil means that the
// message is no longer needed.
func (w *workers) attempt(c *Call) error {
	q := w.q
	q.m.inflight.WithLabelValues(label(c.Function)).Inc()
	defer q.m.inflight.WithLabelValues(label(c.Function)).Dec()
	start := time.Now()
	a := w.invoke(c)
	took := time.Since(start)
	if w.ctx.Err() != nil {
		return errors.New("the gateway ends")
	}
	q.m.processed.Inc()
	v := q.c.Retry(c.Function).judge(c.Attempt, a.status, a.header, jitter())
	if !v.done && v.dead == "" {
		next := *c
		next.Attempt++
		next.After = time.Now().Add(v.after)
		m, err := next.message()
		if err != nil {
			return err
		}
		q.m.retried.Inc()
		q.c.Log.Info("an asynchronous call is tried again", slog.String("call_id", c.ID), slog.String("function", label(c.Function)),
			slog.Int("status", a.status), slog.Int("attempt", c.Attempt), slog.Duration("in", v.after))
		return q.store(w.ctx, m)
	}
	if c.Callback != "" {
		q.call(w.ctx, c, a, took)
	}
	if v.dead != "" {
		m, err := c.message()
		if err != nil {
			return err
		}
		m.Header.Set(headerStatus, strconv.Itoa(a.status))
		return q.bury(w.ctx, m.Subject, m.Header, m.Data, v.dead)
	}
	return nil
}

// invoke makes the call through the gateway's own handler.
func (w *workers) invoke(c *Call) (a *answer) {
	a = &answer{header: http.Header{}, limit: w.q.c.MaxAnswer}
	defer func() {
		if r := recover(); r != nil {
			if r != http.ErrAbortHandler { //nolint:errorlint // the value itself is thrown
				w.q.c.Log.Error("panic in an asynchronous call", slog.String("call_id", c.ID), slog.String("panic", fmt.Sprint(r)))
			}
			a.status = http.StatusBadGateway // the answer broke off
		}
	}()
	url := "http://gateway/function/" + label(c.Function) + c.Path
	if c.Query != "" {
		url += "?" + c.Query
	}
	req, err := http.NewRequestWithContext(w.ctx, c.Method, url, newReader(c.Body))
	if err != nil {
		a.status = http.StatusBadRequest
		return a
	}
	if c.Header != nil {
		req.Header = c.Header.Clone()
	}
	req.ContentLength = int64(len(c.Body))
	req.Header.Set(openfaas.HeaderCallID, c.ID)
	req.Header.Set("X-Attempt", strconv.Itoa(c.Attempt+1))
	w.q.c.Handler.ServeHTTP(a, req)
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a
}

func label(f types.NamespacedName) string { return f.Name + "." + f.Namespace }
