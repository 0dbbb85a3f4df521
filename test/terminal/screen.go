package terminal

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// screen is what a terminal of the family of xterm shows, without colours: enough of
// it to read programs that draw over the whole of it.
type screen struct {
	rows, cols int
	cells      [][]rune
	row, col   int  // of the cursor
	full       bool // the last column is written: the next rune goes to the next row
	savedRow   int
	savedCol   int
	rest       []byte // the begin of a sequence that is not whole yet
}

func newScreen(rows, cols int) *screen {
	s := &screen{rows: rows, cols: cols}
	for range rows {
		s.cells = append(s.cells, blank(cols))
	}
	return s
}

func blank(n int) []rune { return []rune(strings.Repeat(" ", n)) }

// String is the text of the screen, without the blanks at the ends of its rows.
func (s *screen) String() string {
	var b strings.Builder
	for _, r := range s.cells {
		b.WriteString(strings.TrimRight(string(r), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// Write draws what a program has written.
func (s *screen) Write(p []byte) (int, error) {
	b := append(s.rest, p...)
	for len(b) > 0 {
		n := s.next(b)
		if n == 0 {
			break
		}
		b = b[n:]
	}
	s.rest = append([]byte(nil), b...)
	return len(p), nil
}

// next draws what is first in b and answers with its length; 0 when it is not whole.
func (s *screen) next(b []byte) int {
	switch c := b[0]; {
	case c == 0x1b:
		return s.escape(b)
	case c < 0x20 || c == 0x7f:
		s.control(c)
		return 1
	case !utf8.FullRune(b):
		return 0
	}
	r, n := utf8.DecodeRune(b)
	s.put(r)
	return n
}

func (s *screen) control(c byte) {
	switch c {
	case '\r':
		s.move(s.row, 0)
	case '\n':
		s.down()
	case '\b':
		s.move(s.row, s.col-1)
	case '\t':
		s.move(s.row, s.col/8*8+8)
	}
}

func (s *screen) put(r rune) {
	if s.full {
		s.col = 0
		s.down()
	}
	s.cells[s.row][s.col] = r
	if s.full = s.col == s.cols-1; !s.full {
		s.col++
	}
}

// down goes to the next row, and moves all rows up from the last.
func (s *screen) down() {
	s.full = false
	if s.row < s.rows-1 {
		s.row++
		return
	}
	copy(s.cells, s.cells[1:])
	s.cells[s.rows-1] = blank(s.cols)
}

func (s *screen) move(row, col int) {
	s.row, s.col, s.full = min(max(row, 0), s.rows-1), min(max(col, 0), s.cols-1), false
}

// escape takes a sequence that begins with ESC: its length, or 0 when it is not whole.
func (s *screen) escape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '[':
		for i := 2; i < len(b); i++ {
			if b[i] >= 0x40 && b[i] <= 0x7e {
				s.command(b[i], string(b[2:i]))
				return i + 1
			}
		}
		return 0
	case ']': // a title, until BEL or ESC \
		for i := 2; i < len(b); i++ {
			if b[i] == 0x07 || b[i] == '\\' && b[i-1] == 0x1b {
				return i + 1
			}
		}
		return 0
	case '(', ')', '#': // character sets
		if len(b) < 3 {
			return 0
		}
		return 3
	case '7':
		s.savedRow, s.savedCol = s.row, s.col
	case '8':
		s.move(s.savedRow, s.savedCol)
	}
	return 2
}

// command is a control sequence: of a private one only that of the other screen counts.
func (s *screen) command(c byte, params string) {
	if strings.HasPrefix(params, "?") {
		if params == "?1049" { // it is empty, and so is what is returned to
			s.erase(0, 0, s.rows-1, s.cols-1)
			s.move(0, 0)
		}
		return
	}
	nth := func(i, otherwise int) int {
		if all := strings.Split(params, ";"); i < len(all) {
			if n, err := strconv.Atoi(all[i]); err == nil && n > 0 {
				return n
			}
		}
		return otherwise
	}
	switch c {
	case 'H', 'f':
		s.move(nth(0, 1)-1, nth(1, 1)-1)
	case 'A':
		s.move(s.row-nth(0, 1), s.col)
	case 'B':
		s.move(s.row+nth(0, 1), s.col)
	case 'C':
		s.move(s.row, s.col+nth(0, 1))
	case 'D':
		s.move(s.row, s.col-nth(0, 1))
	case 'G':
		s.move(s.row, nth(0, 1)-1)
	case 'd':
		s.move(nth(0, 1)-1, s.col)
	case 'X':
		s.erase(s.row, s.col, s.row, min(s.col+nth(0, 1), s.cols)-1)
	case 'J':
		s.clear(nth(0, 0), 0, s.rows-1)
	case 'K':
		s.clear(nth(0, 0), s.row, s.row)
	}
}

// clear erases from the cursor to the end of the last row (0), from the begin of the
// first to the cursor (1), or all of it (2).
func (s *screen) clear(how, first, last int) {
	switch how {
	case 0:
		s.erase(s.row, s.col, last, s.cols-1)
	case 1:
		s.erase(first, 0, s.row, s.col)
	default:
		s.erase(first, 0, last, s.cols-1)
	}
}

// erase blanks the cells between two, both included, in the order of reading.
func (s *screen) erase(row, col, lastRow, lastCol int) {
	for r := row; r <= lastRow; r++ {
		from, to := 0, s.cols-1
		if r == row {
			from = col
		}
		if r == lastRow {
			to = lastCol
		}
		for c := from; c <= to; c++ {
			s.cells[r][c] = ' '
		}
	}
}
