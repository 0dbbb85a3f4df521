package ingress

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"time"
)

// target is where a request goes.
type target struct {
	addrs []string // host:port, at least one
	w     http.ResponseWriter
}

type targetKey struct{}

func withTarget(ctx context.Context, t *target) context.Context {
	return context.WithValue(ctx, targetKey{}, t)
}

func targetOf(r *http.Request) *target { return r.Context().Value(targetKey{}).(*target) }

// newProxy makes the handler that sends requests to their targets; end lets go of
// its connections.
func (r *Router) newProxy() (h http.Handler, end func()) {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
	}
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", targetOf(p.In).addrs[0]
			p.Out.Host = p.In.Host
			p.SetXForwarded()
			if r.c.Secure(p.In) {
				p.Out.Header.Set("X-Forwarded-Proto", "https")
			}
		},
		Transport: spread{t}, FlushInterval: -1,
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode == http.StatusSwitchingProtocols {
				targetOf(resp.Request).w.Header().Del("Connection") // it was to end
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			r.c.Log.Debug("proxy for an Ingress", slog.String("host", req.Host), slog.Any("error", err))
			if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
				http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
				return
			}
			http.Error(w, "the Ingress's backend does not answer: "+err.Error(), http.StatusBadGateway)
		},
		ErrorLog: slog.NewLogLogger(r.c.Log.Handler(), slog.LevelDebug),
	}, t.CloseIdleConnections
}

// spread sends each request to one of its target's addresses, and to the next
// one where nobody listens: nothing was sent then.
type spread struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s spread) RoundTrip(r *http.Request) (*http.Response, error) {
	addrs := targetOf(r).addrs
	first := rand.IntN(len(addrs)) //nolint:gosec // no secret
	for i := 0; ; i++ {
		r.URL.Host = addrs[(first+i)%len(addrs)]
		resp, err := s.next.RoundTrip(r)
		if op, ok := errors.AsType[*net.OpError](err); err == nil || !ok || op.Op != "dial" || i == len(addrs)-1 {
			return resp, err
		}
	}
}
