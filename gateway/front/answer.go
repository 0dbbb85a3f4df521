package front

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/wire"
)

// answer is the answer to a session's request.
type answer struct {
	out     *[]byte // what is held back
	begun   bool
	noBody  bool
	chunked bool
	close   bool
	asked   bool       // the client was told to send its body
	mu      sync.Mutex // of begun and asked, when the client waits to be told
}

// heldBack is how much of an answer is at most kept before it is written.
const heldBack = 32 << 10

func (x *session) begin() {
	out, ok := x.s.outs.Get().(*[]byte)
	if !ok {
		b := make([]byte, 0, wire.BufferSize)
		out = &b
	}
	a := &x.answer
	a.out, a.begun, a.noBody, a.chunked, a.close, a.asked = out, false, false, false, false, false
}

func (x *session) end() {
	out := x.answer.out
	x.answer.out = nil
	*out = (*out)[:0]
	x.s.outs.Put(out)
}

// proceed tells the client to send its body, unless the answer is there first.
func (x *session) proceed() {
	a := &x.answer
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun || a.asked {
		return
	}
	a.asked = true
	x.limitWrite()
	_, _ = x.nc.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")) // a read tells when it failed
}

// Begin implements invoke.Asker.
func (x *session) Begin(h *invoke.Head) error {
	a, q := &x.answer, &x.request
	if q.Expect != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
	}
	a.begun = true
	a.noBody = wire.NoBody(q.Method, h.Status)
	a.chunked = h.Length < 0 && !a.noBody
	a.close = h.Close || q.Close || x.s.ending.Load()
	b := appendStatus((*a.out)[:0], h.Status)
	date := false
	for _, f := range h.Fields {
		b = wire.AppendField(b, f.Name, f.Value)
		date = date || len(f.Name) == 4 && f.Is("Date")
	}
	if !date {
		b = append(b, "Date: "...)
		b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
		b = append(b, "\r\n"...)
	}
	switch {
	case a.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case h.Length >= 0 && h.Status != http.StatusNoContent:
		b = append(b, "Content-Length: "...)
		b = append(appendInt(b, h.Length), "\r\n"...)
	}
	if a.close {
		b = append(b, "Connection: close\r\n"...)
	}
	*a.out = append(b, "\r\n"...)
	return nil
}

func appendStatus(b []byte, status int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = appendInt(b, int64(status))
	b = append(b, ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = appendInt(append(b, "status code "...), int64(status))
	}
	return append(b, "\r\n"...)
}

// Write implements invoke.Asker.
func (x *session) Write(p []byte) (int, error) {
	a := &x.answer
	if a.noBody || len(p) == 0 {
		return len(p), nil
	}
	if a.chunked {
		*a.out = append(strconv.AppendInt(*a.out, int64(len(p)), 16), "\r\n"...)
	}
	*a.out = append(*a.out, p...)
	if a.chunked {
		*a.out = append(*a.out, "\r\n"...)
	}
	if len(*a.out) >= heldBack {
		return len(p), x.Flush()
	}
	return len(p), nil
}

// Flush implements invoke.Asker.
func (x *session) Flush() error {
	out := x.answer.out
	if len(*out) == 0 {
		return nil
	}
	x.limitWrite()
	_, err := x.nc.Write(*out)
	*out = (*out)[:0]
	return err
}

// limitWrite moves the deadline of writes on, seldom enough to cost nothing.
func (x *session) limitWrite() {
	if now := time.Now(); x.writeBy.Sub(now) < writeTimeout/2 {
		x.writeBy = now.Add(writeTimeout)
		_ = x.nc.SetWriteDeadline(x.writeBy)
	}
}

// Finish implements invoke.Asker.
func (x *session) Finish(trailers []wire.Field) error {
	a := &x.answer
	if a.chunked {
		b := append(*a.out, "0\r\n"...)
		for _, f := range trailers {
			b = wire.AppendField(b, f.Name, f.Value)
		}
		*a.out = append(b, "\r\n"...)
	}
	return x.Flush()
}
