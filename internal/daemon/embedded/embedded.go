// Package embedded runs the platform's own etcd and NATS servers in one
// process, which `faas server` starts as its child: etcd ends its process on a
// disk error, so it must not share one with the gateway.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/internal/doze"
	"github.com/podsnap/podsnap/internal/headroom"
)

// Config says where the servers keep their data and where they listen.
type Config struct {
	Dir       string       // etcd/ and nats/ are made in it
	Socket    string       // etcd's client socket; its peer socket is beside it
	NATS      string       // host:port of NATS, loopback
	NATSToken string       // what clients must present
	NATSAdmin string       // what a client presents that changes NATS' members; "": nobody may
	NoEtcd    bool         // an external one is used
	NoNATS    bool         // likewise
	Cluster   *Cluster     // nil: alone
	Log       *slog.Logger // not nil
}

// Settled is how long after it is up a process has done what belongs to its
// start.
const Settled = 5 * time.Second

// maxLate is how late the timers of stores without work may be: etcd's ticks are
// 200 ms apart, and no call waits for a timer.
const maxLate = 40 * time.Millisecond

// EtcdEndpoint is the URL at which clients reach an etcd that listens on
// socket.
func EtcdEndpoint(socket string) string { return "unix://" + socket }

// Run starts the servers, calls ready when both answer and keeps them until
// ctx is done or one of them has failed. An etcd that is one of several answers
// when most of them are there; NATS answers before.
func Run(ctx context.Context, c Config, ready func()) error {
	free, err := freeBytes(c.Dir)
	if err != nil {
		return err
	}
	if c.Cluster != nil {
		if err := c.Cluster.Validate(); err != nil {
			return err
		}
	}
	if err := claim(c.Dir, c.Cluster); err != nil {
		return err
	}
	failed := make(chan error, 1)
	if !c.NoNATS { // first: its members find one another while etcd's do
		stop, err := startNATS(c, free)
		if err != nil {
			return err
		}
		defer stop()
	}
	if !c.NoEtcd {
		stop, err := startEtcd(ctx, c, free, failed)
		if err != nil {
			return err
		}
		defer stop()
	}
	ready()
	defer headroom.Run().Stop()
	trim := time.AfterFunc(Settled, Trim) // what the start alone needed
	defer trim.Stop()
	if c.Cluster == nil { // several are in a hurry to miss one another
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { doze.Run(ctx, maxLate) })
		defer wg.Wait()
		defer cancel()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// quota keeps a store below 70 % of what the disk has, so that it says no in
// words before the disk does it by an error that ends the server.
func quota(free, most int64) int64 { return min(free*7/10, most) }

func startEtcd(ctx context.Context, c Config, free int64, failed chan<- error) (stop func(), err error) {
	e := embed.NewConfig()
	e.Name = "podsnap"
	e.Dir = filepath.Join(c.Dir, "etcd")
	client, peer := unixURL(c.Socket), unixURL(c.Socket+".peer")
	e.ListenClientUrls, e.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	e.ListenPeerUrls, e.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	e.InitialCluster = e.InitialClusterFromName(e.Name)
	e.EnableGRPCGateway = false
	e.LogLevel = "error"
	e.QuotaBackendBytes = quota(free, 4<<30)
	e.SnapshotCount = 10_000
	e.MaxRequestBytes = 4 << 20
	// One member elects itself, at once after its first ticks; a shorter tick
	// would cost an idle machine more than the start gains.
	e.TickMs, e.ElectionMs = 200, 1000
	e.BackendBatchInterval = time.Second // what is committed is in its log; this is when it goes to the tree as well
	if c.Cluster != nil {
		c.Cluster.etcd(e)
	}
	for _, s := range []string{c.Socket, c.Socket + ".peer"} {
		if err := os.Remove(s); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	srv, err := embed.StartEtcd(e)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", e.Dir, err)
	}
	if c.Cluster != nil {
		c.Log.Info("etcd waits until most of the servers are there", slog.String("servers", strings.Join(c.Cluster.Members, ", ")))
	}
	select {
	case <-srv.Server.ReadyNotify():
	case err := <-srv.Err():
		srv.Close()
		return nil, fmt.Errorf("start etcd: %w", err)
	case <-ctx.Done():
		srv.Close()
		return nil, context.Cause(ctx)
	}
	go func() { // ends with srv.Close, which closes the channel
		if err := <-srv.Err(); err != nil {
			failed <- fmt.Errorf("etcd: %w", err)
		}
	}()
	return srv.Close, nil
}

func startNATS(c Config, free int64) (stop func(), err error) {
	host, p, err := net.SplitHostPort(c.NATS)
	if err != nil {
		return nil, fmt.Errorf("NATS address %q: %w", c.NATS, err)
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return nil, fmt.Errorf("NATS address %q: the port is not a number", c.NATS)
	}
	o := &natsserver.Options{
		ServerName: "podsnap", Host: host, Port: port, Authorization: c.NATSToken,
		JetStream: true, StoreDir: filepath.Join(c.Dir, "nats"),
		JetStreamMaxStore: quota(free, 10<<30), JetStreamMaxMemory: 64 << 20,
		// An acknowledged message must be on the disk: with the default of
		// two minutes a power cut loses all that was acknowledged in them.
		SyncAlways: true, SyncInterval: time.Minute,
		MaxPayload: 8 << 20, NoSigs: true, NoLog: true,
	}
	var doors *doorkeeper
	if c.NATSAdmin != "" {
		doors = &doorkeeper{token: c.NATSToken, admin: c.NATSAdmin}
		o.Authorization, o.CustomClientAuthentication = "", doors
	}
	if c.Cluster != nil {
		if err := c.Cluster.nats(o); err != nil {
			return nil, fmt.Errorf("NATS as one of several: %w", err)
		}
	}
	n := &queueServer{c: c, o: o, doors: doors}
	if err := n.start(); err != nil {
		return nil, err
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { n.watch(quit) })
	return func() {
		close(quit)
		wg.Wait()
		n.stop()
	}, nil
}

// queueServer is NATS, which does not store again by itself once a disk was full.
type queueServer struct {
	c     Config
	o     *natsserver.Options
	s     *natsserver.Server
	doors *doorkeeper // nil: NATS looks at tokens itself
	quit  func()      // ends watchLeader
}

func (n *queueServer) start() (err error) {
	if n.s, err = natsserver.NewServer(n.o); err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	n.s.SetLoggerV2(natsLog{n.c.Log}, false, false, false)
	if n.doors != nil {
		n.doors.server.Store(n.s)
	}
	n.s.Start()
	n.quit = func() {}
	if !n.s.ReadyForConnections(20 * time.Second) {
		n.stop()
		return fmt.Errorf("start NATS on %s: it does not answer", n.c.NATS)
	}
	if n.c.Cluster != nil {
		n.quit = watchLeader(n.s, n.c.Cluster, n.c.Log)
	}
	return nil
}

func (n *queueServer) stop() {
	n.quit()
	n.s.Shutdown()
	n.s.WaitForShutdown()
}

const (
	lookEvery = 2 * time.Second
	// roomAgain is how much has to be free until NATS is started again.
	roomAgain = 64 << 20
)

// watch starts NATS again when it stores nothing any more and there is room.
func (n *queueServer) watch(quit <-chan struct{}) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-quit:
			return
		}
		why := n.stuck()
		if free, err := freeBytes(n.o.StoreDir); why == "" || err != nil || free < roomAgain {
			continue
		}
		n.c.Log.Warn("NATS stores nothing any more, and there is room: it is started again", slog.String("reason", why))
		n.stop()
		if err := n.start(); err != nil {
			n.c.Log.Error("NATS", slog.Any("error", err)) // and it is tried again
		}
	}
}

// stuck is why NATS stores nothing until it is started again; "" when it does.
func (n *queueServer) stuck() string {
	if !n.s.Running() {
		return "it does not run"
	}
	if !n.s.JetStreamEnabled() {
		return "JetStream has switched itself off"
	}
	for _, e := range n.s.Healthz(&natsserver.HealthzOptions{Details: true}).Errors {
		if strings.Contains(e.Error, "write error") {
			return e.Error
		}
	}
	return ""
}

func unixURL(path string) url.URL { return url.URL{Scheme: "unix", Path: path} }

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// natsLog passes on what an operator must see.
type natsLog struct{ log *slog.Logger }

func (natsLog) Noticef(string, ...any) {}
func (natsLog) Debugf(string, ...any)  {}
func (natsLog) Tracef(string, ...any)  {}
func (l natsLog) Warnf(f string, a ...any) {
	l.log.Warn("nats", slog.String("message", fmt.Sprintf(f, a...)))
}

func (l natsLog) Errorf(f string, a ...any) {
	l.log.Error("nats", slog.String("message", fmt.Sprintf(f, a...)))
}

func (l natsLog) Fatalf(f string, a ...any) { l.Errorf(f, a...) }
