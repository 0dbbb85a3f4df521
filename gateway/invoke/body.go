package invoke

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/podsnap/podsnap/gateway/upstream"
	"github.com/podsnap/podsnap/gateway/wire"
)

var errTooLarge = errors.New("the body is larger than the limit")

// body is a request's body on its way to a replica. It may be read by another
// goroutine than the one that serves the call.
type body struct {
	src    Body
	left   int64 // that may come before it is too much
	read   atomic.Bool
	closed atomic.Bool
	fault  atomic.Pointer[error] // of the client's side
	whole  []byte                // when it was read in advance; then it can be sent any number of times
	rest   bytes.Reader          // of whole
}

var _ upstream.Body = (*body)(nil)

// maxAhead is how large a body may be to be read before there is a replica.
const maxAhead = 64 << 10

// reset begins a body that may have limit bytes.
func (b *body) reset(src Body, limit int64) {
	b.src, b.left, b.whole = src, limit, nil
	b.read.Store(false)
	b.closed.Store(false)
	b.fault.Store(nil)
}

// ahead reads a small body of known length before its request waits: only then
// is a client noticed that leaves.
func (b *body) ahead(length int64) error {
	if length <= 0 || length > maxAhead || b.whole != nil {
		return nil
	}
	buf := make([]byte, length+1) // its end has to be seen too
	n, err := io.ReadFull(b, buf)
	switch {
	case b.failed() != nil:
		return b.failed()
	case int64(n) != length:
		err = fmt.Errorf("%w: it has not the %d bytes that were announced", io.ErrUnexpectedEOF, length)
		b.fault.CompareAndSwap(nil, &err)
		return err
	}
	b.whole = buf[:length]
	b.rest.Reset(b.whole)
	return nil
}

// sendable reports whether the body can be sent once more from its beginning.
func (b *body) sendable() bool { return b.src == nil || b.whole != nil || !b.read.Load() }

// rewind is to be called before the body is sent.
func (b *body) rewind() {
	if b.whole != nil {
		b.rest.Reset(b.whole)
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.whole != nil {
		return b.rest.Read(p)
	}
	b.read.Store(true)
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.src.Read(p)
	if b.left -= int64(n); b.left < 0 {
		n, err = 0, errTooLarge
	}
	if err != nil && !errors.Is(err, io.EOF) && !b.closed.Load() {
		b.fault.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Trailers implements upstream.Body.
func (b *body) Trailers(fs []wire.Field) []wire.Field { return b.src.Trailers(fs) }

// Stop implements upstream.Body: nobody needs the rest.
func (b *body) Stop() {
	b.closed.Store(true)
	b.src.Interrupt()
}

// failed is the client side's error, nil if there is none.
func (b *body) failed() error {
	if e := b.fault.Load(); e != nil {
		return *e
	}
	return nil
}
