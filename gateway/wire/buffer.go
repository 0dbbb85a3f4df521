package wire

import (
	"errors"
	"io"
	"slices"
)

// Buffer is what was read from a connection and is not used yet.
type Buffer struct {
	r        io.Reader
	buf      []byte
	from, to int
}

// BufferSize is the first size of a Buffer: a usual head with a small body.
const BufferSize = 4 << 10

// NewBuffer makes an empty one that is filled from r.
func NewBuffer(r io.Reader) *Buffer { return &Buffer{r: r, buf: make([]byte, BufferSize)} }

// Bytes is what is there; it is valid until the next call of another method.
func (b *Buffer) Bytes() []byte { return b.buf[b.from:b.to] }

// Len is how much is there.
func (b *Buffer) Len() int { return b.to - b.from }

// Skip uses up n bytes. They stay where they are until Fill or Read.
func (b *Buffer) Skip(n int) {
	if b.from += n; b.from == b.to {
		b.from, b.to = 0, 0
	}
}

// Settle drops what was grown for a long head, when nothing is buffered.
func (b *Buffer) Settle() {
	if b.from == b.to && len(b.buf) > BufferSize {
		b.buf = make([]byte, BufferSize)
	}
}

// Room makes sure that Fill has somewhere to read to, and keeps what is there;
// the slices that lie in the buffer become invalid.
func (b *Buffer) Room() {
	if b.to < len(b.buf) {
		return
	}
	if b.from > 0 {
		b.to = copy(b.buf, b.buf[b.from:b.to])
		b.from = 0
		return
	}
	grown := make([]byte, 2*len(b.buf))
	copy(grown, b.buf)
	b.buf = grown
}

// Full reports whether Fill has no room.
func (b *Buffer) Full() bool { return b.to == len(b.buf) }

// Fill reads once more into the room that there is. Slices that lie in the
// buffer stay valid.
func (b *Buffer) Fill() error {
	n, err := b.r.Read(b.buf[b.to:])
	b.to += n
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// Read implements io.Reader. A large p is read into directly.
func (b *Buffer) Read(p []byte) (int, error) {
	if b.Len() == 0 {
		if len(p) >= BufferSize {
			return b.r.Read(p)
		}
		b.from, b.to = 0, 0
		if err := b.Fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.Bytes())
	b.Skip(n)
	return n, nil
}

// Body is a message's body, read from the connection's buffer. It is used again
// for the next message.
type Body struct {
	b       *Buffer
	length  int64 // that is left; Chunked, TillEnd
	chunk   Chunks
	trailer []byte // its lines as they came
	ended   bool
	fault   error
}

// Reset begins a body that is length bytes long, Chunked or TillEnd.
func (y *Body) Reset(b *Buffer, length int64) {
	*y = Body{b: b, length: length, ended: length == 0, trailer: y.trailer[:0]}
}

// Ended reports whether all of it was read.
func (y *Body) Ended() bool { return y.ended }

// Left is how much of a body of known length was not read.
func (y *Body) Left() int64 { return max(y.length, 0) }

// Read implements io.Reader. A connection that ends early is
// io.ErrUnexpectedEOF, chunks that are no good ErrChunk.
func (y *Body) Read(p []byte) (int, error) {
	switch {
	case y.fault != nil:
		return 0, y.fault
	case y.ended:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	var n int
	var err error
	if y.length == Chunked {
		n, err = y.readChunked(p)
	} else {
		n, err = y.readPlain(p)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		y.fault = err
	}
	return n, err
}

func (y *Body) readPlain(p []byte) (int, error) {
	if y.length >= 0 && int64(len(p)) > y.length {
		p = p[:y.length]
	}
	n, err := y.b.Read(p)
	if y.length == TillEnd {
		if y.ended = errors.Is(err, io.EOF); y.ended {
			err = io.EOF
		}
		return n, err
	}
	y.length -= int64(n)
	y.ended = y.length == 0
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (y *Body) readChunked(p []byte) (int, error) {
	n := 0
	for {
		for y.b.Len() > 0 && n < len(p) {
			k, end, err := y.chunk.decode(y.b.Bytes(), p[n:], y)
			y.b.Skip(k.used)
			n += k.data
			if err != nil {
				return n, err
			}
			if end {
				y.ended = true
				if n > 0 {
					return n, nil
				}
				return 0, io.EOF
			}
		}
		if n > 0 {
			return n, nil
		}
		if y.chunk.at == chunkData && len(p) >= BufferSize {
			k, err := y.b.Read(p[:min(int64(len(p)), y.chunk.size)])
			y.chunk.skip(int64(k))
			if k > 0 {
				return k, nil
			}
			return 0, early(err)
		}
		y.b.Room()
		if err := y.b.Fill(); err != nil {
			return 0, early(err)
		}
	}
}

func early(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Trailers are the fields after the last chunk, when the body has ended. Those
// that would change what was said before are left out. They lie in the Body.
func (y *Body) Trailers(fs []Field) []Field {
	if len(y.trailer) == 0 {
		return fs
	}
	all, f := fields(append(y.trailer, "\r\n"...), nil, MaxHeaders)
	if f != none {
		return fs // they are no fields: Read has said so
	}
	for _, t := range all {
		if mayTrail(t) {
			fs = append(fs, t)
		}
	}
	return fs
}

// mayTrail is false for what frames, routes or identifies (RFC 9110, 6.5.1).
func mayTrail(f Field) bool {
	for _, prefix := range []string{"Content-", "Proxy-", "If-", "X-Forwarded-"} {
		if len(f.Name) >= len(prefix) && Equal(f.Name[:len(prefix)], prefix) {
			return false
		}
	}
	return !slices.ContainsFunc([]string{
		"Transfer-Encoding", "Host", "Trailer", "Te", "Connection", "Keep-Alive", "Upgrade", "Expect", "Range", "Max-Forwards",
		"Authorization", "Cookie", "Set-Cookie", "Www-Authenticate", "Cache-Control", "Date", "Location", "Vary",
		"X-Call-Id", "X-Start-Time",
	}, f.Is)
}
