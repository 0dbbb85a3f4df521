package invoke

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

var errTooLarge = errors.New("the body is larger than the limit")

// body is a request's body on its way to a replica. It is read by the
// transport, which may still do so when the handler has returned.
type body struct {
	r       io.Reader
	left    int64 // that may come before it is too much
	read    atomic.Bool
	reading atomic.Bool
	closed  atomic.Bool
	eof     atomic.Bool
	fault   atomic.Pointer[error] // of the client's side
}

func newBody(r io.Reader, limit int64) *body { return &body{r: r, left: limit} }

func (b *body) Read(p []byte) (int, error) {
	b.reading.Store(true)
	defer b.reading.Store(false)
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.read.Store(true)
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		n, err = 0, errTooLarge
	}
	switch {
	case err == io.EOF:
		b.eof.Store(true)
	case err != nil:
		b.fault.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Close ends nothing: the same body is sent again while nothing was read of it.
func (b *body) Close() error { return nil }

// end makes later reads fail.
func (b *body) end() { b.closed.Store(true) }

// again is the body for one more try.
func (b *body) again() (io.ReadCloser, error) {
	if b.read.Load() {
		return nil, errors.New("the body is partly sent")
	}
	return b, nil
}

// failed is the client side's error, nil if there is none.
func (b *body) failed() error {
	if b == nil {
		return nil
	}
	if e := b.fault.Load(); e != nil {
		return *e
	}
	return nil
}
