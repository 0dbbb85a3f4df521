package invoke

import (
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/podsnap/podsnap/internal/openfaas"
)

// maxCallID bounds a caller's own call id; a longer one is replaced.
const maxCallID = 256

// identify gives the request its call id and start time, and the answer the
// same.
func identify(w http.ResponseWriter, r *http.Request, now time.Time) (id, start []string) {
	id = r.Header[openfaas.HeaderCallID]
	if len(id) == 0 || id[0] == "" || len(id[0]) > maxCallID {
		id = []string{uuid.NewString()}
	} else {
		id = id[:1:1]
	}
	start = []string{strconv.FormatInt(now.UnixNano(), 10)}
	h := w.Header()
	h[openfaas.HeaderCallID], h[openfaas.HeaderStartTime] = id, start
	return id, start
}

// hop is the headers that are about one connection only.
func hop(key string) bool {
	switch key {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// listed reports whether key is named in Connection, and may be: a client must
// not remove what says who it is, or how its body is to be read.
func listed(connection []string, key string) bool {
	if len(connection) == 0 || strings.HasPrefix(key, "X-") || strings.HasPrefix(key, "Content-") {
		return false
	}
	switch key {
	case "Authorization", "Cookie", "Forwarded", "Host":
		return false
	}
	for _, v := range connection {
		for name := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(name), key) {
				return true
			}
		}
	}
	return false
}

// requestHeader is what goes on to the function.
func requestHeader(r *http.Request, id, start []string) http.Header {
	h := make(http.Header, len(r.Header)+6)
	connection := r.Header["Connection"]
	for k, v := range r.Header {
		// A header with an underscore may be read as the one with a dash.
		if hop(k) || k == "Expect" || strings.IndexByte(k, '_') >= 0 || listed(connection, k) {
			continue
		}
		h[k] = v
	}
	h[openfaas.HeaderCallID], h[openfaas.HeaderStartTime] = id, start
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // or the transport would add its own
	}
	if _, ok := h["X-Forwarded-Host"]; !ok && r.Host != "" {
		h["X-Forwarded-Host"] = []string{r.Host}
	}
	if _, ok := h["X-Forwarded-For"]; !ok && r.RemoteAddr != "" {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		h["X-Forwarded-For"] = []string{host}
	}
	if _, ok := h["X-Forwarded-Proto"]; !ok {
		h["X-Forwarded-Proto"] = protoHTTP
		if r.TLS != nil {
			h["X-Forwarded-Proto"] = []string{"https"}
		}
	}
	return h
}

var protoHTTP = []string{"http"} // read only

// answerHeader puts the function's headers into the answer.
func answerHeader(dst, src http.Header) {
	connection := src["Connection"]
	for k, v := range src {
		if hop(k) || listed(connection, k) {
			continue
		}
		switch k {
		case openfaas.HeaderCallID, openfaas.HeaderStartTime:
			continue // the caller's stand
		}
		dst[k] = v
	}
	if _, ok := dst["Content-Type"]; !ok {
		dst["Content-Type"] = nil // or the server would guess one
	}
}

// upgrade is the protocol that the client asks for, lower case; "" when none.
func upgrade(h http.Header) string {
	if len(h["Upgrade"]) == 0 {
		return ""
	}
	for _, v := range h["Connection"] {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(t), "upgrade") {
				return strings.ToLower(h["Upgrade"][0])
			}
		}
	}
	return ""
}
