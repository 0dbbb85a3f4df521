package wire

import (
	"bytes"
	"errors"
)

// Response is the head of an answer.
type Response struct {
	Status int
	Fields []Field
	Length int64 // of the body as the head says it; -1 is chunked, -2 until the connection ends
	Close  bool  // nothing can follow on this connection
}

// Framings of a body besides a length.
const (
	Chunked = -1
	TillEnd = -2
)

const maxReplyFields = 1024

// Why an answer is no good.
var (
	ErrStatusLine = errors.New("the answer does not begin with `HTTP/1.1 <status>`")
	ErrFields     = errors.New("a header field of the answer is not valid")
	ErrFraming    = errors.New("the answer says in more than one way how long it is")
	ErrReplyHead  = errors.New("the head of the answer has over 262144 bytes, or over 1024 fields")
)

// ParseResponse reads a whole head, the empty line included. The fields go into
// r.Fields[:0].
func ParseResponse(b []byte, r *Response) error {
	*r = Response{Fields: r.Fields[:0], Length: TillEnd}
	line, rest, _ := bytes.Cut(b, crlf)
	minor, err := r.line(line)
	if err != nil {
		return err
	}
	var f fault
	switch r.Fields, f = fields(rest, r.Fields, maxReplyFields); f {
	case none:
	case faultMany:
		return ErrReplyHead
	case faultLine, faultFold, faultName, faultValue:
		return ErrFields
	}
	r.Close = minor == 0
	lengths, codings := 0, 0
	for _, f := range r.Fields {
		switch len(f.Name) {
		case 10:
			if f.Is("Connection") {
				switch {
				case Lists(f.Value, "close"):
					r.Close = true
				case minor == 0 && Lists(f.Value, "keep-alive"):
					r.Close = false
				}
			}
		case 14:
			if f.Is("Content-Length") {
				n, ok := number(f.Value)
				if lengths++; !ok || lengths > 1 && n != r.Length {
					return ErrFraming
				}
				r.Length = n
			}
		case 17:
			if f.Is("Transfer-Encoding") {
				if codings++; codings > 1 || !Equal(f.Value, "chunked") {
					return ErrFraming
				}
			}
		}
	}
	switch {
	case codings > 0 && (lengths > 0 || minor == 0):
		return ErrFraming
	case codings > 0:
		r.Length = Chunked
	}
	return nil
}

func (r *Response) line(b []byte) (minor int, err error) {
	if len(b) < 12 || !bytes.HasPrefix(b, []byte("HTTP/1.")) || b[7] < '0' || b[7] > '1' || b[8] != ' ' || len(b) > 12 && b[12] != ' ' || !clean(b) {
		return 0, ErrStatusLine
	}
	n, ok := number(b[9:12])
	if !ok || n < 100 {
		return 0, ErrStatusLine
	}
	r.Status = int(n)
	return int(b[7] - '0'), nil
}

// NoBody reports whether an answer of that status to that method has no body,
// whatever its head says.
func NoBody(method []byte, status int) bool {
	return status < 200 || status == 204 || status == 304 || string(method) == "HEAD"
}

// MaxReply is the longest head of an answer, in bytes.
const MaxReply = 256 << 10
