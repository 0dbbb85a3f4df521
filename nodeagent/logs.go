package nodeagent

import (
	"context"
	"errors"
	"io"
	"io/fs"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/logfile"
	"github.com/podsnap/podsnap/nodeagent/pod"
)

// Logs implements api.Agent. Following goes on with the container's next
// instance when one ends, and ends when there will be none.
func (a *Agent) Logs(ctx context.Context, uid types.UID, o api.LogOptions) (io.ReadCloser, error) {
	w, err := a.find(uid)
	if err != nil {
		return nil, err
	}
	name, attempt, err := pod.Logged(w.Pod(), o.Container, o.Previous)
	if err != nil {
		return nil, err
	}
	if !o.Follow {
		rc, err := a.open(ctx, w, name, attempt, o, nil)
		if errors.Is(err, fs.ErrNotExist) { // the instance was never made, so it has said nothing
			return io.NopCloser(eof{}), nil
		}
		return rc, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	f := &follower{PipeReader: pr, cancel: cancel, done: make(chan struct{})}
	go func() { // the follower's: its Close waits for it
		defer close(f.done)
		pw.CloseWithError(a.follow(ctx, pw, w, name, attempt, o))
	}()
	return f, nil
}

func (a *Agent) open(ctx context.Context, w *pod.Worker, name string, attempt int, o api.LogOptions, until <-chan struct{}) (io.ReadCloser, error) {
	return logfile.Read(ctx, pod.LogPath(a.logs, w.Pod(), name, attempt), logfile.Options{
		Tail: o.Tail, Since: o.Since, Timestamps: o.Timestamps, Follow: until != nil, Until: until,
	})
}

// follow copies instance after instance until the last one has ended or the pod is
// gone; nil is the end.
func (a *Agent) follow(ctx context.Context, to io.Writer, w *pod.Worker, name string, attempt int, o api.LogOptions) error {
	for {
		if err := a.followOne(ctx, to, w, name, attempt, o); err != nil {
			return err
		}
		last, renewed := attempt, false
		w.Await(ctx.Done(), func(p *corev1.Pod) bool {
			_, attempt, _ = pod.Logged(p, name, false)
			renewed = pod.Renewed(p, name, last)
			return renewed || pod.Final(p, name)
		})
		if !renewed {
			return context.Cause(ctx)
		}
		o.Tail = -1
	}
}

func (a *Agent) followOne(ctx context.Context, to io.Writer, w *pod.Worker, name string, attempt int, o api.LogOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	waited := make(chan struct{})
	defer func() { cancel(); <-waited }()
	go func() {
		defer close(waited)
		w.Await(ctx.Done(), func(p *corev1.Pod) bool { return pod.Ended(p, name, attempt) })
		close(ended)
	}()
	rc, err := a.open(ctx, w, name, attempt, o, ended)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer rc.Close()
	_, err = io.CopyBuffer(to, rc, make([]byte, 64<<10))
	return err
}

// follower is the reader's end of a log that is followed.
type follower struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

// Close ends the following.
func (f *follower) Close() error {
	f.cancel()
	err := f.PipeReader.Close()
	<-f.done
	return err
}

type eof struct{}

// Read implements io.Reader.
func (eof) Read([]byte) (int, error) { return 0, io.EOF }
