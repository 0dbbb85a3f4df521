package invoke

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/gateway/upstream"
	"github.com/podsnap/podsnap/gateway/wire"
)

// call is one invocation. It is used again for others.
type call struct {
	v      *Invoker
	q      *Request
	a      Asker
	f      *function
	target []byte // path and query as the function gets them
	began  time.Time
	limits Spec

	id, start   []byte
	idBuf       [36]byte
	startBuf    [20]byte
	durationBuf [24]byte
	random      [16]byte

	ctx     context.Context //nolint:containedctx // of the call; nil until it is asked for
	hasBody bool
	body    body
	upgrade bool
	slot    slot
	status  int // of the answer; 0: not begun

	queued    time.Time // it began to wait; zero: it did not
	connected time.Time // to the replica, or when it had the slot
	first     time.Time // the answer began
	thawed    time.Time // its replica was thawed; zero: it ran
	thawing   time.Duration
	retries   int

	out    upstream.Request
	fields []wire.Field
	head   Head
}

func (v *Invoker) newCall(q *Request, a Asker) *call {
	c, ok := v.calls.Get().(*call)
	if !ok {
		c = &call{v: v}
		c.out.Context = c.context
	}
	c.q, c.a, c.began = q, a, time.Now()
	if told := v.c.Called; told != nil {
		told(c.began)
	}
	c.identify()
	return c
}

// free gives the call back. Nothing of it is used any more.
func (c *call) free() {
	c.q, c.a, c.f, c.target, c.ctx, c.slot = nil, nil, nil, nil, nil, slot{}
	c.hasBody, c.body.src, c.body.whole, c.upgrade, c.status = false, nil, nil, false, 0
	c.queued, c.connected, c.first, c.retries = time.Time{}, time.Time{}, time.Time{}, 0
	c.thawed, c.thawing = time.Time{}, 0
	context := c.out.Context
	c.out = upstream.Request{Context: context}
	c.id, c.start = nil, nil
	c.v.calls.Put(c)
}

// context is done when the client is gone.
func (c *call) context() context.Context {
	if c.ctx == nil {
		c.ctx = c.a.Context()
	}
	return c.ctx
}

// gone reports whether err is that the client has left. To net/http a malformed
// body is the end of the connection, but then the client waits to be told.
func (c *call) gone(err error) bool {
	if c.hasBody {
		if fault := c.body.failed(); errors.Is(fault, wire.ErrChunk) || errors.Is(fault, errTooLarge) {
			return false
		}
	}
	return errors.Is(err, errGone) || c.ctx != nil && c.ctx.Err() != nil
}

// serve has the function answer. broken says that the answer has begun and
// can't be ended, or that there is nobody to answer.
func (c *call) serve() (broken bool) {
	f := c.f
	f.meter.Started()
	f.arrived.Add(1)
	c.v.demand.arrived(f)
	c.limits = f.limits()
	err := c.attempt()
	switch {
	case err == nil:
	case c.gone(err):
		c.done(statusClientGone, err)
		return true
	case c.status != 0:
		c.done(http.StatusBadGateway, err)
		return true
	default:
		r, ok := errors.AsType[*refusal](err)
		if !ok {
			r = unavailable(f.key, err.Error())
		}
		c.status = r.status
		err = r
		broken = c.refuse(r, true)
	}
	c.done(c.status, err)
	return broken
}

// refuse answers for the gateway itself. timed: how long it took is told.
func (c *call) refuse(err error, timed bool) (broken bool) {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		r = &refusal{status: http.StatusServiceUnavailable, reason: "fault", text: err.Error(), retryAfter: time.Second}
	}
	c.v.c.Meter.Refused(r.reason)
	fs := append(c.own(c.fields[:0]),
		wire.Field{Name: names.contentType, Value: []byte("text/plain; charset=utf-8")},
		wire.Field{Name: names.noSniff, Value: []byte("nosniff")},
		wire.Field{Name: names.internal, Value: []byte(Component)})
	if r.retryAfter > 0 {
		fs = append(fs, wire.Field{Name: names.retryAfter, Value: strconv.AppendInt(nil, int64((r.retryAfter+time.Second-1)/time.Second), 10)})
	}
	if r.status == http.StatusMethodNotAllowed {
		fs = append(fs, wire.Field{Name: names.allow, Value: []byte(allowed)})
	}
	if timed {
		fs = append(fs, c.duration(time.Now()))
	}
	c.fields = fs
	text := r.text + "\n"
	c.head = Head{Status: r.status, Fields: fs, Length: int64(len(text)), Close: r.ends}
	if c.a.Begin(&c.head) != nil {
		return true
	}
	if string(c.q.Method) != http.MethodHead {
		if _, err := c.a.Write([]byte(text)); err != nil {
			return true
		}
	}
	return c.a.Finish(nil) != nil
}

// attempt sends the request to replicas until one takes the connection, and
// answers. A replica that took none is no reason for an error: nothing was
// sent.
func (c *call) attempt() error {
	if err := c.prepare(); err != nil {
		return err
	}
	wait := c.limits.Wait
	for first := false; ; first = true {
		s, err := c.acquire(wait, first)
		if err != nil {
			return err
		}
		s.waited, s.cold = s.waited+c.slot.waited, s.cold || c.slot.cold
		if s.cold && s.granted.IsZero() {
			s.granted = time.Now() // at once, after a replica that refused
		}
		c.slot = s
		retry, err := c.try()
		if !retry {
			return err
		}
		c.v.c.Meter.Retried()
		c.retries++
	}
}

// prepare looks at what the client sent before it takes anybody's place.
func (c *call) prepare() error {
	c.upgrade = c.q.WebSocket
	src := c.a.Body()
	if src == nil || c.q.Length == 0 {
		return nil
	}
	if c.q.Length > c.limits.MaxBody {
		return tooLarge(c.f.key, c.limits.MaxBody)
	}
	c.hasBody = true
	c.body.reset(src, c.limits.MaxBody)
	return nil
}

// acquire takes a slot, at once or after a wait.
func (c *call) acquire(wait time.Duration, first bool) (slot, error) {
	if s, ok := c.f.tryAcquire(); ok {
		return s, nil
	}
	if c.hasBody && c.q.Expect == nil {
		c.v.demand.urgent(c.f) // in time, however slow the client is
		c.body.src.Deadline(c.began.Add(wait))
		if err := c.body.ahead(c.q.Length); err != nil {
			return slot{}, c.bodyFault(err)
		}
	}
	if c.queued.IsZero() {
		c.queued = time.Now()
	}
	return c.f.acquire(c.context(), c.began, wait, first)
}

// bodyFault says what is wrong with the client's body.
func (c *call) bodyFault(err error) error {
	if errors.Is(err, errTooLarge) {
		return tooLarge(c.f.key, c.limits.MaxBody)
	}
	return badBody(err)
}
