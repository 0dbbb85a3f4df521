package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/internal/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

func (o *options) serverStart(s *serverFlags, parent *cobra.Command) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "start", Short: "Start the platform in the background and wait until it answers", Args: cobra.NoArgs,
		Long: `Starts the platform in the background and waits until it answers. One that was
started like this and is of another build is replaced by this one, with its flags
but for those that are given now: calls wait meanwhile, and none is lost.`,
		Example: "  sudo faas server start\n  sudo faas server start --listen 0.0.0.0:8080 --wait 2m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := parent.PreRunE(cmd, nil); err != nil {
				return err
			}
			b := &background{s: s, flags: cmd.Flags(), known: parent.PersistentFlags(), wait: wait, say: func(f string, a ...any) { say(cmd, f, a...) }}
			return b.start(cmd.Context())
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait")
	return cmd
}

// background is a start of the platform as a process that nobody supervises.
type background struct {
	s     *serverFlags
	flags *pflag.FlagSet // as they are given
	known *pflag.FlagSet // those of a server
	wait  time.Duration
	say   func(format string, a ...any)
}

func (b *background) url() string { return "http://" + b.s.c.Listen }

func (b *background) logFile() string { return filepath.Join(b.s.c.StateDir, "log", "server.log") }

func (b *background) start(ctx context.Context) error {
	pid, err := daemon.Running(b.s.c)
	if err != nil {
		return err
	}
	if pid != 0 {
		goOn, err := b.replace(ctx, pid)
		if err != nil || !goOn {
			return err
		}
	}
	return b.launch(ctx)
}

// replace sees to a server that runs already. goOn is false when there is nothing
// to be started.
func (b *background) replace(ctx context.Context, pid int) (goOn bool, err error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	ours, err := sameProgram(filepath.Join(proc, "exe"))
	if err != nil {
		return false, fmt.Errorf("look at the server that runs (pid %d): %w", pid, err)
	}
	if ours {
		if err := b.inherit(proc); err != nil {
			return false, err
		}
		if !healthy(ctx, b.url()) {
			return false, fmt.Errorf("the platform runs (pid %d) and does not answer at %s; %s may say why, and `faas server stop` ends it", pid, b.url(), b.logFile())
		}
		b.say("the platform answers at %s already", b.url())
		return false, nil
	}
	was := buildOf(ctx, filepath.Join(proc, "exe"))
	if out, err := os.Readlink(filepath.Join(proc, "fd", "1")); err != nil || out != b.logFile() {
		b.say("the platform runs as %s (pid %d), and was not started in the background: to have %s, restart it where it was started, such as by `systemctl restart podsnap`. Calls wait meanwhile", was, pid, version())
		return false, nil
	}
	if err := b.inherit(proc); err != nil {
		return false, err
	}
	b.say("replacing %s (pid %d) by %s; calls wait meanwhile", was, pid, version())
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("a minute is over"))
	defer cancel()
	return true, daemon.Release(ctx, b.s.c)
}

// inherit takes over the flags and the environment of a server in the background,
// as far as nothing else is said now.
func (b *background) inherit(proc string) error {
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return err
	}
	for arg := range strings.SplitSeq(string(cmdline), "\x00") {
		name, value, ok := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !ok || !strings.HasPrefix(arg, "--") || b.flags.Changed(name) {
			continue
		}
		if err := b.flags.Set(name, value); err != nil {
			return fmt.Errorf("the server that runs was started with %s, which this version does not take: %w", arg, err)
		}
	}
	environ, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil {
		return err
	}
	for e := range strings.SplitSeq(string(environ), "\x00") {
		name, value, _ := strings.Cut(e, "=")
		if _, ok := os.LookupEnv(name); ok || !strings.HasPrefix(name, "PODSNAP_") {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return fromEnvironment(b.flags)
}

// args are what the server is started with.
func (b *background) args() []string {
	args := []string{"server"}
	b.flags.Visit(func(f *pflag.Flag) {
		if b.known.Lookup(f.Name) == nil {
			return
		}
		v := f.Value.String()
		if sv, ok := f.Value.(pflag.SliceValue); ok {
			v = strings.Join(sv.GetSlice(), ",")
		}
		args = append(args, "--"+f.Name+"="+v)
	})
	return args
}

// launch starts the process and waits until it answers.
func (b *background) launch(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(b.logFile()), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(b.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self, b.args()...) //nolint:noctx // it outlives this command
	child.Stdout, child.Stderr = out, out
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// What else this command was given, such as a lock that a script holds or a pipe that
	// somebody reads to its end, would be held for as long as the platform runs.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close the files of whoever started this: %w", err)
	}
	if err := child.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- child.Wait() }()
	b.say("starting the platform (log: %s)", b.logFile())
	return b.answers(ctx, exited)
}

func (b *background) answers(ctx context.Context, exited <-chan error) error {
	start := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-exited:
			return fmt.Errorf("the platform ended at once (%w); the end of %s says why:\n%s", err, b.logFile(), tailOf(b.logFile(), 8))
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if healthy(ctx, b.url()) {
				b.say("the platform answers at %s after %.1f s", b.url(), time.Since(start).Seconds())
				return nil
			}
			if time.Since(start) > b.wait {
				return fmt.Errorf("the platform did not answer within %s; the end of %s:\n%s", b.wait, b.logFile(), tailOf(b.logFile(), 8))
			}
		}
	}
}

// sameProgram tells whether a process runs this very program, wherever it lies.
func sameProgram(exe string) (bool, error) {
	theirs, err := os.Stat(exe)
	if err != nil {
		return false, err
	}
	ours, err := os.Stat("/proc/self/exe")
	if err != nil || os.SameFile(ours, theirs) {
		return err == nil, err
	}
	if ours.Size() != theirs.Size() {
		return false, nil
	}
	a, err := digest("/proc/self/exe")
	if err != nil {
		return false, err
	}
	b, err := digest(exe)
	return bytes.Equal(a, b), err
}

func digest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}

// buildOf is the version that a program says to be.
func buildOf(ctx context.Context, exe string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, exe, "version", "--short-version").Output()
	if v := strings.TrimSpace(string(out)); err == nil && v != "" {
		return v
	}
	return "another build"
}
