package wire

import "errors"

// ErrChunk is what a body with chunks that readers may disagree about ends with.
var ErrChunk = errors.New("malformed chunked encoding")

// Chunks reads chunked encoding byte by byte, to find its end and to refuse
// what readers disagree about. The zero value is at the start of a body.
type Chunks struct {
	at   chunkPart
	size int64 // of the chunk that is read
	n    int   // digits, or bytes of a line
	line int   // bytes of the trailers
}

type chunkPart int

const (
	chunkSize    chunkPart = iota // hexadecimal digits
	chunkExt                      // after a semicolon
	chunkSizeLF                   // the line feed after the size
	chunkData                     //
	chunkDataCR                   // after the data
	chunkDataLF                   //
	trailerStart                  // the start of a line of the trailers
	trailerLine                   // inside one
	trailerLF                     // its line feed
	trailerEndLF                  // the last line feed
)

const (
	maxSizeDigits = 15 // below 2^60
	maxExt        = 1 << 10
)

// Next reads b until the body ends, and answers with how much of b belongs to
// it.
func (c *Chunks) Next(b []byte) (n int, end bool, err error) {
	for n < len(b) {
		if c.at == chunkData {
			k := min(int64(len(b)-n), c.size)
			n += int(k)
			if c.size -= k; c.size == 0 {
				c.at = chunkDataCR
			}
			continue
		}
		end, ok := c.step(b[n])
		if !ok {
			return n, false, ErrChunk
		}
		if n++; end {
			return n, true, nil
		}
	}
	return n, false, nil
}

func (c *Chunks) step(x byte) (end, ok bool) {
	switch c.at {
	case chunkSize:
		return false, c.sizeByte(x)
	case chunkExt:
		if c.n++; x == '\r' {
			c.at = chunkSizeLF
			return false, true
		}
		return false, c.n <= maxExt && printable(x)
	case chunkSizeLF:
		c.n, c.at = 0, chunkData
		if c.size == 0 {
			c.at = trailerStart
		}
		return false, x == '\n'
	case chunkDataCR:
		c.at = chunkDataLF
		return false, x == '\r'
	case chunkDataLF:
		c.at = chunkSize
		return false, x == '\n'
	case trailerStart:
		if c.at = trailerLine; x == '\r' {
			c.at = trailerEndLF
			return false, true
		}
		c.line++
		return false, printable(x) && x != ' ' && x != '\t'
	case trailerLine:
		if c.line++; x == '\r' {
			c.at = trailerLF
			return false, true
		}
		return false, c.line <= MaxHeaderBytes && printable(x)
	case trailerLF:
		c.at = trailerStart
		return false, x == '\n'
	case trailerEndLF:
		return x == '\n', x == '\n'
	default: // chunkData is skipped as a whole
		return false, false
	}
}

func (c *Chunks) sizeByte(x byte) bool {
	d := int64(0)
	switch {
	case '0' <= x && x <= '9':
		d = int64(x - '0')
	case 'a' <= x && x <= 'f':
		d = int64(x-'a') + 10
	case 'A' <= x && x <= 'F':
		d = int64(x-'A') + 10
	case c.n > 0 && x == ';':
		c.at, c.n = chunkExt, 0
		return true
	case c.n > 0 && x == '\r':
		c.at = chunkSizeLF
		return true
	default:
		return false
	}
	if c.n == 0 {
		c.size = 0
	}
	c.size = c.size<<4 | d
	c.n++
	return c.n <= maxSizeDigits
}

// skip uses up n bytes of a chunk's data.
func (c *Chunks) skip(n int64) {
	if c.size -= n; c.size == 0 && n > 0 {
		c.at = chunkDataCR
	}
}

// progress is what one step of decode did.
type progress struct{ used, data int }

// decode reads encoded bytes from b until the data fills p, b ends or the body
// does. Lines of trailers go to y.
func (c *Chunks) decode(b, p []byte, y *Body) (g progress, end bool, err error) {
	for g.used < len(b) && g.data < len(p) {
		if c.at == chunkData {
			k := copy(p[g.data:], b[g.used:min(int64(len(b)), int64(g.used)+c.size)])
			g.used += k
			g.data += k
			c.skip(int64(k))
			continue
		}
		trails := c.at == trailerStart && b[g.used] != '\r' || c.at == trailerLine || c.at == trailerLF
		end, ok := c.step(b[g.used])
		if !ok {
			return g, false, ErrChunk
		}
		if trails {
			y.trailer = append(y.trailer, b[g.used])
		}
		if g.used++; end {
			if len(y.trailer) > 0 {
				if _, f := fields(append(y.trailer, "\r\n"...), nil, MaxHeaders); f != none {
					return g, false, ErrChunk
				}
			}
			return g, true, nil
		}
	}
	return g, false, nil
}
