package engine

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func startError(reason string, err error) error {
	return &runtime.StartError{Reason: reason, Err: err}
}

// runcError turns an error of containerd's task service into one that a
// person can read: what every message of runc begins and ends with is cut off.
func runcError(err error) error {
	native := errgrpc.ToNative(err)
	text := native.Error()
	for again := true; again; {
		again = false
		for _, prefix := range []string{
			"failed to create shim task: ", "OCI runtime create failed: ", "OCI runtime start failed: ", "OCI runtime exec failed: ",
			"runc create failed: ", "runc start failed: ", "exec failed: ", "unable to start container process: ",
		} {
			if rest, ok := strings.CutPrefix(text, prefix); ok {
				text, again = rest, true
			}
		}
	}
	text = strings.TrimSuffix(text, ": unknown")
	return &cleaned{text: text, err: native}
}

type cleaned struct {
	text string
	err  error
}

func (c *cleaned) Error() string { return c.text }
func (c *cleaned) Unwrap() error { return c.err }

// explain names the usual faults of a container that did not start.
func explain(name string, p *specs.Process, err error) error {
	text := err.Error()
	if !strings.HasPrefix(text, "exec: ") {
		return fmt.Errorf("container %q: %w", name, err)
	}
	switch {
	case strings.Contains(text, "executable file not found in $PATH"), strings.Contains(text, "no such file or directory"):
		return fmt.Errorf("container %q: command %q is not in the image, or the interpreter it names is not: %w", name, p.Args[0], err)
	case strings.Contains(text, "permission denied"):
		return fmt.Errorf("container %q: command %q is not executable for user %d: %w", name, p.Args[0], p.User.UID, err)
	case strings.Contains(text, "is a directory"):
		return fmt.Errorf("container %q: command %q is a directory: %w", name, p.Args[0], err)
	}
	return fmt.Errorf("container %q: %w", name, err)
}

func logID(id string) slog.Attr    { return slog.String("container", id) }
func logError(err error) slog.Attr { return slog.Any("error", err) }
