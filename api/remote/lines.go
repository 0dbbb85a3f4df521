package remote

import (
	"bytes"
	"io"
	"slices"
)

// maxLine bounds what is held back for the end of a line, in bytes: a longer
// one comes in pieces.
const maxLine = 1 << 20

// lines makes each read deliver whole lines, however they were cut under way.
type lines struct {
	from io.ReadCloser
	buf  []byte // read, not delivered
	err  error
}

func newLines(from io.ReadCloser) *lines { return &lines{from: from} }

// Read implements io.Reader. A line that is longer than p or maxLine, and the
// last one if it has no end, comes in pieces.
func (l *lines) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if n := l.whole(len(p)); n > 0 {
			n = copy(p, l.buf[:n])
			l.buf = l.buf[n:]
			return n, nil
		}
		if l.err != nil {
			return 0, l.err
		}
		l.buf = slices.Grow(l.buf, 32<<10)
		n, err := l.from.Read(l.buf[len(l.buf):cap(l.buf)])
		l.buf, l.err = l.buf[:len(l.buf)+n], err
	}
}

// whole is how much may be delivered into room bytes; 0 when more has to come.
func (l *lines) whole(room int) int {
	fits := min(room, len(l.buf))
	if n := bytes.LastIndexByte(l.buf[:fits], '\n') + 1; n > 0 {
		return n
	}
	if l.err != nil || len(l.buf) >= room || len(l.buf) >= maxLine {
		return fits
	}
	return 0
}

// Close implements io.Closer.
func (l *lines) Close() error { return l.from.Close() }
