// Package front is what a request meets first: it refuses what one reader may
// take for something else than the next one does, before anything is routed.
package front

import (
	"net/http"
	"time"

	"github.com/podsnap/podsnap/gateway/route"
)

// Limits of a request's head.
const (
	MaxHeaderBytes = 64 << 10
	MaxHeaders     = 128
)

// Server makes an http.Server with the limits that a front door needs, for a
// handler made by Wrap and a listener made by Listener. There
// is no limit for a whole request or answer: they are streams, and the
// functions' own time limits end them.
func Server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    MaxHeaderBytes,
		ConnContext:       withConn,
	}
}

// Wrap refuses bad requests and passes the others on.
func Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, text := Check(r)
		if v := refused(r); v != nil {
			status, text = v.status, v.text
		}
		if status != 0 {
			w.Header().Set("Connection", "close")
			http.Error(w, text, status)
			return
		}
		if wants(r.Header["Connection"], "upgrade") {
			// When it is not upgraded the connection ends: what would follow
			// on it was not looked at.
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
