package engine

import (
	"log/slog"
	"strings"

	"github.com/containerd/errdefs/pkg/errgrpc"

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

func logID(id string) slog.Attr    { return slog.String("container", id) }
func logError(err error) slog.Attr { return slog.Any("error", err) }
