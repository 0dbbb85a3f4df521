package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/podsnap/podsnap/internal/daemon/embedded"
)

// StoreVerb is the hidden command as which the platform starts its store.
const StoreVerb = "store-child"

const storeEnv = "PODSNAP_STORE_CHILD"

// storeSpec is what the store is told, as JSON in its environment (the token
// would be visible to everybody among its arguments).
type storeSpec struct {
	Dir, Socket, NATS, Token string
	Admin                    string // token of who may change NATS' members
	NoEtcd, NoNATS           bool
	Cluster                  *embedded.Cluster
}

// RunStore is the store's process: it serves until ctx is done and tells its
// parent on file descriptor 3 when it answers.
func RunStore(ctx context.Context) error {
	var s storeSpec
	if err := json.Unmarshal([]byte(os.Getenv(storeEnv)), &s); err != nil {
		return errors.New("this command is for the platform's own use; start the platform with `faas server`")
	}
	parent := os.NewFile(3, "parent")
	return embedded.Run(ctx, embedded.Config{
		Dir: s.Dir, Socket: s.Socket, NATS: s.NATS, NATSToken: s.Token, NATSAdmin: s.Admin, NoEtcd: s.NoEtcd, NoNATS: s.NoNATS, Cluster: s.Cluster,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}, func() {
		_, _ = parent.Write([]byte{1}) // a parent that is gone does not care
		parent.Close()
	})
}

// newStoreChild prepares the store's process.
func newStoreChild(c *Config, natsAddr, token, admin string) (*child, error) {
	spec, err := json.Marshal(storeSpec{
		Dir: c.path("store"), Socket: c.run("etcd.sock"), NATS: natsAddr, Token: token, Admin: admin,
		NoEtcd: len(c.Etcd) > 0, NoNATS: c.NATS != "", Cluster: c.member(),
	})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var answers *os.File // the store writes a byte when it answers
	command := func() (*exec.Cmd, func(), error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		out, err := outputTo(c.path("log", "store.log"))
		if err != nil {
			r.Close()
			w.Close()
			return nil, nil, err
		}
		answers = r
		// This very program, whatever an upgrade has put in its place by now.
		cmd := exec.Command("/proc/self/exe", StoreVerb) //nolint:noctx // its end is the supervisor's affair
		cmd.Args[0] = self
		cmd.Env = append(os.Environ(), storeEnv+"="+string(spec))
		cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{w}
		return cmd, func() { w.Close(); out.Close() }, nil
	}
	ready := func(ctx context.Context) error {
		defer answers.Close()
		if len(c.Servers) > 0 {
			c.Log.Info("the store waits until most of the servers are there", slog.String("servers", strings.Join(c.Servers, ", ")))
		}
		told := make(chan error, 1)
		go func() { // ends at the latest with the store, which has the other end
			_, err := answers.Read(make([]byte, 1))
			told <- err
		}()
		select {
		case err := <-told:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return newChild("store", c.Log, command, ready), nil
}

// freeAddr finds a port that is free on the loopback device now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
