package dialect

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// followRetry is the pause before a log or a watch that broke is opened again.
const followRetry = 500 * time.Millisecond

// followLogs writes lines as they come, of new replicas too, until the client
// leaves.
func (d *Dialect) followLogs(ctx context.Context, q logQuery, out *lineWriter, w http.ResponseWriter) error {
	t := &tailer{d: d, q: q, lines: make(chan line, 256), following: map[types.UID]*followed{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin(w)
	if err := out.flush(); err != nil {
		return nil
	}
	wg.Go(func() { t.watch(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-t.lines:
			if out.line(l) != nil {
				return nil
			}
			if len(t.lines) == 0 && out.flush() != nil {
				return nil
			}
		}
	}
}

// tailer follows all replicas of a function.
type tailer struct {
	d     *Dialect
	q     logQuery
	lines chan line

	wg        sync.WaitGroup
	mu        sync.Mutex
	following map[types.UID]*followed
}

// followed is one replica whose log is being read or was read to its end.
type followed struct {
	again bool // something changed about the pod meanwhile
}

// watch starts a reader for each replica, until ctx is done; it returns when
// all readers have.
func (t *tailer) watch(ctx context.Context) {
	defer t.wg.Wait()
	first := true
	for ctx.Err() == nil {
		w, err := t.d.c.Objects.Watch(ctx, api.Pods, api.WatchOptions{
			Namespace: t.q.namespace, Labels: labels.SelectorFromSet(labels.Set{api.LabelFunction: t.q.name}),
		})
		if err == nil {
			for e := range w.Events() {
				switch p, ok := e.Object.(*corev1.Pod); {
				case e.Type == api.Bookmark:
					first = first && !e.InitialEventsEnd
				case ok && e.Type != api.Deleted:
					t.see(ctx, p, first)
				}
			}
			w.Stop()
		}
		pause(ctx, followRetry)
	}
}

// see starts a reader for a pod that has a node and none yet. Of one that was
// there before the client came, the query says how much is shown.
func (t *tailer) see(ctx context.Context, p *corev1.Pod, old bool) {
	if p.Spec.NodeName == "" || t.q.instance != "" && t.q.instance != p.Name {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.following[p.UID]; f != nil {
		f.again = true
		return
	}
	f := &followed{}
	t.following[p.UID] = f
	q := t.q
	if !old {
		q.tail, q.since = -1, time.Time{}
	}
	t.wg.Go(func() { t.read(ctx, p, q, f) })
}

// read passes the lines of a replica on until it is gone.
func (t *tailer) read(ctx context.Context, p *corev1.Pod, q logQuery, f *followed) {
	for ctx.Err() == nil {
		last, err := t.readOnce(ctx, p, q)
		if !last.IsZero() {
			q.tail, q.since = -1, last.Add(1)
		}
		switch {
		case err == nil:
			return // its end
		case apierrors.IsNotFound(err):
			if t.forget(p.UID, f) {
				return
			}
		default:
			t.d.c.Log.Debug("log stream broke", slog.String("pod", p.Name), slog.Any("error", err))
		}
		pause(ctx, followRetry)
	}
}

// forget has the pod's next change start a reader again; it is false when that
// change has come already.
func (t *tailer) forget(pod types.UID, f *followed) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.again {
		f.again = false
		return false
	}
	delete(t.following, pod)
	return true
}

func (t *tailer) readOnce(ctx context.Context, p *corev1.Pod, q logQuery) (last time.Time, err error) {
	r, err := t.d.openLogs(ctx, p, q)
	if err != nil {
		return last, err
	}
	defer r.rc.Close()
	defer context.AfterFunc(ctx, func() { r.rc.Close() })() // a read may hang
	for {
		l, err := r.next()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		last = l.at
		select {
		case t.lines <- l:
		case <-ctx.Done():
			return last, ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
