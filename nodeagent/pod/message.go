package pod

import (
	"context"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/nodeagent/logfile"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// As much of a log stands for the message of a container that left none.
const (
	longestTail = 2048 // bytes
	tailLines   = 80
)

// ended takes in the end of an instance, and what it said of that. It reports
// whether that was news.
func (w *Worker) ended(e runtime.Exit) bool {
	if !w.s.Exited(e.Container, e) {
		return false
	}
	for _, c := range w.s.Containers {
		if c.Current != nil && c.Current.ID == e.Container {
			w.hear(c)
		}
	}
	return true
}

// hear reads the last words of an instance that has ended. Functions have none:
// their watchdog tells how a call went.
func (w *Worker) hear(c *Container) {
	spec := find(w.s.Pod, c.Current.Name)
	if spec == nil || isFunction(w.s.Pod) || c.Current.Message != "" {
		return
	}
	said, err := w.c.Volumes.Said(w.s.Pod.UID, c.Current.Name, c.Current.Attempt)
	w.warn("termination message", err)
	if said == "" && spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError && c.Current.ExitCode != 0 {
		said = w.tail(c.Current)
	}
	it := *c.Current
	it.Message = strings.ToValidUTF8(said, "\uFFFD")
	c.Current = &it
}

// tail is the end of an instance's log.
func (w *Worker) tail(it *Instance) string {
	r, err := logfile.Read(context.Background(), LogPath(w.c.LogDir, w.s.Pod, it.Name, it.Attempt), logfile.Options{Tail: tailLines}) //nolint:forbidigo // a file that is there
	if err != nil {
		return ""
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	w.warn("end of the log", err)
	return string(b[max(0, len(b)-longestTail):])
}
