// Package loop is the level-triggered reconcile loop that every controller is:
// keys are added by events, one worker at a time works on a key, faults are
// tried again with back-off.
package loop

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"
)

// Config says how a loop runs. The zero value is usable but for Name.
type Config struct {
	Name       string        // in logs and metrics
	Workers    int           // 0 is 1
	BackoffMin time.Duration // after the first fault; 0 is 5 ms, doubling
	BackoffMax time.Duration // 0 is 30 s
	Log        *slog.Logger  // nil discards
	Metrics    prometheus.Registerer
}

// Loop works on keys of type K.
type Loop[K comparable] struct {
	c         Config
	q         workqueue.TypedRateLimitingInterface[K]
	reconcile func(context.Context, K) (again time.Duration, err error)
	duration  prometheus.Observer
	faults    prometheus.Counter
}

// New makes a loop. reconcile brings the world of one key nearer to what is
// wanted; a positive again has it called once more after that time. An error
// is logged and tried again.
func New[K comparable](c Config, reconcile func(ctx context.Context, key K) (again time.Duration, err error)) *Loop[K] {
	return newLoop(c, workqueue.DefaultQueue[K](), reconcile)
}

// NewRanked is New for a loop whose keys of the highest rank come first; a key's
// rank is asked for when it is added.
func NewRanked[K comparable](c Config, rank func(K) int64, reconcile func(ctx context.Context, key K) (again time.Duration, err error)) *Loop[K] {
	return newLoop(c, newRanked(rank), reconcile)
}

func newLoop[K comparable](c Config, queue workqueue.Queue[K], reconcile func(ctx context.Context, key K) (again time.Duration, err error)) *Loop[K] {
	if c.Workers == 0 {
		c.Workers = 1
	}
	if c.BackoffMin == 0 {
		c.BackoffMin = 5 * time.Millisecond
	}
	if c.BackoffMax == 0 {
		c.BackoffMax = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	l := &Loop[K]{
		c:         c,
		q:         queueOf(c, queue),
		reconcile: reconcile,
	}
	d := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "faas_reconcile_duration_seconds", Help: "Time of one reconciliation.",
		ConstLabels: prometheus.Labels{"loop": c.Name}, Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
	})
	f := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "faas_reconcile_faults_total", Help: "Reconciliations that ended in an error and are tried again.",
		ConstLabels: prometheus.Labels{"loop": c.Name},
	})
	l.duration, l.faults = d, f
	if c.Metrics != nil {
		c.Metrics.MustRegister(d, f, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "faas_reconcile_queue_depth", Help: "Keys that wait for a reconciliation.",
			ConstLabels: prometheus.Labels{"loop": c.Name},
		}, func() float64 { return float64(l.q.Len()) }))
	}
	return l
}

func queueOf[K comparable](c Config, queue workqueue.Queue[K]) workqueue.TypedRateLimitingInterface[K] {
	delaying := workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[K]{
		Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[K]{Queue: queue}),
	})
	limit := workqueue.NewTypedItemExponentialFailureRateLimiter[K](c.BackoffMin, c.BackoffMax)
	return workqueue.NewTypedRateLimitingQueueWithConfig(limit, workqueue.TypedRateLimitingQueueConfig[K]{DelayingQueue: delaying})
}

// Add asks for a reconciliation of key now.
func (l *Loop[K]) Add(key K) { l.q.Add(key) }

// AddAfter asks for one later.
func (l *Loop[K]) AddAfter(key K, d time.Duration) { l.q.AddAfter(key, d) }

// Run works until ctx is done, and returns nil when all workers have ended.
// Work begins when all of after are closed: what a reconciliation reads is to be
// there, so that none is decided on a part of it. It may be called once, and a
// loop that was made is run, if only with a ctx that is done: it holds a
// goroutine from New on.
func (l *Loop[K]) Run(ctx context.Context, after ...<-chan struct{}) error {
	defer l.q.ShutDown()
	for _, c := range after {
		select {
		case <-ctx.Done():
			return nil
		case <-c:
		}
	}
	var wg sync.WaitGroup
	for range l.c.Workers {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.q.ShutDown()
	wg.Wait()
	return nil
}

func (l *Loop[K]) next(ctx context.Context) bool {
	key, down := l.q.Get()
	if down {
		return false
	}
	defer l.q.Done(key)
	if ctx.Err() != nil {
		return true
	}
	start := time.Now()
	again, err := l.reconcile(ctx, key)
	l.duration.Observe(time.Since(start).Seconds())
	if err != nil {
		if ctx.Err() == nil {
			l.faults.Inc()
			l.c.Log.Warn("reconcile", slog.String("loop", l.c.Name), slog.Any("key", key), slog.Any("error", err))
		}
		l.q.AddRateLimited(key)
		return true
	}
	l.q.Forget(key)
	if again > 0 {
		l.q.AddAfter(key, again)
	}
	return true
}
