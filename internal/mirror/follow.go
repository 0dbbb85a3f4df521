package mirror

import (
	"context"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/pause"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// taker keeps what a follower is told.
type taker interface {
	// begin says that the present state comes, object by object.
	begin()
	// take is an object of that, or a change; the error ends the watch.
	take(t api.EventType, obj api.Object) error
	// complete says that the present state has come, as of a resourceVersion.
	complete(rv string)
	// passed says up to where there is nothing more to tell.
	passed(rv string)
}

// follower lists and watches. A watch that breaks is resumed; one that can't be
// resumed begins again.
type follower struct {
	objects  api.Objects
	resource *api.Resource
	o        Options
	to       taker
	rv       string // of the last that was taken; "" before all is there
}

// run follows until ctx is done.
func (f *follower) run(ctx context.Context) {
	wait := 10 * time.Millisecond
	for {
		before := f.rv
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if f.rv != before {
			wait = 10 * time.Millisecond
		}
		if err != nil {
			f.o.Log.Debug("watch ended", slog.String("resource", f.resource.String()), slog.Any("error", err))
		}
		if err != nil && before == f.rv && !passing(err) {
			f.rv = "" // it may be too old: begin again
		}
		if !pause.For(ctx, wait) {
			return
		}
		wait = min(wait*2, 2*time.Second)
	}
}

// passing says that an error tells nothing of the place in a watch: the server was not
// reached, is not ready yet, or has ended the watch as it ends itself. Thousands of
// nodes that list again whenever a server restarts would be its largest load.
func passing(err error) bool { return apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) }

func (f *follower) follow(ctx context.Context) error {
	w, err := f.objects.Watch(ctx, f.resource, api.WatchOptions{
		Namespace: f.o.Namespace, Labels: f.o.Labels, Fields: f.o.Fields, ResourceVersion: f.rv,
	})
	if err != nil {
		if apierrors.IsTimeout(err) {
			f.rv = "" // it lies in the future: of a store that was put back from a backup
		}
		return err
	}
	defer w.Stop()
	initial := f.rv == ""
	if initial {
		f.to.begin()
	}
	for e := range w.Events() {
		rv := e.Object.GetResourceVersion()
		switch {
		case e.Type != api.Bookmark:
			if err := f.to.take(e.Type, e.Object); err != nil {
				return err
			}
		case initial && e.InitialEventsEnd:
			initial = false
			f.to.complete(rv)
		case !initial:
			f.to.passed(rv)
		}
		if !initial {
			f.rv = rv
		}
	}
	return w.Err()
}
