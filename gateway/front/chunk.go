package front

// chunks reads chunked encoding byte by byte, to find its end and to refuse
// what readers disagree about. The zero value is at the start of a body.
type chunks struct {
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

// next reads b until the body ends, and answers with how much of b belongs to
// it.
func (c *chunks) next(b []byte) (n int, end bool, err error) {
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
			return n, false, errChunk
		}
		if n++; end {
			return n, true, nil
		}
	}
	return n, false, nil
}

func (c *chunks) step(x byte) (end, ok bool) {
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

func (c *chunks) sizeByte(x byte) bool {
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

// printable is what may stand in a line: no control bytes but the tab.
func printable(x byte) bool { return x == '\t' || x >= ' ' && x != 0x7f }
