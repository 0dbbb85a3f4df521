// Package logfile writes, rotates and reads container logs in the CRI text
// format: one line of output is one line of the file,
//
//	2026-11-21T10:17:45.123456789Z stdout F the text
//
// where F marks a full line and P a part of one that is longer than MaxLine.
// A log is the file at its path and the older ones path.1, path.2, ….
package logfile

import (
	"bytes"
	"fmt"
	"time"
)

// MaxLine is the most bytes of output that one line of a log file has; longer
// lines are split.
const MaxLine = 16 << 10

// Stream is where a line came from.
type Stream string

// The streams of a container.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Line is one line of a log file.
type Line struct {
	Time    time.Time
	Stream  Stream
	Partial bool   // the line goes on in the stream's next one
	Text    []byte // without newline
}

// Append adds the line to b in CRI format, with a newline.
func (l Line) Append(b []byte) []byte {
	b = l.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z")
	b = append(b, ' ')
	b = append(b, l.Stream...)
	if l.Partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, l.Text...)
	return append(b, '\n')
}

// Parse reads a line of a file. Text points into b.
func Parse(b []byte) (Line, error) {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	at, rest, ok1 := bytes.Cut(b, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	tag, text, ok3 := bytes.Cut(rest, []byte{' '})
	if !ok1 || !ok2 || !ok3 {
		return Line{}, fmt.Errorf("log line %.40q: want time, stream, tag and text", b)
	}
	t, err := time.Parse(time.RFC3339Nano, string(at))
	if err != nil {
		return Line{}, fmt.Errorf("log line %.40q: %w", b, err)
	}
	l := Line{Time: t, Text: text}
	switch string(stream) {
	case "stdout":
		l.Stream = Stdout
	case "stderr":
		l.Stream = Stderr
	default:
		return Line{}, fmt.Errorf("log line %.40q: unknown stream", b)
	}
	switch first, _, _ := bytes.Cut(tag, []byte{':'}); string(first) {
	case "P":
		l.Partial = true
	case "F":
	default:
		return Line{}, fmt.Errorf("log line %.40q: unknown tag", b)
	}
	return l, nil
}
