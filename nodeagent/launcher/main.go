// Command launcher starts containers and outlives who asks it to: see package
// launch. Its argument is its directory.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/internal/disposition"
	"github.com/podsnap/podsnap/nodeagent/launch"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if len(os.Args) != 2 {
		log.Error("usage: launcher DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1], log); err != nil {
		log.Error("launcher", slog.Any("error", err))
		os.Exit(1)
	}
}

func run(dir string, log *slog.Logger) error {
	unlock, err := lock(filepath.Join(dir, "launcher.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	disposition.Reset()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	// What ends the agent's session is not meant for us. Not Ignore: that would
	// be inherited by the containers.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGHUP)
	s, err := launch.NewServer(filepath.Join(dir, "processes"), log)
	if err != nil {
		return err
	}
	unix.Umask(0o077)
	socket := launch.Socket(dir)
	_ = os.Remove(socket)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return s.Serve(ctx, l)
}

// lock waits for a launcher that is leaving, but not for one that stays: two
// would watch the same processes.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(3 * time.Second); ; <-tick.C {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return func() { f.Close() }, nil
		}
		if time.Now().After(limit) {
			f.Close()
			return nil, fmt.Errorf("another launcher runs: %w", err)
		}
	}
}
