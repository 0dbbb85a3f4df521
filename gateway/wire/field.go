// Package wire reads and writes HTTP/1.1 messages as bytes, strictly: what one
// reader may take for something else than the next one does is refused. A head
// is parsed in place, without a map and without an allocation for each field.
package wire

import (
	"bytes"
	"slices"
	"strings"
)

// Limits of a head.
const (
	MaxHeaderBytes = 64 << 10
	MaxHeaders     = 128
)

// Field is a line of a head. Both parts lie in the buffer that the head was
// read into, and are valid as long as it is.
type Field struct{ Name, Value []byte }

// Is compares the name, whatever its case.
func (f Field) Is(name string) bool { return Equal(f.Name, name) }

// Equal compares ASCII text, whatever its case.
func Equal(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range len(s) {
		x, y := b[i], s[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// Get is the first field of that name; nil when there is none.
func Get(fs []Field, name string) []byte {
	for _, f := range fs {
		if f.Is(name) {
			return f.Value
		}
	}
	return nil
}

// Has reports whether there is a field of that name.
func Has(fs []Field, name string) bool {
	for _, f := range fs {
		if f.Is(name) {
			return true
		}
	}
	return false
}

// Lists reports whether a comma-separated value names what, whatever its case.
func Lists(value []byte, what string) bool {
	for len(value) > 0 {
		part, rest, _ := bytes.Cut(value, comma)
		if Equal(trim(part), what) {
			return true
		}
		value = rest
	}
	return false
}

var comma = []byte{','}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for n := len(b) - 1; n >= 0 && (b[n] == ' ' || b[n] == '\t'); n-- {
		b = b[:n]
	}
	return b
}

// AppendField writes a line of a head. What would end the line early becomes
// a blank: what comes from a parsed head has nothing of the kind, what comes
// from elsewhere must not smuggle.
func AppendField(b []byte, name, value []byte) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	from := len(b)
	b = append(b, value...)
	for i := from; i < len(b); i++ {
		if c := b[i]; c == '\r' || c == '\n' || c == 0 {
			b[i] = ' '
		}
	}
	return append(b, "\r\n"...)
}

// Token reports whether b is RFC 9110's token.
func Token(b []byte) bool {
	for _, c := range b {
		if !tokenByte[c] {
			return false
		}
	}
	return len(b) > 0
}

var tokenByte = func() (t [256]bool) {
	for c := range 128 {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0:
			t[c] = true
		}
	}
	return t
}()

// printable is what may stand in a line: no control bytes but the tab.
func printable(x byte) bool { return x == '\t' || x >= ' ' && x != 0x7f }

func clean(b []byte) bool {
	for _, c := range b {
		if !printable(c) {
			return false
		}
	}
	return true
}

// fault is why a head is no good.
type fault int

const (
	none fault = iota
	faultLine
	faultFold
	faultName
	faultValue
	faultMany
)

// fields parses the lines of a head after its first, into fs. b ends with the
// empty line; there may be at most most lines.
func fields(b []byte, fs []Field, most int) ([]Field, fault) {
	for len(b) > 2 {
		i := bytes.IndexByte(b, '\n')
		if i < 1 || b[i-1] != '\r' {
			return fs, faultLine
		}
		line := b[:i-1]
		b = b[i+1:]
		if len(line) == 0 {
			return fs, faultLine // an empty line, and something after it
		}
		if line[0] == ' ' || line[0] == '\t' {
			return fs, faultFold
		}
		c := bytes.IndexByte(line, ':')
		if c < 0 || !Token(line[:c]) {
			return fs, faultName
		}
		value := trim(line[c+1:])
		if !clean(value) {
			return fs, faultValue
		}
		if len(fs) == most {
			return fs, faultMany
		}
		fs = append(fs, Field{line[:c:c], slices.Clip(value)})
	}
	if len(b) != 2 || b[0] != '\r' || b[1] != '\n' {
		return fs, faultLine
	}
	return fs, none
}

// number reads what consists of digits only; ok is false beyond 2^63-1.
func number(b []byte) (n int64, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' || n > (1<<63-1-9)/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(b) > 0
}
