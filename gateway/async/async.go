// Package async is the queue of asynchronous calls, over NATS JetStream.
//
// A call is one message of the stream PODSNAP_ASYNC under the subject
// podsnap.async.<namespace>.<function>: the header Podsnap-Call holds the call
// without its body as JSON, the data is the body. The stream is a work queue on
// disk. A worker takes a message, calls the function through the gateway's own
// handler and acknowledges when the function has answered and the callback was
// made; so a call runs at least once, whatever ends in between, and a copy has
// the same X-Call-Id. A call that is to be tried again is stored anew with the
// next attempt's number before the old message is acknowledged. What is given
// up goes to the stream PODSNAP_DEAD with the reason in Podsnap-Reason.
package async

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/internal/pause"
)

const (
	stream     = "PODSNAP_ASYNC"
	deadStream = "PODSNAP_DEAD"
	prefix     = "podsnap.async."
	deadPrefix = "podsnap.dead."
	consumer   = "workers"

	headerCall   = "Podsnap-Call"
	headerReason = "Podsnap-Reason"
	headerStatus = "Podsnap-Status" // of the last answer to a dead letter

	// QueueName is the queue's name in metrics.
	QueueName = "faas-request"
)

// Config says which NATS is used and how calls are made.
type Config struct {
	URL         string       // of NATS; a token may stand before the host: nats://token@host:port
	CA          string       // PEM file of NATS' authority; "": those that the machine trusts
	Credentials string       // file of a JWT and its seed; "": what URL says
	Handler     http.Handler // serves /function/<name>.<namespace>/…
	Retry       func(types.NamespacedName) Retry

	Concurrency int           // calls in flight of all functions; 0 is 256
	PerFunction int           // of one function; 0 is 64
	AckWait     time.Duration // after which a worker that is silent is taken for dead; 0 is 10 s
	Hold        time.Duration // how long Enqueue tries; 0 is 10 s
	Drain       time.Duration // how long Run waits for calls in flight at its end; 0 is 30 s
	MaxBytes    int64         // of the stream; 0 is 1 GiB
	MaxAnswer   int64         // bytes of an answer that are kept for the callback; 0 is 1 MiB
	Replicas    int           // of the streams, with a NATS cluster; 0 is 1

	// CallbackDeny are the networks that callbacks do not reach. nil: link-local
	// (with it the metadata services of clouds), 0.0.0.0/8, multicast. Loopback
	// and private networks are reached: on one machine the receivers are there.
	// Deny them where those who may call functions may not reach them.
	CallbackDeny []netip.Prefix
	Callback     *http.Client // nil: one that heeds CallbackDeny, does not follow redirects, with a limit of 10 s
	Log          *slog.Logger // nil discards
	Metrics      prometheus.Registerer
}

func (c *Config) fill() {
	zero := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	zero(&c.AckWait, 10*time.Second)
	zero(&c.Hold, 10*time.Second)
	zero(&c.Drain, 30*time.Second)
	if c.Concurrency == 0 {
		c.Concurrency = 256
	}
	if c.PerFunction == 0 {
		c.PerFunction = 64
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	if c.MaxAnswer == 0 {
		c.MaxAnswer = 1 << 20
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Retry == nil {
		c.Retry = func(types.NamespacedName) Retry { return Retry{} }
	}
	if c.CallbackDeny == nil {
		c.CallbackDeny = deniedByDefault()
	}
	if c.Callback == nil {
		c.Callback = callbackClient(c.CallbackDeny)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Queue stores asynchronous calls and makes them. It is safe for concurrent
// use.
type Queue struct {
	c      Config
	conn   *nats.Conn
	js     jetstream.JetStream
	m      *metrics
	closed sync.Once

	resting sync.Once
	rest    chan struct{} // closed when no more calls are to be made
	rested  chan struct{} // closed when none is in flight any more
}

// New makes a queue. NATS need not answer yet: the connection is tried again
// for as long as the queue lives. Run ends the queue.
func New(c Config) (*Queue, error) {
	c.fill()
	if c.Handler == nil {
		return nil, errors.New("async: a handler is required")
	}
	var more []nats.Option
	if c.CA != "" {
		more = append(more, nats.RootCAs(c.CA))
	}
	if c.Credentials != "" {
		more = append(more, nats.UserCredentials(c.Credentials))
	}
	conn, err := nats.Connect(c.URL, append(more,
		nats.Name("podsnap gateway"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond),
		nats.Timeout(2*time.Second), nats.PingInterval(5*time.Second), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1), // a publish while disconnected fails at once; Enqueue tries again
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.Log.Debug("nats", slog.Any("error", err))
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				c.Log.Warn("the connection to NATS broke", slog.Any("error", err))
			}
		}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	q := &Queue{c: c, conn: conn, js: js, rest: make(chan struct{}), rested: make(chan struct{})}
	q.m = newMetrics(q)
	return q, nil
}

// Run makes calls until ctx is done, waits for those in flight and closes the
// connection.
func (q *Queue) Run(ctx context.Context) error {
	defer q.closed.Do(q.conn.Close)
	defer q.c.Callback.CloseIdleConnections()
	q.make(ctx)
	<-ctx.Done()
	return nil
}

// Rest ends the making of calls before the end of Run: it waits for those in flight.
// Calls are stored as before; they are made by whoever runs next.
func (q *Queue) Rest() {
	q.resting.Do(func() { close(q.rest) })
	<-q.rested
}

// make makes calls until ctx is done or Rest is called, and waits for those in
// flight.
func (q *Queue) make(ctx context.Context) {
	defer close(q.rested)
	w := newWorkers(ctx, q)
	defer w.stop()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-q.rest:
			stop()
		case <-ctx.Done():
		}
	}()
	var cons jetstream.Consumer
	limit := openFirst
	say := time.Now().Add(sayAfter)
	for {
		opened, lacking, err := q.open(ctx, limit)
		if err == nil {
			cons, limit = opened, openAgain
		}
		if cons != nil {
			err = errors.Join(err, w.consume(ctx, cons, errors.Join(lacking, err)))
		}
		if ctx.Err() != nil {
			return
		}
		if cons == nil && time.Now().After(say) {
			say = time.Now().Add(sayAgain)
			q.c.Log.Warn("asynchronous calls are not taken yet: there is no queue for them", slog.Int("copies", q.c.Replicas), slog.Any("reason", err))
		}
		q.c.Log.Debug("the queue is opened again", slog.Any("error", err))
		if !pause.For(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// When it is said that the queue can't be opened: a start takes a moment, and a
// cluster of servers is without a queue until it has been complete once.
const (
	sayAfter = 3 * time.Second
	sayAgain = time.Minute
)

// How long open may take: one that has been opened is used meanwhile. In a
// cluster the leader of the calls may be there while that of all streams, which
// open asks, is not.
const (
	openFirst = 10 * time.Second
	openAgain = 2 * time.Second
)

// open makes sure that the streams and the consumer are as they should be.
// lacking is why they are not quite: calls are made nevertheless, and after a
// while open is to be called again.
func (q *Queue) open(ctx context.Context, limit time.Duration) (cons jetstream.Consumer, lacking, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	calls, lacking, err := q.ensure(ctx, jetstream.StreamConfig{
		Name: stream, Subjects: []string{prefix + ">"}, Storage: jetstream.FileStorage, Replicas: q.c.Replicas,
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: q.c.MaxBytes, Duplicates: 2 * time.Minute,
	})
	if err != nil {
		return nil, nil, err
	}
	_, deadLacking, err := q.ensure(ctx, jetstream.StreamConfig{
		Name: deadStream, Subjects: []string{deadPrefix + ">"}, Storage: jetstream.FileStorage, Replicas: q.c.Replicas,
		Retention: jetstream.LimitsPolicy, MaxAge: 14 * 24 * time.Hour, MaxBytes: q.c.MaxBytes, Duplicates: 2 * time.Minute,
	})
	if err != nil {
		return nil, nil, err
	}
	cons, err = calls.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{ // with as many copies as the stream
		Durable: consumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: q.c.AckWait, MaxDeliver: -1, MaxAckPending: 100_000,
	})
	return cons, errors.Join(lacking, deadLacking), err
}

// leastBytes is the smallest queue that is made where there is little room.
const leastBytes = 16 << 20

// ensure makes or changes a stream. One that is there and can't be changed now,
// as for more copies than there are servers, is used as it is.
func (q *Queue) ensure(ctx context.Context, c jetstream.StreamConfig) (s jetstream.Stream, lacking, err error) {
	full := false // there is no room for what it might hold
	for {
		s, err = q.js.CreateOrUpdateStream(ctx, c)
		if err == nil {
			return s, nil, nil
		}
		e, is := errors.AsType[*jetstream.APIError](err)
		full = is && e.ErrorCode == codeNoStorage
		if !full || c.MaxBytes <= leastBytes {
			break
		}
		c.MaxBytes /= 2 // a small disk has room for a smaller queue
	}
	err = fmt.Errorf("stream %s: %w", c.Name, err)
	old, missing := q.js.Stream(ctx, c.Name)
	if missing != nil {
		return nil, nil, err
	}
	if full && old.CachedInfo().Config.Replicas == c.Replicas {
		return old, nil, nil // it was made when the disk had more room, and lacks nothing
	}
	return old, err, nil
}
