package join

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// Dial connects to a machine of the cluster, or says soon that it is not there.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 5 * time.Second}).DialContext(ctx, network, address)
}

// Transport is between the machines of a cluster. A connection of which nothing is
// heard any more is given up within seconds.
func Transport(c *tls.Config) *http.Transport {
	return &http.Transport{
		TLSClientConfig: c, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 64,
		DialContext: Dial, IdleConnTimeout: 90 * time.Second,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second, MaxConcurrentStreams: 1000},
	}
}

// NodeTransport is from a node to its servers. Requests that begin together, as
// its watches do when a server has been away, wait for one connection and share
// it: a handshake is a millisecond of the server's time, for each of its nodes.
// Streams that one does not take get another. An upgraded connection counts as one,
// and nodes ask for none.
func NodeTransport(c *tls.Config) *http.Transport {
	t := Transport(c)
	t.MaxConnsPerHost = 1
	return t
}
