package invoke

import (
	"bytes"
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
	whole   []byte                // when it was read in advance; then it can be sent any number of times
}

// maxAhead is how large a body may be to be read before there is a replica.
const maxAhead = 64 << 10

// ahead reads a small body of known length before its request waits: only then
// does the server notice a client that leaves.
func (b *body) ahead(length int64) error {
	if length <= 0 || length > maxAhead || b.whole != nil {
		return nil
	}
	buf := make([]byte, length)
	if _, err := io.ReadFull(b.r, buf); err != nil {
		b.fault.CompareAndSwap(nil, &err)
		return err
	}
	// The end has to be seen too, or the server does not listen on.
	if _, err := b.r.Read(make([]byte, 1)); err != nil && err != io.EOF {
		b.fault.CompareAndSwap(nil, &err)
		return err
	}
	b.whole = buf
	b.eof.Store(true)
	return nil
}

// sendable reports whether the body can be sent once more from its beginning.
func (b *body) sendable() bool { return b == nil || b.whole != nil || !b.read.Load() }

// open is the body from its beginning.
func (b *body) open() (io.ReadCloser, error) {
	switch {
	case b.whole != nil:
		return io.NopCloser(bytes.NewReader(b.whole)), nil
	case b.read.Load():
		return nil, errors.New("the body is partly sent")
	}
	return b, nil
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
