package front

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// head is what a request's head says about what follows it. With a status the
// request is refused.
type head struct {
	status  int
	text    string
	length  int64
	chunked bool
	upgrade bool // to a WebSocket
}

func refuse(status int, text string) head { return head{status: status, text: text} }

func bad(text string) head { return refuse(http.StatusBadRequest, text) }

// check reads a head. Of one that is not whole yet it refuses only what no
// more bytes can make good.
func check(b []byte, whole bool) head {
	if len(b) > MaxHeaderBytes {
		return refuse(http.StatusRequestHeaderFieldsTooLarge, "the request's head is larger than 64 KiB")
	}
	if bytes.Contains(b, []byte{0}) {
		return bad("a NUL byte in the request's head")
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 && (i == 0 || b[i-1] != '\r') {
		return bad("a line of the request's head ends without a carriage return")
	}
	if !whole {
		return head{}
	}
	line, rest, _ := bytes.Cut(b, []byte("\r\n"))
	method, target, version, h := requestLine(line)
	if h.status != 0 {
		return h
	}
	f, h := fields(rest)
	if h.status != 0 {
		return h
	}
	return f.judge(method, target, version)
}

func requestLine(line []byte) (method, target, version string, h head) {
	parts := strings.Split(string(line), " ")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return "", "", "", bad("the request line is not `METHOD target HTTP/1.1`")
	}
	method, target, version = parts[0], parts[1], parts[2]
	switch {
	case !token(method):
		return "", "", "", bad("the request line's method is not valid")
	case method == "PRI":
		return "", "", "", bad("HTTP/2 is not spoken on this port")
	case method == http.MethodConnect:
		return "", "", "", refuse(http.StatusMethodNotAllowed, "CONNECT is not served: this is no forward proxy")
	case version == "HTTP/1.1" || version == "HTTP/1.0":
		return method, target, version, head{}
	case strings.HasPrefix(version, "HTTP/"):
		return "", "", "", refuse(http.StatusHTTPVersionNotSupported, "HTTP/1.0 and HTTP/1.1 are spoken here")
	}
	return "", "", "", bad("the request line is not `METHOD target HTTP/1.1`")
}

// seen is what a head's fields say, as far as it matters here.
type seen struct {
	count                      int
	host, length               []string
	encoding, connection, upgr []string
}

func fields(b []byte) (seen, head) {
	var f seen
	for len(b) > 2 {
		line, rest, ok := bytes.Cut(b, []byte("\r\n"))
		if !ok {
			return f, bad("a header field is not valid")
		}
		b = rest
		if len(line) == 0 {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			return f, bad("a header field goes over several lines")
		}
		if bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, '\n') >= 0 {
			return f, bad("a carriage return or line feed in a header field")
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !token(string(name)) {
			return f, bad("a header field's name is not valid")
		}
		if f.count++; f.count > MaxHeaders {
			return f, refuse(http.StatusRequestHeaderFieldsTooLarge, "the request has more than 128 header fields")
		}
		f.note(name, string(bytes.Trim(value, " \t")))
	}
	return f, head{}
}

func (f *seen) note(name []byte, value string) {
	switch len(name) {
	case 4:
		if bytes.EqualFold(name, []byte("Host")) {
			f.host = append(f.host, value)
		}
	case 7:
		if bytes.EqualFold(name, []byte("Upgrade")) {
			f.upgr = append(f.upgr, value)
		}
	case 10:
		if bytes.EqualFold(name, []byte("Connection")) {
			f.connection = append(f.connection, value)
		}
	case 14:
		if bytes.EqualFold(name, []byte("Content-Length")) {
			f.length = append(f.length, value)
		}
	case 17:
		if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			f.encoding = append(f.encoding, value)
		}
	}
}

func (f *seen) judge(method, target, version string) head {
	if len(f.host) > 1 {
		return bad("the request has several Host fields")
	}
	host := ""
	if len(f.host) == 1 {
		host = f.host[0]
	}
	if h := checkTarget(method, target, host); h.status != 0 {
		return h
	}
	var h head
	switch {
	case len(f.encoding) > 0 && len(f.length) > 0:
		return bad("the request has both Content-Length and Transfer-Encoding")
	case len(f.encoding) > 0 && version == "HTTP/1.0":
		return bad("the request has Transfer-Encoding in HTTP/1.0")
	case len(f.encoding) > 1:
		return bad("the request has several Transfer-Encoding fields")
	case len(f.encoding) == 1 && !strings.EqualFold(f.encoding[0], "chunked"):
		return refuse(http.StatusNotImplemented, "the only Transfer-Encoding served is chunked")
	case len(f.encoding) == 1:
		h.chunked = true
	case len(f.length) > 1:
		return bad("the request has several Content-Length fields")
	case len(f.length) == 1:
		n, err := strconv.ParseUint(f.length[0], 10, 63)
		if err != nil || !digits(f.length[0]) {
			return bad("the request's Content-Length is not a number")
		}
		h.length = int64(n)
	}
	h.upgrade = wants(f.connection, "upgrade") && len(f.upgr) == 1 && strings.EqualFold(f.upgr[0], "websocket")
	if h.upgrade && (h.chunked || h.length > 0) {
		return bad("a request for a WebSocket has a body")
	}
	return h
}

// checkTarget: an absolute target has to name the host that the Host field
// does.
func checkTarget(method, target, host string) head {
	switch {
	case target[0] == '/':
		return head{}
	case target == "*" && method == http.MethodOptions:
		return head{}
	}
	rest, ok := cutFold(target, "http://")
	if !ok {
		if rest, ok = cutFold(target, "https://"); !ok {
			return bad("the request's target is neither a path nor a URL")
		}
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	if authority == "" || !strings.EqualFold(authority, host) {
		return bad("the request's target names another host than its Host field")
	}
	return head{}
}

func cutFold(s, prefix string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

func wants(values []string, what string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(t, " \t"), what) {
				return true
			}
		}
	}
	return false
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// token is RFC 9110's.
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
