package daemon

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/podsnap/podsnap/controlplane/access"
)

// toServer hands requests to another server, below to. say, if it is not nil,
// tells that server who asks.
func toServer(to string, client *http.Client, say func(in *http.Request, out http.Header), log *slog.Logger) (http.Handler, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
			access.Unsay(r.Out.Header)
			if say != nil {
				say(r.In, r.Out.Header)
			}
		},
		Transport: overHTTP1(client.Transport), FlushInterval: -1,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // nobody is there to be told
			}
			away(w, fmt.Sprintf("the server at %s, which leads the cluster, does not answer: %v", u.Host, err))
		},
	}, nil
}

// upgrading sends what is to become another protocol (kubectl's exec) over
// HTTP/1.1: a stream of HTTP/2 cannot.
type upgrading struct{ usual, one http.RoundTripper }

// overHTTP1 is base for all but what is to be upgraded.
func overHTTP1(base http.RoundTripper) http.RoundTripper {
	t, ok := base.(*http.Transport)
	if !ok {
		return base
	}
	one := t.Clone()
	one.ForceAttemptHTTP2, one.HTTP2 = false, nil
	one.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{} // not nil: no HTTP/2
	if one.TLSClientConfig != nil {
		one.TLSClientConfig.NextProtos = []string{"http/1.1"} // the clone's own
	}
	return upgrading{base, one}
}

// RoundTrip implements http.RoundTripper.
func (u upgrading) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Upgrade") != "" {
		return u.one.RoundTrip(r)
	}
	return u.usual.RoundTrip(r)
}

// headerAway is on answers of a server that finds no leader: another server may.
const headerAway = "Podsnap-Leader-Away"

// away says that the cluster has no leader that answers.
func away(w http.ResponseWriter, why string) {
	w.Header().Set(headerAway, "true")
	w.Header().Set("Retry-After", "1")
	http.Error(w, why, http.StatusServiceUnavailable)
}
