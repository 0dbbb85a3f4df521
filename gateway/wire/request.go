package wire

import (
	"bytes"
	"net/http"
)

// Request is the head of a request. All of it lies in the bytes that it was
// parsed from.
type Request struct {
	Method []byte
	Target []byte // as the request line has it
	Minor  int    // of HTTP/1.x: 0 or 1
	Host   []byte
	Fields []Field // all but Host
	Length int64   // of the body; -1 is chunked

	Expect     []byte // nil when there is no such field
	Connection bool   // there is such a field
	Close      bool   // the client wants no further request on this connection
	Upgrade    bool   // the client asks for another protocol
	WebSocket  bool   // and it is this one, in a request without a body
}

// Refusal is why a request is not taken, and with which status it is answered.
// Its zero value means that it is taken.
type Refusal struct {
	Status int
	Text   string
}

func bad(text string) Refusal { return Refusal{http.StatusBadRequest, text} }

// CheckBegun refuses of a head that is not whole yet what no more bytes can
// make good.
func CheckBegun(b []byte) Refusal {
	if len(b) > MaxHeaderBytes {
		return Refusal{http.StatusRequestHeaderFieldsTooLarge, "the request's head is larger than 64 KiB"}
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return bad("a NUL byte in the request's head")
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 && (i == 0 || b[i-1] != '\r') {
		return bad("a line of the request's head ends without a carriage return")
	}
	return Refusal{}
}

// ParseRequest reads a whole head, the empty line included. The fields go into
// r.Fields[:0].
func ParseRequest(b []byte, r *Request) Refusal {
	*r = Request{Fields: r.Fields[:0]}
	if v := CheckBegun(b); v.Status != 0 {
		return v
	}
	line, rest, _ := bytes.Cut(b, crlf)
	if v := r.line(line); v.Status != 0 {
		return v
	}
	var f fault
	if r.Fields, f = fields(rest, r.Fields, MaxHeaders); f != none {
		return requestFault(f)
	}
	if v := r.notes(); v.Status != 0 {
		return v
	}
	return r.checkTarget()
}

var (
	crlf  = []byte("\r\n")
	blank = []byte{' '}
)

func requestFault(f fault) Refusal {
	switch f {
	case faultFold:
		return bad("a header field goes over several lines")
	case faultName:
		return bad("a header field's name is not valid")
	case faultMany:
		return Refusal{http.StatusRequestHeaderFieldsTooLarge, "the request has more than 128 header fields"}
	case faultLine, faultValue, none:
	}
	return bad("a header field is not valid")
}

func (r *Request) line(line []byte) Refusal {
	method, rest, ok := bytes.Cut(line, blank)
	target, version, ok2 := bytes.Cut(rest, blank)
	if !ok || !ok2 || len(method) == 0 || len(target) == 0 || bytes.IndexByte(version, ' ') >= 0 {
		return bad("the request line is not `METHOD target HTTP/1.1`")
	}
	r.Method, r.Target = method, target
	switch {
	case !Token(method):
		return bad("the request line's method is not valid")
	case string(method) == "PRI":
		return bad("HTTP/2 begins with its own preface at the start of a connection")
	case string(method) == http.MethodConnect:
		return Refusal{http.StatusMethodNotAllowed, "CONNECT is not served: this is no forward proxy"}
	case string(version) == "HTTP/1.1":
		r.Minor = 1
	case string(version) == "HTTP/1.0":
	case bytes.HasPrefix(version, []byte("HTTP/")):
		return Refusal{http.StatusHTTPVersionNotSupported, "HTTP/1.0 and HTTP/1.1 are spoken here"}
	default:
		return bad("the request line is not `METHOD target HTTP/1.1`")
	}
	if !clean(target) || bytes.IndexByte(target, '\t') >= 0 {
		return bad("a control byte in the request's target")
	}
	return Refusal{}
}

// notes reads the fields that say how the rest is to be read, and takes Host
// out.
func (r *Request) notes() Refusal {
	var hosts, lengths, codings int
	var length, coding []byte
	websocket, upgrades := false, 0
	keep := r.Fields[:0]
	for _, f := range r.Fields {
		switch len(f.Name) {
		case 4:
			if f.Is("Host") {
				hosts++
				r.Host = f.Value
				continue
			}
		case 6:
			if f.Is("Expect") {
				r.Expect = f.Value
			}
		case 7:
			if f.Is("Upgrade") {
				upgrades++
				websocket = Equal(f.Value, "websocket")
			}
		case 10:
			if f.Is("Connection") {
				r.Connection = true
				r.Close = r.Close || Lists(f.Value, "close")
				r.Upgrade = r.Upgrade || Lists(f.Value, "upgrade")
			}
		case 14:
			if f.Is("Content-Length") {
				lengths++
				length = f.Value
			}
		case 17:
			if f.Is("Transfer-Encoding") {
				codings++
				coding = f.Value
			}
		}
		keep = append(keep, f)
	}
	r.Fields = keep
	switch {
	case hosts > 1:
		return bad("the request has several Host fields")
	case hosts == 0 && r.Minor == 1:
		return bad("the request has no Host field")
	case !validHost(r.Host):
		return bad("the request's Host field is not valid")
	case codings > 0 && lengths > 0:
		return bad("the request has both Content-Length and Transfer-Encoding")
	case codings > 0 && r.Minor == 0:
		return bad("the request has Transfer-Encoding in HTTP/1.0")
	case codings > 1:
		return bad("the request has several Transfer-Encoding fields")
	case codings == 1 && !Equal(coding, "chunked"):
		return Refusal{http.StatusNotImplemented, "the only Transfer-Encoding served is chunked"}
	case codings == 1:
		r.Length = -1
	case lengths > 1:
		return bad("the request has several Content-Length fields")
	case lengths == 1:
		n, ok := number(length)
		if !ok {
			return bad("the request's Content-Length is not a number")
		}
		r.Length = n
	}
	r.WebSocket = r.Upgrade && upgrades == 1 && websocket
	if r.WebSocket && r.Length != 0 {
		return bad("a request for a WebSocket has a body")
	}
	return Refusal{}
}

// validHost goes by the bytes that RFC 3986 has for an authority.
func validHost(b []byte) bool {
	for _, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case bytes.IndexByte([]byte("!$%&'()*+,-.:;=[]_~"), c) >= 0:
		default:
			return false
		}
	}
	return true
}

// checkTarget: an absolute target has to name the host that the Host field
// does.
func (r *Request) checkTarget() Refusal {
	t := r.Target
	switch {
	case t[0] == '/':
		return Refusal{}
	case string(t) == "*" && string(r.Method) == http.MethodOptions:
		return Refusal{}
	}
	scheme, authority, ok := bytes.Cut(t, []byte("://"))
	if !ok || !Equal(scheme, "http") && !Equal(scheme, "https") {
		return bad("the request's target is neither a path nor a URL")
	}
	if i := bytes.IndexAny(authority, "/?#"); i >= 0 {
		authority = authority[:i]
	}
	if len(authority) == 0 || !bytes.EqualFold(authority, r.Host) {
		return bad("the request's target names another host than its Host field")
	}
	return Refusal{}
}

// HeadEnd is the length of the head that b begins with, once it is whole. seen
// is how much of b was looked at before.
func HeadEnd(b []byte, seen int) (n int, ok bool) {
	from := max(min(seen, len(b))-3, 0)
	i := bytes.Index(b[from:], []byte("\r\n\r\n"))
	if i < 0 {
		return 0, false
	}
	return from + i + 4, true
}
