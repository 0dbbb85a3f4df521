package invoke

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/internal/openfaas"
)

// call is one invocation.
type call struct {
	v         *Invoker
	f         *function
	w         http.ResponseWriter
	r         *http.Request
	target    route.Target
	id, start []string
	began     time.Time

	limits    Spec
	body      *body // nil: none
	upgrade   bool
	slot      slot
	connected time.Time // of a cold start
	status    int       // of the answer; 0: not begun
}

func (c *call) serve() {
	f := c.f
	f.meter.Started()
	f.arrived.Add(1)
	c.v.demand.arrived(f)
	c.limits = f.limits()
	err := c.attempt()
	if c.body != nil {
		c.endBody()
	}
	switch {
	case err == nil:
	case c.r.Context().Err() != nil:
		f.meter.Done(statusClientGone, time.Since(c.began))
		panic(http.ErrAbortHandler)
	case c.status != 0:
		f.meter.Done(http.StatusBadGateway, time.Since(c.began))
		panic(http.ErrAbortHandler)
	default:
		var r *refusal
		if !errors.As(err, &r) {
			r = unavailable(f.key, err.Error())
		}
		c.status = r.status
		c.duration()
		c.v.refuse(c.w, r)
	}
	f.meter.Done(c.status, time.Since(c.began))
}

// attempt sends the request to replicas until one takes the connection, and
// answers. A replica that took none is no reason for an error: nothing was
// sent.
func (c *call) attempt() error {
	if err := c.prepare(); err != nil {
		return err
	}
	wait := max(c.limits.Timeout, c.v.c.ColdStart)
	for first := false; ; first = true {
		s, err := c.acquire(wait, first)
		if err != nil {
			return err
		}
		s.waited, s.cold = s.waited+c.slot.waited, s.cold || c.slot.cold
		c.slot = s
		retry, err := c.try()
		if !retry {
			return err
		}
		c.v.c.Meter.Retried()
	}
}

// acquire takes a slot, at once or after a wait.
func (c *call) acquire(wait time.Duration, first bool) (slot, error) {
	if s, ok := c.f.tryAcquire(); ok {
		return s, nil
	}
	if c.body != nil && c.r.Header.Get("Expect") == "" {
		c.v.demand.urgent(c.f) // in time, however slow the client is
		if err := c.readAhead(wait); err != nil {
			c.w.Header().Set("Connection", "close")
			return slot{}, badBody(err)
		}
	}
	return c.f.acquire(c.r.Context(), c.began, wait, first)
}

// readAhead reads a small body, within the time that the request would wait.
func (c *call) readAhead(wait time.Duration) error {
	rc := http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(c.began.Add(wait)) // in process there is none, and no need
	err := c.body.ahead(c.r.ContentLength)
	if err == nil {
		_ = rc.SetReadDeadline(time.Time{})
	}
	return err
}

// prepare looks at what the client sent before it takes anybody's place.
func (c *call) prepare() error {
	c.upgrade = upgrade(c.r.Header) == "websocket"
	if c.r.Body == nil || c.r.Body == http.NoBody || c.r.ContentLength == 0 {
		return nil
	}
	if c.r.ContentLength > c.limits.MaxBody {
		c.w.Header().Set("Connection", "close")
		return tooLarge(c.f.key, c.limits.MaxBody)
	}
	c.body = newBody(c.r.Body, c.limits.MaxBody)
	// The function may answer while it reads. Where that can't be had, in
	// process, there is no need for it.
	_ = http.NewResponseController(c.w).EnableFullDuplex()
	return nil
}

// try sends the request to the replica of c.slot and gives the slot back.
func (c *call) try() (retry bool, err error) {
	e := c.slot.e
	limit := c.limits.Timeout
	if c.slot.timeout > 0 {
		limit = c.slot.timeout
	}
	ctx, cancel := context.WithCancelCause(c.r.Context())
	defer cancel(nil)
	timer := time.AfterFunc(limit, func() { cancel(errTimeout) })
	defer timer.Stop()
	resp, err := e.pool.RoundTrip(c.request(ctx, e))
	if err != nil {
		if refused(err) && ctx.Err() == nil && c.body.sendable() {
			c.f.refuse(c.slot)
			return true, nil
		}
		c.f.release(c.slot)
		return false, c.explain(ctx, e, limit, err)
	}
	defer c.f.release(c.slot)
	if c.slot.trial {
		c.f.proved(e)
	}
	if c.slot.cold {
		c.cold()
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return false, c.switchProtocols(resp, timer)
	}
	defer resp.Body.Close()
	return false, c.explain(ctx, e, limit, c.answer(resp))
}

// refused reports whether no connection was had.
func refused(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// explain says whose fault err is; nil stays nil.
func (c *call) explain(ctx context.Context, e *endpoint, limit time.Duration, err error) error {
	fault := c.body.failed()
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errTimeout):
		return timedOut(c.f.key, limit)
	case errors.Is(fault, errTooLarge):
		c.w.Header().Set("Connection", "close")
		return tooLarge(c.f.key, c.limits.MaxBody)
	case fault != nil:
		c.w.Header().Set("Connection", "close")
		return badBody(fault)
	}
	return badAnswer(c.f.key, e, err)
}

// request is what goes to the replica.
func (c *call) request(ctx context.Context, e *endpoint) *http.Request {
	if c.slot.cold {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn: func(httptrace.GotConnInfo) { c.connected = time.Now() },
		})
	}
	out := &http.Request{
		Method: c.r.Method,
		URL: &url.URL{
			Scheme: "http", Host: e.Address,
			Path: c.target.Path, RawPath: c.target.RawPath, RawQuery: c.r.URL.RawQuery, ForceQuery: c.r.URL.ForceQuery,
		},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: requestHeader(c.r, c.id, c.start),
		Host:   c.r.Host,
	}
	if c.upgrade {
		out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	}
	if c.body != nil {
		out.Body, _ = c.body.open() // it is sendable, or this would be no try
		out.GetBody, out.ContentLength, out.Trailer = c.body.open, c.r.ContentLength, c.r.Trailer
	}
	return out.WithContext(ctx)
}

// cold notes the stages of a cold start.
func (c *call) cold() {
	now := time.Now()
	if c.connected.IsZero() {
		c.connected = now
	}
	c.v.c.Meter.Cold(c.slot.waited, c.connected.Sub(c.slot.granted), now.Sub(c.connected))
}

// duration tells how long it took until the answer began, unless the function
// did.
func (c *call) duration() {
	if h := c.w.Header(); len(h[openfaas.HeaderDuration]) == 0 {
		h[openfaas.HeaderDuration] = []string{strconv.FormatFloat(time.Since(c.began).Seconds(), 'f', 6, 64)}
	}
}

// answer passes the replica's answer on.
func (c *call) answer(resp *http.Response) error {
	if resp.StatusCode < 200 || resp.StatusCode > 999 {
		return errors.New("status code " + strconv.Itoa(resp.StatusCode))
	}
	h := c.w.Header()
	answerHeader(h, resp.Header)
	c.duration()
	for k := range resp.Trailer {
		h.Add("Trailer", k)
	}
	c.status = resp.StatusCode
	c.w.WriteHeader(resp.StatusCode)
	announced := len(resp.Trailer)
	if err := c.copy(resp); err != nil {
		return err
	}
	if len(resp.Trailer) == 0 {
		return nil
	}
	if announced == 0 || announced != len(resp.Trailer) {
		for k, v := range resp.Trailer {
			h[http.TrailerPrefix+k] = v
		}
		return nil
	}
	maps.Copy(h, resp.Trailer)
	return nil
}

// copy passes the body on as it comes. An answer of unknown length, and one
// that comes in parts, is flushed part by part.
func (c *call) copy(resp *http.Response) error {
	left := resp.ContentLength
	if left == 0 || c.r.Method == http.MethodHead {
		return nil
	}
	flusher, _ := c.w.(http.Flusher)
	if flusher == nil {
		flusher = noFlush{}
	}
	if left < 0 {
		flusher.Flush() // the headers
	}
	buf := c.v.buffer()
	defer c.v.buffers.Put(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if _, werr := c.w.Write(buf[:n]); werr != nil {
				return werr
			}
			left -= int64(n)
			if left != 0 && err == nil {
				flusher.Flush()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type noFlush struct{}

func (noFlush) Flush() {}

// endBody stops reading of the client's body. A read that hangs would keep the
// client's connection when the answer is long over.
func (c *call) endBody() {
	c.body.end()
	if !c.body.eof.Load() && c.body.reading.Load() {
		_ = http.NewResponseController(c.w).SetReadDeadline(time.Now())
	}
}

type copyBuffer = [32 << 10]byte

// buffer borrows one from v.buffers.
func (v *Invoker) buffer() *copyBuffer {
	if b, ok := v.buffers.Get().(*copyBuffer); ok {
		return b
	}
	return new(copyBuffer)
}
