package store

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Client is etcd's client, for those who only hand it on.
type Client = clientv3.Client

// Dial makes an etcd client. It returns at once, whether etcd answers or not;
// the caller closes it. Endpoints look like "http://127.0.0.1:2379",
// "https://…", or "unix:///run/x/etcd.sock" for a socket, whose server listens
// at the very same URL. tls is for https and nil otherwise.
func Dial(endpoints []string, tls *tls.Config, log *slog.Logger) (*clientv3.Client, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("etcd client: no endpoints")
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		TLS:                  tls,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize:   8 << 20, // etcd says itself what is too large
		Logger:               zap.NewNop(),
		// gRPC's own back-off grows to two minutes: a store that was restarted
		// would be found that late.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		})},
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client for %v: %w", endpoints, err)
	}
	if log != nil {
		log.Debug("etcd client", slog.Any("endpoints", endpoints))
	}
	return c, nil
}
