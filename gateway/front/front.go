// Package front is what a request meets first: it refuses what one reader may
// take for something else than the next one does, before anything is routed.
package front

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/podsnap/podsnap/gateway/wire"
	"github.com/podsnap/podsnap/internal/openfaas"
)

// Limits of a request's head.
const (
	MaxHeaderBytes = wire.MaxHeaderBytes
	MaxHeaders     = wire.MaxHeaders
)

// Wrap refuses bad requests and passes the others on.
func Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, text := Check(r)
		if v := refused(r); v != nil {
			status, text = v.Status, v.Text
		}
		if status != 0 {
			h := w.Header()
			h.Set("Connection", "close")
			h.Set(openfaas.HeaderInternal, invoke.Component)
			h.Set(openfaas.HeaderCallID, uuid.NewString())
			h.Set(openfaas.HeaderStartTime, strconv.FormatInt(time.Now().UnixNano(), 10))
			http.Error(w, text, status)
			return
		}
		if wants(r.Header["Connection"], "upgrade") || ends(r) {
			// When it is not upgraded the connection ends: what would follow
			// on it was not looked at. And so it does when the server ends.
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// Check says with which status a request is refused, and why; 0 is not at all.
func Check(r *http.Request) (status int, text string) {
	switch {
	case r.Method == http.MethodConnect:
		return http.StatusMethodNotAllowed, "CONNECT is not served: this is no forward proxy"
	case r.Method == "PRI" || r.RequestURI == "*" && r.Method != http.MethodOptions:
		return http.StatusBadRequest, "the request line is not valid here"
	case r.ProtoMajor == 1 && r.ProtoMinor > 1 || r.ProtoMajor == 0:
		return http.StatusHTTPVersionNotSupported, "HTTP/1.0, HTTP/1.1 and HTTP/2 are served"
	}
	n := 0
	for _, v := range r.Header {
		n += len(v)
	}
	if n > MaxHeaders {
		return http.StatusRequestHeaderFieldsTooLarge, "the request has more than 128 header fields"
	}
	if err := route.CheckPath(r.URL); err != nil {
		return http.StatusBadRequest, err.Error()
	}
	return 0, ""
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
