package logfile

import (
	"bytes"
	"time"
)

// splitter cuts a stream's bytes into lines.
type splitter struct {
	stream Stream
	rest   []byte
	start  time.Time // when the rest's first byte came
}

// feed answers with the lines that b completes. Their text is not shared with b.
func (s *splitter) feed(b []byte, now time.Time) (lines []Line) {
	for len(b) > 0 {
		if len(s.rest) == 0 {
			s.start = now
		}
		i := bytes.IndexByte(b, '\n')
		end := i
		if i < 0 {
			end = len(b)
		}
		if room := MaxLine - len(s.rest); end > room || (end == room && i < 0) {
			lines = append(lines, s.line(b[:room], true))
			b = b[room:]
			continue
		}
		if i < 0 {
			s.rest = append(s.rest, b...)
			break
		}
		lines = append(lines, s.line(b[:i], false))
		b = b[i+1:]
	}
	return lines
}

// finish answers with what is left without a newline.
func (s *splitter) finish() []Line {
	if len(s.rest) == 0 {
		return nil
	}
	return []Line{s.line(nil, false)}
}

func (s *splitter) line(tail []byte, partial bool) Line {
	text := make([]byte, 0, len(s.rest)+len(tail))
	text = append(append(text, s.rest...), tail...)
	s.rest = s.rest[:0]
	return Line{Time: s.start, Stream: s.stream, Partial: partial, Text: text}
}
