package invoke

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/podsnap/podsnap/gateway/upstream"
)

// try sends the request to the replica of c.slot and gives the slot back.
func (c *call) try() (retry bool, err error) {
	e := c.slot.e
	if c.slot.frozen {
		if retry, err := c.thaw(); retry || err != nil {
			return retry, err
		}
	}
	limit := c.limits.Timeout
	if c.slot.timeout > 0 {
		limit = c.slot.timeout
	}
	c.request(limit)
	ans, err := e.pool.Do(&c.out)
	if err != nil {
		if refused(err) && c.body.sendable() {
			c.f.refuse(c.slot)
			return true, nil
		}
		if errors.Is(err, upstream.ErrUnheard) {
			// Whoever comes next is spared the wait. The replica may have got
			// this one.
			c.f.refuse(c.slot)
			if upstream.Safe(c.q.Method) && c.body.sendable() {
				return true, nil
			}
			return false, c.explain(e, limit, err)
		}
		c.f.release(c.slot)
		return false, c.explain(e, limit, err)
	}
	if c.slot.trial {
		c.f.proved(e)
	}
	c.begun(ans)
	if ans.Status == 101 {
		err = c.switchProtocols(ans)
	} else {
		err = c.explain(e, limit, c.answer(ans))
		ans.End()
	}
	c.f.release(c.slot)
	return false, err
}

// refused reports whether no connection was had.
func refused(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// explain says whose fault err is; nil stays nil.
func (c *call) explain(e *endpoint, limit time.Duration, err error) error {
	if err == nil {
		return nil
	}
	if c.gone(err) {
		return errGone
	}
	if errors.Is(err, upstream.ErrLimit) {
		return timedOut(c.f.key, limit)
	}
	if c.hasBody {
		if fault := c.body.failed(); fault != nil {
			return c.bodyFault(fault)
		}
	}
	return badAnswer(c.f.key, e, err)
}

// request is what goes to the replica.
func (c *call) request(limit time.Duration) {
	r := &c.out
	r.Method, r.Target, r.Host = c.q.Method, c.target, c.q.Host
	r.Upgrade = c.upgrade
	r.Limit = time.Now().Add(limit)
	c.fields = c.forwarded(c.fields[:0])
	r.Fields = c.fields
	if c.hasBody {
		c.body.rewind()
		if c.body.whole == nil {
			c.body.src.Deadline(r.Limit)
		}
		r.Body, r.Length = &c.body, c.q.Length
	}
}

// answer passes the replica's answer on. An error of the client's side is
// errGone.
func (c *call) answer(ans *upstream.Answer) error {
	chunked := ans.Length < 0
	c.fields = c.answered(c.own(c.fields[:0]), ans.Fields, chunked)
	c.status = ans.Status
	c.head = Head{Status: ans.Status, Fields: c.fields, Length: ans.Length}
	if c.a.Begin(&c.head) != nil {
		return errGone
	}
	if err := c.copy(ans); err != nil {
		return err
	}
	c.fields = c.fields[:0]
	if chunked {
		c.fields = ans.Trailers(c.fields)
	}
	if c.a.Finish(c.fields) != nil {
		return errGone
	}
	return nil
}

// copy passes the body on as it comes. An answer of unknown length, and one
// that comes in parts, is flushed part by part.
func (c *call) copy(ans *upstream.Answer) error {
	if ans.Ended() {
		return nil
	}
	if ans.Length < 0 && !ans.Buffered() && c.a.Flush() != nil { // the head
		return errGone
	}
	buf := c.v.buffer()
	defer c.v.buffers.Put(buf)
	for {
		n, err := ans.Read(buf[:])
		if n > 0 {
			if _, werr := c.a.Write(buf[:n]); werr != nil {
				return errGone
			}
			if !ans.Ended() && err == nil && c.a.Flush() != nil {
				return errGone
			}
		}
		switch {
		case errors.Is(err, io.EOF), err == nil && ans.Ended():
			return nil
		case err != nil:
			return err
		}
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
